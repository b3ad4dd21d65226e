//! An HTTP server for one plan, with the APIs of OpenAI, Anthropic and Ollama. Many clients share one engine; the tokens of an answer do not depend on the
//! others.
//!
//! ```text
//! sockets ─► HTTP (one thread, tokio) ─► encode (blocking threads) ─► admission ─► commands ─► step thread: Engine and Batch
//!                    ▲                                                                               │
//!                    └──────────────── events, one message a step ◄──────────────────────────────────┘
//! ```
//!
//! - `listen` accepts connections and limits them; `app` has the routes.
//! - `tls` encrypts them; `rates` limits what each key may use.
//! - `admission` refuses what would wait too long, without asking the step thread.
//! - `prepare` encodes prompts; `answer` is a request in progress; `steps` is the step thread.
//! - `sandbox` gives up the rights that an open plan does not need.
//! - `conversation` is a chat in progress, whatever the API; `tools` are the functions that it may call.
//! - `openai`, `anthropic` and `ollama` speak the APIs of these names; `openapi` is their OpenAPI document.
//! - `local` reads requests for programs that run the engine themselves.
//! - `kv_events` publishes what the prefix cache holds, for routers; `publish` is the ZeroMQ socket.
//! - `states` keeps named states; `page` is a page to try the model.

