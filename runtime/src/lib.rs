//! jamba-runtime: executes a plan. It knows kernels, steps, pools and sequences, nothing of layers or graphs, and links
//! no compiler.
//!
//! ```no_run
//! use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};
//!
//! let mut engine = Engine::open("jamba.plan".as_ref(), OpenOptions::default())?;
//! let sequence = engine.add_sequence()?;
//! let feed = Feed { sequence, tokens: &[1, 20, 30], outputs: Outputs::Last };
//! let logits = engine.step(&[feed])?;
//! let next = jamba_runtime::sample::greedy(logits.row(0))?;
//! # let _ = next;
//! # Ok::<(), jamba_runtime::RuntimeError>(())
//! ```
//!
//! [`Engine::generate`] drives one sequence from prompt to end; [`Batch`] drives the requests of a server.

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
pub use device::map::PlanFile;
pub use engine::{Engine, Logits, OpenOptions, Progress, Unit};
pub use error::{Pool, RuntimeError};
pub use generate::{Finish, GenerateOptions, Generated, NewToken, Stream, StreamEvent};
pub use jamba_plan::Verify;
pub use jamba_plan::cost::Size;
pub use prefix::{PrefixCache, PrefixCounters};
pub use sample::{Sampler, SamplerOptions};
pub use session::{Feed, Outputs, SequenceId};
pub use snapshot::Snapshot;
#[cfg(feature = "tokenizer")]
pub use stop::StopStrings;
#[cfg(feature = "tokenizer")]
pub use tokenize::{TextStream, Tokenizer};
pub use trace::{KindTotal, Trace, TraceRun, TraceStep};
