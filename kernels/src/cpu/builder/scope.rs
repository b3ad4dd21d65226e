//! The kernel under construction on this thread. Operators on a [`Value`](super::Value) take no builder; they append to
//! this kernel.

use super::Builder;
use std::cell::Cell;
use std::ptr::NonNull;

thread_local! {
    static CURRENT: Cell<Option<NonNull<Builder<'static>>>> = const { Cell::new(None) };
}

/// Restores the outer kernel, also if a body panics.
struct Restore(Option<NonNull<Builder<'static>>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `body` with `builder` as the kernel under construction.
pub(super) fn enter<R>(builder: &Builder<'_>, body: impl FnOnce() -> R) -> R {
    let _restore = Restore(CURRENT.replace(Some(NonNull::from(builder).cast())));
    body()
}

/// Calls `append` with the kernel under construction. Panics outside [`enter`].
pub(super) fn current<R>(append: impl for<'b, 'm> FnOnce(&'b Builder<'m>) -> R) -> R {
    let builder = CURRENT.get().expect("values are computed while a kernel is under construction");
    // SAFETY: the pointer comes from the reference that `enter` holds until it restores the outer kernel, on this thread.
    // `append` is generic over both lifetimes, so nothing outlives the call, and the 'static that replaces the module's
    // lifetime is never visible.
    append(unsafe { builder.as_ref() })
}
