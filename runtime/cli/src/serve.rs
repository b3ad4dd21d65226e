//! `jamba serve`: an HTTP server with the APIs of OpenAI, Anthropic and Ollama.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jamba_program::say;
use jamba_runtime::{Engine, PrefixCache};
use jamba_serve::{Address, Clock, Keys, KvEvents, Reach, Rules, Sandbox, ServeError, ServeOptions, Stop, Tls};

use crate::failure::{Failure, print};
use crate::interrupt;
use crate::notify::Manager;
use crate::open::{OpenArgs, PlanArg};

/// Arguments of `jamba serve`.
#[derive(clap::Args)]
#[command(after_help = ROUTES)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// Address to listen on. Other addresses than loopback need --api-keys, or --insecure
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Listen on a unix socket instead
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix_socket: Option<PathBuf>,
    /// File with the BLAKE3 digests of API keys, one a line; requests need one of the keys. Behind a digest may stand
    /// requests-per-minute=N, tokens-per-minute=N and allow-priority
    #[arg(long, value_name = "FILE")]
    api_keys: Option<PathBuf>,
    /// Requests of a minute, for each key; without keys, for all clients together. A key's own line may name another limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// Tokens of a minute, of prompts and answers, for each key
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens_per_minute: Option<u32>,
    /// Let requests have a priority above the normal one (below 0). A key's own line may allow it too
    #[arg(long)]
    allow_priority: bool,
    /// Speak TLS, with the certificate in this PEM file: the server's own first, then those of its authorities
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "unix_socket")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, in PEM without a password
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print the digest of the key on standard input, for --api-keys
    #[arg(long)]
    digest_key: bool,
    /// Serve everybody on an address that is not loopback
    #[arg(long)]
    insecure: bool,
    /// Another name of the model in requests. Repeatable
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Accept requests for any model
    #[arg(long)]
    any_model: bool,
    /// Origin of web pages that may use the server, such as `https://example.org`. Repeatable
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Answers that may wait besides those that run; more are refused
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Prompt tokens of all answers that run or wait; more are refused
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    queue_tokens: usize,
    /// Memory of the prefix cache, in MiB; 0 turns it off
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    cache_mib: u64,
    /// Tokens between the states of one prompt in the prefix cache: the size of the blocks that --kv-events tells
    #[arg(long, value_name = "N", default_value_t = PrefixCache::INTERVAL)]
    cache_interval: usize,
    /// Publish what enters and leaves the prefix cache on a ZeroMQ socket, as vLLM does, for routers such as llm-d's. Events
    /// contain the tokens of prompts: take an address that only routers reach
    #[arg(long, value_name = "HOST:PORT", value_parser = Address::of_zeromq)]
    kv_events: Option<Address>,
    /// First frame of these events; by default kv@HOST:PORT@MODEL with the server's own address
    #[arg(long, value_name = "TOPIC", requires = "kv_events")]
    kv_events_topic: Option<String>,
    /// Let requests with different keys share the prefix cache: the time of an answer tells what others have sent
    #[arg(long, requires = "api_keys")]
    share_cache: bool,
    /// Serve /metrics, /slots, /health and /ready here too, without a key: for an address that only monitoring reaches
    #[arg(long, value_name = "HOST:PORT", value_parser = str::parse::<Address>)]
    metrics_listen: Option<Address>,
    /// Keep named states as files in this folder, which outlive the server. Without it they are in memory
    #[arg(long, value_name = "DIR")]
    states: Option<PathBuf>,
    /// Size of all named states, in MiB; 0 refuses them
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    states_mib: u64,
    /// Memory for responses of /v1/responses that later requests go on from, in MiB; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    responses_mib: u64,
    /// Longest time between two tokens of an answer, in milliseconds: prompts are read in parts that keep to it. 0 is no limit
    #[arg(long, value_name = "MS", default_value_t = 120)]
    itl_target: u64,
    /// Longest time of a request, in seconds; 0 is no limit
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,
    /// Time for answers to end after SIGTERM, in seconds
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain: u64,
    /// Time between SIGTERM and closing the socket, in seconds, for load balancers that ask GET /ready
    #[arg(long, value_name = "S", default_value_t = 0)]
    drain_delay: u64,
    /// Give up files, programs and new sockets once the plan is open, with Landlock and seccomp: `auto` warns of what the kernel
    /// lacks, `on` does not start then. On a GPU, NVIDIA's driver keeps its files
    #[arg(long, value_name = "MODE", default_value = "auto")]
    sandbox: Confine,
    #[command(flatten)]
    open: OpenArgs,
}

/// Values of `--sandbox`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Confine {
    Auto,
    On,
    Off,
}

impl Confine {
    fn sandbox(self) -> Sandbox {
        let reach = if self == Confine::Off { Reach::Nothing } else { Reach::Process };
        Sandbox { reach, is_required: self == Confine::On, ..Sandbox::default() }
    }
}

/// What is logged: requests, and warnings of the runtime.
pub(crate) const LOGGED: &str = "info,jamba_runtime=warn";

/// A key is a line in a header of a request.
const MOST_KEY_BYTES: u64 = 4096;

