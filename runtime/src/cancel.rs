//! Cancellation from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A cancellation flag. Clones share it. [`Cancel::cancel`] may be called from another thread, a callback or a signal
/// handler; it only stores an atomic flag. Operations check the flag before each step, so they stop after at most one step
/// of the plan's prefill chunk.
///
/// ```
/// use jamba_runtime::Cancel;
///
/// let cancel = Cancel::new();
/// let theirs = cancel.clone();
/// std::thread::spawn(move || theirs.cancel()).join().expect("the thread does not panic");
/// assert!(cancel.is_cancelled());
/// cancel.reset(); // for the next answer
/// assert!(!cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Sets the flag. Current and later operations end until [`Cancel::reset`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Clears the flag.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
