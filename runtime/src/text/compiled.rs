//! Constraints that are compiled apart from the engine, on any thread.
//!
//! Compiling can take a large part of a second. A server compiles on a thread of its own and hands the result in with the
//! request, so that other answers do not wait for it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::{Matcher, ParserFactory};

use super::constrain::{Matching, compile, end_tokens};
use super::timeout::Threads;
use crate::{Cancel, Constraint, Engine, RuntimeError};

/// Compiles constraints for the tokens of an engine. Clones share the tokens; it can be sent to other threads.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::thread;
///
/// use jamba_runtime::{Constraint, Engine, GenerateOptions, OpenOptions};
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let compiler = engine.constraint_compiler()?;
/// let compiled = thread::spawn(move || compiler.compile(&Constraint::Regex("[a-z]{3,9}".to_owned())));
/// let compiled = compiled.join().expect("the thread does not panic")?;
/// let options = GenerateOptions { max_new: 20, compiled: Some(compiled), ..GenerateOptions::default() };
/// let generated = engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(()))?;
/// assert!(generated.text.chars().all(|letter| letter.is_ascii_lowercase()));
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone)]
pub struct ConstraintCompiler {
    factory: Arc<ParserFactory>,
    eos: Arc<[u32]>,
    threads: Threads,
    time: Duration,
}

impl ConstraintCompiler {
    /// Compiles a constraint. It can be used for any number of answers.
    ///
    /// # Errors
    /// Fails if the constraint is invalid, too large, or matches no text, and if it takes longer to compile than
    /// [`ConstraintLimits::time`](crate::ConstraintLimits::time).
    pub fn compile(&self, constraint: &Constraint) -> Result<CompiledConstraint, RuntimeError> {
        self.compile_within(constraint, Duration::MAX, &Cancel::new())
    }

    /// Compiles a constraint with a timeout: `time`, or [`ConstraintLimits::time`](crate::ConstraintLimits::time) if that is less.
    ///
    /// # Errors
    /// As [`ConstraintCompiler::compile`], and [`RuntimeError::Cancelled`].
    pub fn compile_within(
        &self,
        constraint: &Constraint,
        time: Duration,
        cancel: &Cancel,
    ) -> Result<CompiledConstraint, RuntimeError> {
        let (factory, eos) = (Arc::clone(&self.factory), Arc::clone(&self.eos));
        let matcher = compile(&self.factory, &self.threads, constraint, (time.min(self.time), cancel))?;
        let (kind, matcher) = (constraint.kind(), Mutex::new(matcher));
        Ok(CompiledConstraint(Arc::new(Compiled { kind, matcher, factory, eos })))
    }
}

/// A compiled constraint. Clones share it.
#[derive(Clone)]
pub struct CompiledConstraint(Arc<Compiled>);

struct Compiled {
    kind: &'static str,
    /// The state before the first token.
    matcher: Mutex<Matcher>,
    /// The tokens that it was compiled for.
    factory: Arc<ParserFactory>,
    eos: Arc<[u32]>,
}

impl fmt::Debug for CompiledConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompiledConstraint({})", self.0.kind)
    }
}

impl Matching {
    /// The state of a constraint before the first token. Fails if the constraint is invalid or matches no text.
    pub(crate) fn new(engine: &Engine, constraint: &Constraint, cancel: &Cancel) -> Result<Matching, RuntimeError> {
        let ConstraintCompiler { factory, eos, threads, time } = engine.constraint_compiler()?;
        let matcher = compile(&factory, &threads, constraint, (time, cancel))?;
        Ok(Matching::begin(constraint.kind(), matcher, &eos))
    }

    /// The state of a compiled constraint before the first token. Fails if it was compiled for another engine.
    pub(crate) fn of_compiled(engine: &Engine, compiled: &CompiledConstraint) -> Result<Matching, RuntimeError> {
        let CompiledConstraint(compiled) = compiled;
        if !Arc::ptr_eq(&compiled.factory, &engine.constraint_compiler()?.factory) {
            let found = "one for another engine".to_owned();
            return Err(RuntimeError::Option { name: "compiled constraint", found, expected: "one for this engine" });
        }
        // The state before the first token stays as it is, even if a thread panicked while it was copied.
        let matcher = compiled.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Ok(Matching::begin(compiled.kind, matcher, &compiled.eos))
    }
}

impl Engine {
    /// A compiler of constraints for this engine. The first call reads the tokens, which takes a while.
    ///
    /// # Errors
    /// Fails if the plan has no tokenizer or no end token.
    pub fn constraint_compiler(&self) -> Result<ConstraintCompiler, RuntimeError> {
        let eos = end_tokens(self)?;
        let (tokenizer, vocabulary) = self.vocabulary()?;
        let limits = self.constraint_limits();
        let factory = vocabulary.factory(tokenizer, (self.manifest().model.vocab as usize, &eos), limits)?;
        Ok(ConstraintCompiler { factory, eos: eos.into(), threads: vocabulary.threads.clone(), time: limits.time })
    }
}
