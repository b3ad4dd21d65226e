//! jamba-runtime: executes a plan. It knows kernels, steps, pools and sequences, nothing of layers or graphs, and links
//! no compiler.
//!
//! ```
//! use jamba_runtime::{Engine, GenerateOptions, OpenOptions, StreamEvent};
//!
//! let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
//! let prompt = engine.tokenizer()?.encode("Once upon a time")?;
//! let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
//! for event in engine.stream(&prompt, &options)? {
//!     match event? {
//!         StreamEvent::Token(token) => print!("{}", token.text),
//!         StreamEvent::Done(generated) => println!("{} [{}]", generated.rest, generated.finish.name()),
//!     }
//! }
//! # Ok::<(), jamba_runtime::RuntimeError>(())
//! ```
//!
//! From the inside out: [`Engine::step`] feeds sequences and returns logits, f32 \[rows, vocab\]; [`Sampler`] picks from
//! a row; [`Engine::generate`] and [`Engine::stream`] drive one sequence from prompt to end, with text, stop strings,
//! probabilities and constraints; [`Batch`] drives the requests of a server. [`Snapshot`]s keep what a sequence has read.
//! [`Tokenizer`] and [`ChatTemplate`] are the checkpoint's own. Every refusal is a [`RuntimeError`], and leaves the engine
//! as it was unless it says otherwise.
//!
//! Features, all on by default: `tokenizer` (text: tokenizers, streams, stop strings, chat templates), `constrain` (JSON
//! schemas, regular expressions, grammars) and `cuda` (GPUs of NVIDIA's; their driver is looked for when a plan is opened on
//! one). Without the first two tokens go in and logits or tokens come out.

mod batch;
mod cancel;
#[cfg(feature = "tokenizer")]
mod chat;
mod check;
#[cfg(feature = "constrain")]
mod constrain;
mod device;
mod engine;
mod error;
mod execute;
mod generate;
mod pool;
mod prefix;
pub mod sample;
mod session;
mod snapshot;
mod state_file;
#[cfg(feature = "tokenizer")]
mod stop;
#[cfg(feature = "tokenizer")]
mod texts;
#[cfg(feature = "tokenizer")]
mod tokenize;
mod trace;

pub use batch::{Batch, Event, Request, RequestId};
pub use cancel::Cancel;
#[cfg(feature = "tokenizer")]
pub use chat::{Chat, ChatTemplate, Message};
#[cfg(feature = "constrain")]
pub use constrain::Constraint;
pub use device::cpu::peaks::Peaks;
pub use device::cuda::driver as gpu;
pub use device::id::{DeviceId, NoDeviceId};
pub use device::map::PlanFile;
pub use engine::{Engine, Logits, OpenOptions, Progress, Unit};
pub use error::{Pool, RuntimeError};
pub use generate::{Finish, GenerateOptions, Generated, NewToken, Stream, StreamEvent};
pub use jamba_plan::cost::Size;
pub use jamba_plan::{Plan, Verify};
pub use prefix::{PrefixCache, PrefixCounters};
pub use sample::{Sampler, SamplerOptions};
pub use session::{Feed, Outputs, SequenceId};
pub use snapshot::Snapshot;
#[cfg(feature = "tokenizer")]
pub use stop::StopStrings;
#[cfg(feature = "tokenizer")]
pub use tokenize::{TextStream, Tokenizer};
pub use trace::{KindTotal, Trace, TraceRun, TraceStep};

/// What moves between threads, and what they share.
const _: () = {
    const fn moves<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    moves::<Engine>();
    moves::<Batch>();
    moves::<Sampler>();
    moves::<Stream<'static>>();
    is_shared::<PlanFile>();
    is_shared::<Snapshot>();
    is_shared::<PrefixCache>();
    is_shared::<Cancel>();
    is_shared::<GenerateOptions>();
    is_shared::<RuntimeError>();
    #[cfg(feature = "tokenizer")]
    {
        moves::<TextStream>();
        is_shared::<Tokenizer>();
        is_shared::<ChatTemplate>();
        is_shared::<StopStrings>();
    }
};
