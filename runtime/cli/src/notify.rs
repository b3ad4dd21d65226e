//! Tells the service manager that started the program how it is, as sd_notify(3) does: one datagram to the socket of `NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket of the service manager, if there is one. It is made before the server gives up sockets.
pub(crate) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects to the socket that the environment names.
    pub(crate) fn of_environment() -> Manager {
        Manager(std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name)))
    }

    /// Sends a state such as `READY=1`. A manager that is gone is none of the server's concern.
    pub(crate) fn tell(&self, state: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(state.as_bytes());
        }
    }
}

/// `@NAME` is an abstract socket, anything else a path.
fn connect(name: &OsStr) -> Option<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(name).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address).ok()?;
    Some(socket)
}
