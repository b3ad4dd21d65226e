//! A way to end work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends work that was given a clone of it: from another thread, a callback, or a signal handler ([`Cancel::cancel`] stores
/// one atomic flag and does nothing else). Work looks at it between steps: what it stops within is one step, of at most
/// the plan's prefill chunk.
///
/// ```
/// use jamba_runtime::Cancel;
///
/// let cancel = Cancel::new();
/// let theirs = cancel.clone();
/// std::thread::spawn(move || theirs.cancel()).join().expect("it cancels");
/// assert!(cancel.is_cancelled());
/// cancel.reset(); // for the next answer
/// assert!(!cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Ends the work that looks at this, and any that begins later.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True since [`Cancel::cancel`], until [`Cancel::reset`].
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets work begin again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
