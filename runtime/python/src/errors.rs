//! Errors of the runtime as exceptions.

use jamba_runtime::{ErrorClass, RuntimeError};
use jamba_serve::RequestError;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    jambac_runtime,
    EngineError,
    PyRuntimeError,
    "The engine cannot do what was asked: no room now, no such device, a fault, or a plan that was closed."
);

/// `ValueError` for wrong arguments, plans and prompts; `OSError` for files; `MemoryError`; else `EngineError`.
pub(crate) fn exception(error: &RuntimeError) -> PyErr {
    let text = error.to_string();
    match error {
        RuntimeError::Io { path, source, .. } => {
            PyOSError::new_err((source.raw_os_error(), text, path.as_os_str().to_owned()))
        }
        RuntimeError::Memory { .. } => PyMemoryError::new_err(text),
        RuntimeError::Forked { .. } => EngineError::new_err(text),
        error => match error.class() {
            ErrorClass::Caller | ErrorClass::TooLong => PyValueError::new_err(text),
            ErrorClass::Busy
            | ErrorClass::Cancelled
            | ErrorClass::Machine
            | ErrorClass::Ours
            | ErrorClass::DeviceGone => EngineError::new_err(text),
        },
    }
}

pub(crate) fn wrong(error: RequestError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A plan that was closed, or whose thread has ended.
pub(crate) fn closed() -> PyErr {
    EngineError::new_err("the model is closed: open the plan again")
}
