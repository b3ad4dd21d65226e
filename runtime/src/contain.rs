//! Converts panics of libraries to errors of the call. Tokenizers, templates and constraints come from strangers: input that makes a library
//! panic must not end the program or poison a lock.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Nesting depth of [`contained`] on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// True while this thread runs a call whose panic becomes an error. A panic hook should print nothing then.
pub fn is_contained() -> bool {
    DEPTH.get() > 0
}

/// Runs `work` and converts its panic to an error. The caller must not use state that a panic can leave inconsistent.
///
/// # Errors
/// The message of its panic.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        format!("its library fails: {}", text.unwrap_or("no message").lines().next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_error_of_its_call() {
        assert_eq!(contained(|| 7), Ok(7));
        let inner = || contained(|| panic!("expected {}\nand more", "a tail")).map(|()| is_contained());
        let (inner, within) = contained(|| (inner(), is_contained())).unwrap();
        assert_eq!((inner, within), (Err("its library fails: expected a tail".to_owned()), true));
        assert!(!is_contained());
    }
}