mod admission;
mod answer;
mod anthropic;
mod app;
mod auth;
mod body;
mod conversation;
mod error;
mod kv_events;
mod listen;
mod local;
mod metrics;
mod model;
mod ollama;
mod openai;
mod openapi;
mod page;
mod prepare;
mod publish;
mod rates;
mod sampling;
mod sandbox;
mod states;
mod steps;
mod stream;
mod text;
mod tls;
mod tools;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use jamba_plan::format::KV_PAGE_TOKENS;
use jamba_runtime::{BatchOptions, Engine, PrefixCache, RuntimeError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

pub use auth::Keys;
pub use kv_events::KvEvents;
pub use local::{LocalRequest, LocalRequests, RequestError};
pub use rates::{Clock, Rules};
pub use sandbox::{Reach, Sandbox};
pub use tls::{Tls, TlsStream, connect};

use crate::admission::Admission;
use crate::answer::Slots;
use crate::app::{App, State};
use crate::error::ApiError;
use crate::kv_events::{Changes, Follower};
use crate::listen::{Listener, SocketFile};
use crate::metrics::{Metrics, Pools};
use crate::model::Model;
use crate::openai::responses::Responses;
use crate::publish::Publisher;
use crate::rates::Rates;
use crate::sandbox::{Backend, Confinement};
use crate::states::Store;
use crate::steps::{Load, Steps};

/// Name of the threads that handle requests. A panic there ends one request, not the server.
pub const THREAD: &str = "jamba-http";

/// Commands that wait between two steps.
const COMMANDS: usize = 1024;
/// Time for answers to be told that the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bodies of the largest size that the server holds at a time.
const LARGE_BODIES: usize = 4;
/// Bytes of JSON around a prompt, and of escapes in it.
const BODY_OVERHEAD: usize = 1 << 20;

/// The reason why the server stopped or did not start.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be used.
    Address {
        /// The address as given.
        address: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A file of keys cannot be used.
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of a certificate or its key cannot be used.
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The kernel lacks a part of the sandbox.
    Sandbox(String),
    /// The folder of states cannot be used.
    States {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A thread or a runtime cannot be started.
    System(io::Error),
    /// The engine failed.
    Engine(RuntimeError),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServeError::Address { address, source } => {
                let advice = match source.kind() {
                    io::ErrorKind::AddrInUse => ": another program listens there; choose another one with --port",
                    io::ErrorKind::PermissionDenied => ": ports below 1024 need rights; choose another one with --port",
                    _ => "",
                };
                write!(f, "cannot listen on {address}: {source}{advice}")
            }
            ServeError::Keys { path, reason } | ServeError::Tls { path, reason } => {
                write!(f, "{}: {reason}", path.display())
            }
            ServeError::Sandbox(reason) => {
                write!(f, "cannot confine the server: {reason}: --sandbox auto goes on without")
            }
            ServeError::States { path, source } => {
                write!(f, "{}: cannot keep states there: {source}; --states names another folder", path.display())
            }
            ServeError::System(source) => write!(f, "cannot start the server: {source}"),
            ServeError::Engine(source) => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<RuntimeError> for ServeError {
    fn from(error: RuntimeError) -> ServeError {
        ServeError::Engine(error)
    }
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host and a port; port 0 takes a free one.
    Tcp(String, u16),
    /// The path of a unix socket, which must not exist.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = String;

    /// Parses `127.0.0.1:9090` and `[::1]:9090`.
    fn from_str(text: &str) -> Result<Address, String> {
        let expected = || format!("found {text:?}, expected HOST:PORT, such as 127.0.0.1:9090");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match port.parse() {
            Ok(port) if !host.is_empty() => Ok(Address::Tcp(host.to_owned(), port)),
            _ => Err(expected()),
        }
    }
}

impl Address {
    /// Parses `127.0.0.1:5557`, and `tcp://*:5557` as ZeroMQ writes it.
    ///
    /// # Errors
    /// Fails with a sentence if the text is neither.
    pub fn of_zeromq(text: &str) -> Result<Address, String> {
        match text.strip_prefix("tcp://").unwrap_or(text).parse()? {
            Address::Tcp(host, port) if host == "*" => Ok(Address::Tcp("0.0.0.0".to_owned(), port)),
            address => Ok(address),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Options of the server.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Names of the model besides its own.
    pub aliases: Vec<String>,
    /// Requests may name any model.
    pub any_model: bool,
    /// Keys that requests need; none by default.
    pub keys: Keys,
    /// Rules of the keys that have none of their own; without keys, of all clients together.
    pub rules: Rules,
    /// The time that limits go by.
    pub clock: Clock,
    /// The certificate, if connections are encrypted. A socket for metrics is not.
    pub tls: Option<Tls>,
    /// Origins of web pages that may use the server, such as `https://example.org`.
    pub cors_origins: Vec<String>,
    /// Accepts requests that name any host. Otherwise, requests name loopback: a web page could be rebound to it.
    pub any_host: bool,
    /// Answers that may wait besides those that run.
    pub queue: usize,
    /// Prompt tokens of all answers that run or wait.
    pub queue_tokens: usize,
    /// Longest time of a request.
    pub timeout: Option<Duration>,
    /// Time between the signal to stop and closing the socket, for load balancers that look at `/ready`.
    pub drain_delay: Duration,
    /// Time for answers to end after that.
    pub drain: Duration,
    /// Memory of the prefix cache in bytes; 0 turns it off.
    pub cache_bytes: u64,
    /// Tokens between the states of one prompt in the prefix cache; see [`PrefixCache::with_interval`].
    pub cache_interval: usize,
    /// Where events of the prefix cache are published; nowhere by default.
    pub kv_events: Option<KvEvents>,
    /// Requests with different keys share the prefix cache. The time of an answer then tells what other keys have sent.
    pub shares_cache: bool,
    /// Where `/metrics`, `/slots` and `/health` are served without a key, besides the address of the server.
    pub metrics: Option<Address>,
    /// Folder for named states, one file each; without one they are kept in memory.
    pub states: Option<PathBuf>,
    /// Bytes of all named states; 0 refuses them.
    pub states_bytes: u64,
    /// Bytes of responses that are kept in memory for requests that go on from them; 0 keeps none.
    pub responses_bytes: u64,
    /// Time that a step should take at most; see [`BatchOptions::step_target`].
    pub step_target: Option<Duration>,
    /// What the server gives up once the plan is open; nothing by default.
    pub sandbox: Sandbox,
    /// Most bytes of a body; 0 follows from the plan's context.
    pub max_body_bytes: usize,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            aliases: Vec::new(),
            any_model: false,
            keys: Keys::default(),
            rules: Rules::default(),
            clock: Clock::default(),
            tls: None,
            cors_origins: Vec::new(),
            any_host: false,
            queue: 64,
            queue_tokens: 1 << 20,
            timeout: Some(Duration::from_secs(600)),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
            cache_bytes: 1 << 30,
            cache_interval: PrefixCache::INTERVAL,
            kv_events: None,
            shares_cache: false,
            metrics: None,
            states: None,
            states_bytes: 1 << 30,
            responses_bytes: 64 << 20,
            step_target: Some(Duration::from_millis(120)),
            sandbox: Sandbox::default(),
            max_body_bytes: 0,
        }
    }
}

/// Stops a server from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// A handle for one server.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// The server accepts nothing any more, ends what runs, and returns.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// The routes, once the plan is open.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
enum GateState {
    #[default]
    Loading,
    Open(State, Routers),
    Closed,
}

/// The routes of each socket.
struct Routers {
    api: Router,
    metrics: Router,
}

/// The socket that received a request.
#[derive(Clone, Copy)]
enum Socket {
    Api,
    Metrics,
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the server has stopped meanwhile.
    fn open(&self, app: State) -> bool {
        let routers = Routers { api: app::router(Arc::clone(&app)), metrics: app::metrics_router(Arc::clone(&app)) };
        let mut state = self.lock();
        let is_loading = matches!(*state, GateState::Loading);
        if is_loading {
            *state = GateState::Open(app, routers);
        }
        is_loading
    }

    /// Drops the routes, and with them the way to the step thread.
    fn close(&self) {
        *self.lock() = GateState::Closed;
    }

    fn with_app(&self, act: impl FnOnce(&App)) {
        if let GateState::Open(app, _) = &*self.lock() {
            act(app);
        }
    }

    /// The routes of a socket.
    fn router(&self, socket: Socket) -> Router {
        let gate = self.clone();
        Router::new().fallback(move |request| gate.clone().answer(request, socket))
    }

    async fn answer(self, request: Request, socket: Socket) -> Response {
        let router = match (&*self.lock(), socket) {
            (GateState::Open(_, routers), Socket::Api) => Some(routers.api.clone()),
            (GateState::Open(_, routers), Socket::Metrics) => Some(routers.metrics.clone()),
            (GateState::Loading | GateState::Closed, _) => None,
        };
        match router {
            Some(router) => router.oneshot(request).await.into_response(),
            None => ApiError::busy("loading", "the plan is being opened", 1).into_response(),
        }
    }
}

/// Listens on `address`, opens the plan with `open`, tells `ready` the address, and serves until `stop`. Requests that come before
/// the plan is open are refused with status 503. The calling thread runs the engine.
///
/// # Errors
/// Fails if the address cannot be used, if `open` or `ready` fails, or after an internal error of the engine.
pub fn serve<E: From<ServeError>>(
    address: &Address,
    options: ServeOptions,
    open: impl FnOnce() -> Result<Engine, E>,
    ready: impl FnOnce(&str, &Engine) -> Result<(), E>,
    stop: &Stop,
) -> Result<(), E> {
    let system = |error| E::from(ServeError::System(error));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(THREAD)
        .max_blocking_threads(n_cores() + 1)
        .build()
        .map_err(system)?;
    let tls = options.tls.as_ref().map(Tls::acceptor);
    let (listener, name) = runtime.block_on(bind(address, tls.is_some()))?;
    let metrics = match &options.metrics {
        Some(address) => {
            let (listener, name) = runtime.block_on(bind(address, false))?;
            tracing::info!("metrics at {name}");
            Some(listener)
        }
        None => None,
    };
    let publisher = match &options.kv_events {
        Some(events) => {
            let publisher = runtime.block_on(Publisher::bind(&events.address))?;
            let address = publisher.local_address().map_err(system)?;
            tracing::info!("events of the prefix cache at tcp://{address}");
            Some(publisher)
        }
        None => None,
    };
    let mut sandbox = options.sandbox.clone();
    if let Some(folder) = &options.states {
        Store::make(folder)?;
        sandbox.folders.push(folder.clone());
    }
    let confinement = Confinement::new(sandbox, address);
    let (gate, failed) = (Gate::default(), Arc::new(Notify::new()));
    let (told, events) = mpsc::unbounded_channel();
    let (follows, changes) = mpsc::unbounded_channel();
    let (confined, wait) = std::sync::mpsc::channel();
    let http = {
        let (gate, stop, failed) = (gate.clone(), stop.clone(), Arc::clone(&failed));
        let (delay, drain, confinement) = (options.drain_delay, options.drain, confinement.clone());
        let work = move || {
            let is_confined = confinement.confine_http();
            let may_serve = is_confined.is_ok();
            let _ = confined.send(is_confined); // the caller waits
            if !may_serve {
                return;
            }
            runtime.spawn(steps::dispatch(events));
            if let Some(publisher) = publisher {
                runtime.spawn(kv_events::publish(publisher, changes));
            }
            if let Some(listener) = metrics {
                // It answers as long as the runtime lives.
                runtime.spawn(listen::listen((listener, None), gate.router(Socket::Metrics), std::future::pending()));
            }
            runtime.block_on(http((listener, tls), &gate, stop, failed, delay, drain));
            // Threads that still encode a prompt are not waited for.
            runtime.shutdown_background();
            gate.close();
        };
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(work).map_err(system)?
    };
    if let Ok(Err(error)) = wait.recv() {
        return Err(error.into());
    }
    let result = run_engine((options, confinement), open, (&name, ready), (told, follows), &gate);
    failed.notify_one();
    let _ = http.join(); // a panic there was reported
    result
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Opens the plan and runs the steps until the server stops.
fn run_engine<E: From<ServeError>>(
    (mut options, confinement): (ServeOptions, Confinement),
    open: impl FnOnce() -> Result<Engine, E>,
    (name, ready): (&str, impl FnOnce(&str, &Engine) -> Result<(), E>),
    (told, follows): (mpsc::UnboundedSender<steps::Told>, mpsc::UnboundedSender<Changes>),
    gate: &Gate,
) -> Result<(), E> {
    let failed = |error: RuntimeError| E::from(ServeError::Engine(error));
    let engine = open()?;
    confinement.confine_steps(Backend::of(&engine))?;
    let model = Model::new(&engine, options.aliases.clone(), options.any_model).map_err(failed)?;
    if options.max_body_bytes == 0 {
        options.max_body_bytes = 2 * model.max_prompt_bytes() + BODY_OVERHEAD;
    }
    let limits = &engine.manifest().limits;
    let has_pages = engine.memory().kv_page > 0;
    let pools = Pools {
        slots: limits.max_sequences,
        pages: if has_pages { limits.kv_tokens / KV_PAGE_TOKENS } else { 0 },
        page_tokens: KV_PAGE_TOKENS,
    };
    let states = Store::open(options.states.clone(), options.states_bytes, engine.state_format())?;
    let load = Arc::new(Load::default());
    let (commands, receiver) = std::sync::mpsc::sync_channel(COMMANDS);
    let batch = BatchOptions { step_target: options.step_target, ..BatchOptions::default() };
    let cache = PrefixCache::new(options.cache_bytes).with_interval(options.cache_interval);
    let follower = options.kv_events.as_ref().map(|events| Follower::new(events, name, &model.names[0], follows));
    let cache = if follower.is_some() { cache.with_journal() } else { cache };
    let cache = (options.cache_bytes > 0).then_some(cache);
    let steps = Steps::new(engine, batch, (cache, follower), told, Arc::clone(&load)).map_err(failed)?;
    let app = Arc::new(App {
        admission: Admission::new(model.max_sequences.saturating_add(options.queue), options.queue_tokens),
        metrics: Metrics::new(Arc::clone(&load), pools),
        slots: Slots::default(),
        states,
        responses: Responses::new(options.responses_bytes),
        rates: Rates::new(&options.clock, &options.keys, options.rules),
        prepare: Arc::new(Semaphore::new(n_cores())),
        bodies: Arc::new(Semaphore::new(LARGE_BODIES * options.max_body_bytes.div_ceil(body::ROOM_UNIT))),
        options,
        model,
        commands,
        load,
    });
    if !gate.open(app) {
        return Ok(());
    }
    ready(name, steps.engine())?;
    steps.run(&receiver).map_err(failed)
}

async fn bind(address: &Address, is_encrypted: bool) -> Result<(Listener, String), ServeError> {
    let name = address.to_string();
    let failed = |source| ServeError::Address { address: name.clone(), source };
    match address {
        Address::Tcp(host, port) => {
            let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            let scheme = if is_encrypted { "https" } else { "http" };
            Ok((Listener::Tcp(listener), format!("{scheme}://{address}")))
        }
        Address::Unix(path) => {
            let listener = UnixListener::bind(path).map_err(failed)?;
            Ok((Listener::Unix(listener, SocketFile(path.clone())), format!("unix:{name}")))
        }
    }
}

/// Answers requests until `stop`, or until the engine has failed; then ends what runs.
async fn http(
    listener: (Listener, Option<TlsAcceptor>),
    gate: &Gate,
    stop: Stop,
    failed: Arc<Notify>,
    delay: Duration,
    drain: Duration,
) {
    let stopping = async {
        tokio::select! {
            () = stop.0.notified() => {
                gate.with_app(|app| app.admission.drain());
                tokio::time::sleep(delay).await;
            }
            () = failed.notified() => {}
        }
    };
    let connections = listen::listen(listener, gate.router(Socket::Api), stopping).await;
    let mut connections = std::pin::pin!(connections.shutdown());
    if tokio::time::timeout(drain, &mut connections).await.is_err() {
        gate.with_app(|app| app.slots.cancel_all());
        let _ = tokio::time::timeout(LAST_WORDS, connections).await;
    }
}
