//! Accepts connections, encrypted or not. Each has time limits for its handshake, for its requests' heads and for the progress of its answers, and there is a limit on
//! their number.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

/// Time for a handshake, and for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time in which a client must take some bytes of an answer.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// Wait after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "it removes the file when it is dropped")] SocketFile),
}

/// Removes the file of a unix socket.
pub(crate) struct SocketFile(pub(crate) PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Closes a connection, whatever it waits for. Requests have it among their extensions.
#[derive(Clone, Default)]
pub(crate) struct HangUp(Arc<Notify>);

impl HangUp {
    pub(crate) fn now(&self) {
        self.0.notify_one();
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Tokens go out one by one.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Listener::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Accepts connections until `stop` ends. Returns those that are open.
pub(crate) async fn listen(
    (listener, tls): (Listener, Option<TlsAcceptor>),
    router: Router,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (stream, permit) = tokio::select! {
            () = &mut stop => break,
            (stream, permit) = accepted => (stream, permit),
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let hang_up = HangUp::default();
        let service = TowerToHyperService::new(router.clone().layer(Extension(hang_up.clone())));
        let (builder, tls, watcher) = (builder.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let stream = match shake_hands(stream, tls).await {
                Ok(stream) => stream,
                Err(reason) => return tracing::debug!("handshake: {reason}"),
            };
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIME));
            let connection = watcher.watch(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
            tokio::select! {
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!("connection: {error}");
                    }
                }
                () = hang_up.0.notified() => tracing::debug!("connection: closed by the server"),
            }
        });
    }
    graceful
}

/// The connection with its encryption, if there is one.
async fn shake_hands(
    stream: Box<dyn Connection>,
    tls: Option<TlsAcceptor>,
) -> std::result::Result<Box<dyn Connection>, String> {
    let Some(tls) = tls else { return Ok(stream) };
    match tokio::time::timeout(HEAD_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not done within {} seconds", HEAD_TIME.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_request_can_close_its_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().fallback(async |Extension(hang_up): Extension<HangUp>| {
                hang_up.now();
                std::future::pending::<()>().await;
            });
            let client = tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map(|_| bytes)
            });
            let closed = async { drop(client.await.unwrap().unwrap()) };
            listen((Listener::Tcp(listener), None), router, closed).await;
        });
    }
}
