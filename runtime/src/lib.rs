//! jamba-runtime executes plans: files that hold a compiled model. It handles kernels, steps, memory pools and sequences. It
//! has no notion of layers or graphs and links no compiler.
//!
//! ```
//! use std::io::Write;
//!
//! use jamba_runtime::{Engine, GenerateOptions, OpenOptions, StreamEvent};
//!
//! let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
//! let prompt = engine.tokenizer()?.encode("Once upon a time")?;
//! let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
//! for event in engine.stream(&prompt, &options)? {
//!     match event? {
//!         StreamEvent::Token(token) => print!("{}", token.text),
//!         StreamEvent::Done(generated) => println!("{} [{}]", generated.rest, generated.finish.name()),
//!     }
//!     std::io::stdout().flush()?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From low to high level: [`Engine::step`] appends tokens to sequences and returns logits, f32 \[rows, vocab\];
//! [`Engine::prefill`] appends a prompt of any length; [`Sampler`] picks a token from a row; [`Engine::generate`] and
//! [`Engine::stream`] generate from a prompt, with text, stop strings, log probabilities and constraints; [`Batch`] serves
//! many requests with continuous batching. A [`Snapshot`] saves the state of a sequence. [`Tokenizer`] and [`ChatTemplate`]
//! come from the checkpoint. Errors are [`RuntimeError`]s and leave the engine unchanged unless documented otherwise.
//!
//! Features, all on by default: `tokenizer` (tokenizers, text streams, stop strings, chat templates), `constrain` (JSON
//! schemas, regular expressions, grammars) and `cuda` (NVIDIA GPUs; the driver is loaded when a plan is opened on one).
//! Without `tokenizer`, input and output are tokens and logits.
//!
//! The crate emits `tracing` spans: phases of [`Engine::open`] at level debug, every step at level trace.

#![warn(missing_docs)]

mod batch;
mod cancel;
mod check;
#[cfg(feature = "tokenizer")]
mod contain;
mod device;
mod engine;
mod error;
mod execute;
mod generate;
mod heads;
pub mod machine;
mod observe;
mod options;
pub mod sample;
mod sequence;
mod signature;
#[cfg(feature = "tokenizer")]
mod text;
mod trace;

pub use batch::{Batch, BatchOptions, Event, PromptToken, Request, RequestId, Usage};
pub use cancel::Cancel;
#[cfg(feature = "tokenizer")]
pub use contain::is_contained;
pub use device::cpu::peaks::Peaks;
pub use device::cuda::driver as gpu;
pub use device::faults;
pub use device::id::{DeviceId, NoDeviceId};
pub use device::map::{Exposed, PlanFile, PlanSource};
pub use engine::{Engine, Logits};
pub use error::{ErrorClass, Pool, RuntimeError, TextLimit};
pub use generate::{Finish, GenerateOptions, Generated, NewToken, Stream, StreamEvent, Turn};
pub use heads::{Classified, Pooling, normalize};
pub use jamba_plan::cost::Size;
pub use jamba_plan::cpu::targets as cpu_targets;
pub use jamba_plan::{Plan, Verify};
pub use observe::StepObserver;
pub use options::{ConstraintLimits, DebugOptions, OpenOptions, Progress, Unit};
pub use sample::{Sampler, SamplerOptions};
pub use sequence::blocks::Block;
pub use sequence::prefix::{PrefixCache, PrefixChange, PrefixCounters};
pub use sequence::save_point::SavePoint;
pub use sequence::session::{Feed, Outputs, SequenceId};
pub use sequence::snapshot::Snapshot;
pub use sequence::state_file::StateFormat;
pub use signature::{SigningKey, TrustedKeys, signature_of};
#[cfg(feature = "tokenizer")]
pub use text::answer::{Answer, AnswerCall, AnswerEvent, AnswerParser, AnswerSyntax, CallTags, Reasoning};
#[cfg(feature = "tokenizer")]
pub use text::chat::{Chat, ChatTemplate, Message};
#[cfg(feature = "tokenizer")]
pub use text::messages::{ChatMessage, ChatRequest, Role, ToolCall};
#[cfg(feature = "constrain")]
pub use text::{
    compiled::{CompiledConstraint, ConstraintCompiler},
    constrain::Constraint,
};
#[cfg(feature = "tokenizer")]
pub use text::{
    jinja::keep_time_zone,
    rehearsal::TemplateFault,
    rendered::{EncodedChat, RenderedChat},
    stop::StopStrings,
    stream::TextStream,
    tokenizer::{SpecialTokens, Tokenizer},
    within::AddedTokens,
};
pub use trace::{KindTotal, Trace, TraceRun, TraceSpan, TraceStep, TraceWork};

/// Types that are `Send`, and types that are also `Sync`.
const _: () = {
    const fn moves<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    moves::<Engine>();
    moves::<Batch>();
    moves::<Sampler>();
    moves::<Stream<'static>>();
    moves::<Turn>();
    is_shared::<PlanFile>();
    is_shared::<Snapshot>();
    is_shared::<StateFormat>();
    is_shared::<PrefixCache>();
    is_shared::<Cancel>();
    is_shared::<GenerateOptions>();
    is_shared::<RuntimeError>();
    #[cfg(feature = "tokenizer")]
    {
        moves::<TextStream>();
        moves::<AnswerParser>();
        is_shared::<Tokenizer>();
        is_shared::<ChatTemplate>();
        is_shared::<StopStrings>();
    }
    #[cfg(feature = "constrain")]
    {
        is_shared::<ConstraintCompiler>();
        is_shared::<CompiledConstraint>();
    }
};
