//! The HTTP server: `python -m jambac_runtime serve`.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use jamba_runtime::RuntimeError;
use jamba_serve::{Address, Keys, KvEvents, Reach, Sandbox, ServeError, ServeOptions, Stop};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::errors::exception;
use crate::model::{Options, read};
use crate::worker::receive_while;

/// What is logged.
const LOGGED: &str = "info,jamba_runtime=warn";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    host: String,
    port: u16,
    unix_socket: Option<PathBuf>,
    api_keys: Option<PathBuf>,
    aliases: Vec<String>,
    any_model: bool,
    any_host: bool,
    cors_origins: Vec<String>,
    queue: usize,
    cache_bytes: u64,
    cache_interval: usize,
    kv_events: Option<String>,
    kv_events_topic: Option<String>,
    states: Option<PathBuf>,
    step_target_ms: u64,
    timeout: u64,
    drain: u64,
    sandbox: String,
}

/// Why the server did not start, or ended.
enum Failure {
    Serve(ServeError),
    Python(PyErr),
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        Failure::Serve(error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        Failure::Serve(ServeError::Engine(error))
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Serve(ServeError::Engine(error)) => exception(&error),
            Failure::Serve(error) => PyOSError::new_err(error.to_string()),
            Failure::Python(error) => error,
        }
    }
}

impl Arguments {
    fn options(&self) -> Result<ServeOptions, Failure> {
        let seconds = |n: u64| Duration::from_secs(n);
        let reach = if self.sandbox == "off" { Reach::Nothing } else { Reach::Process };
        Ok(ServeOptions {
            aliases: self.aliases.clone(),
            any_model: self.any_model,
            keys: self.api_keys.as_deref().map(Keys::read).transpose()?.unwrap_or_default(),
            cors_origins: self.cors_origins.clone(),
            any_host: self.any_host,
            queue: self.queue,
            timeout: (self.timeout > 0).then(|| seconds(self.timeout)),
            drain: seconds(self.drain),
            cache_bytes: self.cache_bytes,
            cache_interval: self.cache_interval,
            kv_events: self.kv_events()?,
            states: self.states.clone(),
            step_target: (self.step_target_ms > 0).then(|| Duration::from_millis(self.step_target_ms)),
            sandbox: Sandbox { reach, is_required: self.sandbox == "on", ..Sandbox::default() },
            ..ServeOptions::default()
        })
    }

    fn kv_events(&self) -> Result<Option<KvEvents>, Failure> {
        let Some(text) = &self.kv_events else { return Ok(None) };
        let address = Address::of_zeromq(text)
            .map_err(|error| Failure::Python(PyValueError::new_err(format!("--kv-events: {error}"))))?;
        Ok(Some(KvEvents { address, topic: self.kv_events_topic.clone() }))
    }

    fn address(&self) -> Address {
        match &self.unix_socket {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp(self.host.clone(), self.port),
        }
    }
}

/// Serves a plan until `stopping` is true, which is asked every few milliseconds. `ready` is called with the address.
#[pyfunction]
pub(crate) fn serve(
    py: Python<'_>,
    plan: PathBuf,
    open: &str,
    arguments: &str,
    ready: Py<PyAny>,
    stopping: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let arguments: Arguments = read(arguments)?;
    let open = read::<Options>(open)?.open(plan)?;
    let (options, address) = (arguments.options()?, arguments.address());
    let filter = std::env::var("JAMBA_LOG").unwrap_or_else(|_| LOGGED.to_owned());
    let filter = EnvFilter::try_new(filter).map_err(|error| PyValueError::new_err(format!("JAMBA_LOG: {error}")))?;
    // A program that has a subscriber of its own keeps it.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
    let stop = Stop::new();
    let (told, wait) = channel();
    let stopper = stop.clone();
    let work = move || {
        let tell = |name: &str, engine: &jamba_runtime::Engine| {
            let limits = &engine.manifest().limits;
            let facts = (name, &engine.manifest().model.name, limits.max_sequences, limits.max_context);
            Python::attach(|py| ready.call1(py, facts)).map(drop).map_err(Failure::Python)
        };
        let served = jamba_serve::serve(&address, options, || open().map_err(Failure::from), tell, &stopper);
        let _ = told.send(served);
    };
    let thread = std::thread::Builder::new().name("jamba-steps".to_owned()).spawn(work)?;
    let served = receive_while(py, wait, || {
        if stopping.call0()?.is_truthy()? {
            stop.stop();
        }
        Ok(())
    })?;
    let _ = py.detach(|| thread.join()); // a panic there was reported
    Ok(served?)
}