const ROUTES: &str = "\
  POST /v1/chat/completions, /v1/completions    as OpenAI's; streams, tools, JSON schemas, log probabilities
  POST /v1/responses, GET and DELETE /v1/responses/ID   as OpenAI's; the last responses are kept in memory
  POST /v1/states, GET and DELETE /v1/states/NAME   states of prompts that requests go on from
  POST /v1/messages, /v1/messages/count_tokens  as Anthropic's
  POST /api/chat, /api/generate, /api/show; GET /api/tags, /api/ps, /api/version   as Ollama's
  GET  /v1/models
  GET  /                                        a page to try the model
  POST /tokenize, /detokenize, /apply-template
  GET  /health, /ready, /metrics, /slots, /version, /openapi.json

SIGTERM or Ctrl-C: no new requests; running answers end. A second one ends the server at once.
JAMBA_LOG=warn logs no requests.";

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match error {
            ServeError::Engine(error) => error.into(),
            ServeError::Address { .. }
            | ServeError::Keys { .. }
            | ServeError::Tls { .. }
            | ServeError::States { .. }
            | ServeError::Sandbox(_)
            | ServeError::System(_) => Failure::Input(error.to_string()),
        }
    }
}

/// Serves a plan until a signal.
pub(crate) fn serve(args: Args) -> Result<(), Failure> {
    if args.digest_key {
        return digest_key();
    }
    args.plan.only()?;
    let is_local = args.unix_socket.is_some() || is_loopback(&args.host);
    if !is_local && args.api_keys.is_none() && !args.insecure {
        return Err(Failure::Usage(format!(
            "--host {} lets other machines in: add --api-keys FILE, or --insecure to serve everybody",
            args.host
        )));
    }
    if args.kv_events.is_some() && args.api_keys.is_some() && !args.share_cache {
        let reason = "--kv-events: prefixes of requests with a key are the key's own and not told: add --share-cache";
        return Err(Failure::Usage(reason.to_owned()));
    }
    let keys = args.api_keys.as_deref().map(Keys::read).transpose()?.unwrap_or_default();
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
        _ => None,
    };
    let rules = Rules {
        requests_per_minute: args.requests_per_minute,
        tokens_per_minute: args.tokens_per_minute,
        allow_priority: args.allow_priority,
    };
    let seconds = Duration::from_secs;
    let options = ServeOptions {
        aliases: args.alias,
        any_model: args.any_model,
        keys,
        rules,
        clock: Clock::default(),
        tls,
        cors_origins: args.cors_origin,
        any_host: !is_local || args.unix_socket.is_some(),
        queue: args.queue,
        queue_tokens: args.queue_tokens,
        timeout: (args.timeout > 0).then(|| seconds(args.timeout)),
        drain_delay: seconds(args.drain_delay),
        drain: seconds(args.drain),
        cache_bytes: args.cache_mib.saturating_mul(1 << 20),
        cache_interval: args.cache_interval,
        kv_events: args.kv_events.map(|address| KvEvents { address, topic: args.kv_events_topic }),
        shares_cache: args.share_cache,
        metrics: args.metrics_listen,
        states: args.states,
        states_bytes: args.states_mib.saturating_mul(1 << 20),
        responses_bytes: args.responses_mib.saturating_mul(1 << 20),
        step_target: (args.itl_target > 0).then(|| Duration::from_millis(args.itl_target)),
        sandbox: args.sandbox.sandbox(),
        max_body_bytes: 0,
    };
    let address = match args.unix_socket {
        Some(path) => Address::Unix(path),
        None => Address::Tcp(args.host, args.port),
    };
    let stop = Stop::new();
    let manager = Arc::new(Manager::of_environment());
    let (stopper, of_stop) = (stop.clone(), Arc::clone(&manager));
    interrupt::on_stop(move || {
        of_stop.tell("STOPPING=1");
        stopper.stop();
    });
    let (plan, open) = (args.plan, args.open);
    jamba_serve::serve(
        &address,
        options,
        || {
            let engine = open.open(plan.path())?;
            engine.check_head()?;
            Ok(engine)
        },
        |name, engine| {
            manager.tell("READY=1");
            print(&first_line(name, engine))
        },
        &stop,
    )
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What is served, and where.
fn first_line(name: &str, engine: &Engine) -> String {
    let limits = &engine.manifest().limits;
    let advice = match limits.max_sequences {
        1 => " (one answer at a time: jambac limits PLAN --sequences N -o OUT.plan for more)",
        _ => "",
    };
    format!(
        "Serving {} at {name}: {} sequences{advice}, {} tokens of context, {} on {}\n",
        engine.manifest().model.name,
        limits.max_sequences,
        limits.max_context,
        engine.target(),
        engine.device(),
    )
}

fn digest_key() -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        say!("Type the key, then Enter and Ctrl-D:");
    }
    let mut key = String::new();
    let read = std::io::stdin().take(MOST_KEY_BYTES).read_to_string(&mut key);
    read.map_err(|error| Failure::Input(format!("standard input: {error}")))?;
    if key.len() as u64 == MOST_KEY_BYTES {
        return Err(Failure::Input(format!("standard input: expected a key of less than {MOST_KEY_BYTES} bytes")));
    }
    match key.trim() {
        "" => Err(Failure::Input("standard input: expected a key".to_owned())),
        key => print(&format!("{}\n", Keys::digest(key))),
    }
}
