//! Status codes and error messages.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use jamba_runtime::RuntimeError;

/// The result of a call. jamba_last_error returns the message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum jamba_status {
    /// Success.
    JAMBA_OK = 0,
    /// An argument is null, not UTF-8, or outside its range.
    JAMBA_INVALID_ARGUMENT = 1,
    /// The handle was closed, belongs to another object, or never existed.
    JAMBA_INVALID_HANDLE = 2,
    /// Another call on the same handle is in progress, in another thread or around the current callback.
    JAMBA_BUSY = 3,
    /// A file operation failed.
    JAMBA_IO = 4,
    /// The plan or the saved state is damaged, has another format, or belongs to another plan.
    JAMBA_BAD_PLAN = 5,
    /// Not supported by this machine, this plan or this build of the library.
    JAMBA_UNSUPPORTED = 6,
    /// Out of memory or threads.
    JAMBA_NO_MEMORY = 7,
    /// The context, a pool or the queue of a batch is full. Nothing changed; remove a sequence, or run steps of the batch, and
    /// retry.
    JAMBA_NO_ROOM = 8,
    /// jamba_cancel was called.
    JAMBA_CANCELLED = 9,
    /// The buffer is too small. The needed length was stored.
    JAMBA_TOO_SMALL = 10,
    /// An internal error; please report it. The engine can only be closed.
    JAMBA_INTERNAL = 11,
    /// The GPU is lost. The engine can only be closed.
    JAMBA_DEVICE_LOST = 12,
}

/// The error of a call.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: jamba_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: jamba_status, message: impl ToString) -> Failure {
        Failure { status, message: message.to_string() }
    }

    pub(crate) fn argument(message: impl ToString) -> Failure {
        Failure::new(jamba_status::JAMBA_INVALID_ARGUMENT, message)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        use jamba_status::*;
        if let RuntimeError::Cancelled = error {
            return Failure::new(JAMBA_CANCELLED, "jamba_cancel was called");
        }
        let status = match &error {
            _ if error.is_ours() => JAMBA_INTERNAL,
            RuntimeError::Io { .. } | RuntimeError::Output(_) => JAMBA_IO,
            RuntimeError::Plan { .. } | RuntimeError::OtherPlan { .. } => JAMBA_BAD_PLAN,
            RuntimeError::DigestRequired { .. } | RuntimeError::Signature { .. } => JAMBA_BAD_PLAN,
            RuntimeError::Exposed { .. } => JAMBA_BAD_PLAN,
            RuntimeError::StateFile { .. } | RuntimeError::StateBytes { .. } => JAMBA_BAD_PLAN,
            RuntimeError::Tokenizer { .. } | RuntimeError::NotFinite { .. } => JAMBA_BAD_PLAN,
            RuntimeError::NoCodeForCpu { .. } | RuntimeError::NoSuchTarget { .. } => JAMBA_UNSUPPORTED,
            RuntimeError::CpuLacks { .. } | RuntimeError::NoSection(_) => JAMBA_UNSUPPORTED,
            RuntimeError::CodeNotLoaded { .. } | RuntimeError::Forked { .. } => JAMBA_UNSUPPORTED,
            RuntimeError::NoCodeForDevice { .. } | RuntimeError::NoDriver { .. } => JAMBA_UNSUPPORTED,
            RuntimeError::NoSuchDevice { .. } | RuntimeError::WrongCapability { .. } => JAMBA_UNSUPPORTED,
            RuntimeError::DriverTooOld { .. } => JAMBA_UNSUPPORTED,
            RuntimeError::DeviceLost { .. } => JAMBA_DEVICE_LOST,
            RuntimeError::DeviceMemory { .. } => JAMBA_NO_MEMORY,
            RuntimeError::Memory { .. } | RuntimeError::Thread { .. } => JAMBA_NO_MEMORY,
            RuntimeError::ContextFull { .. } | RuntimeError::PoolExhausted { .. } => JAMBA_NO_ROOM,
            RuntimeError::PoolTooSmall { .. } | RuntimeError::QueueFull { .. } => JAMBA_NO_ROOM,
            _ => JAMBA_INVALID_ARGUMENT,
        };
        Failure::new(status, error)
    }
}

thread_local! {
    /// The last error message of this thread.
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs an entry point. Converts errors and panics to a status and this thread's message.
pub(crate) fn entry(work: impl FnOnce() -> Result<(), Failure>) -> jamba_status {
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return jamba_status::JAMBA_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            Failure::new(jamba_status::JAMBA_INTERNAL, format!("libjamba panicked: {}", text.unwrap_or("no message")))
        }
    };
    let message = failure.message.replace('\0', "?");
    LAST.with(|last| *last.borrow_mut() = CString::new(message).unwrap_or_default());
    failure.status
}

/// The message of the last failed call on this thread; empty if there was none. Valid until the next failed call.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The version of the library: "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn jamba_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last() -> String {
        // SAFETY: a zero-terminated string of this thread, which no call changes meanwhile.
        unsafe { CStr::from_ptr(jamba_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn panics_stop_at_the_border_and_messages_belong_to_threads() {
        assert_eq!(entry(|| panic!("on purpose, {}", 1)), jamba_status::JAMBA_INTERNAL);
        assert_eq!(last(), "libjamba panicked: on purpose, 1");
        assert_eq!(std::thread::spawn(last).join().unwrap(), "");
        assert_eq!(entry(|| Err(Failure::argument("a\0b"))), jamba_status::JAMBA_INVALID_ARGUMENT);
        assert_eq!((entry(|| Ok(())), last()), (jamba_status::JAMBA_OK, "a?b".to_owned()));
    }
}
