//! Reference counts of KV pages. Allocation, sharing and release take constant time.
//!
//! A page with several holders is read-only; [`session`](super::session) copies it before a write.

use super::session::reserved;
use crate::{Pool, RuntimeError};

/// All pages of an engine.
pub(crate) struct Pages {
    /// Number of sequences that hold each page.
    holders: Vec<u32>,
    /// Free list, a stack; initially the lowest index is on top.
    free: Vec<u32>,
}

impl Pages {
    /// # Errors
    /// [`RuntimeError::Memory`] if the lists do not fit.
    pub(crate) fn new(n_pages: u32) -> Result<Pages, RuntimeError> {
        let (mut holders, mut free) = (reserved(n_pages as usize)?, reserved(n_pages as usize)?);
        holders.resize(n_pages as usize, 0);
        free.extend((0..n_pages).rev());
        Ok(Pages { holders, free })
    }

    /// Number of free pages.
    pub(crate) fn n_free(&self) -> u64 {
        self.free.len() as u64
    }

    /// Fails if fewer than `wanted` pages are free once `returned` more have been released.
    pub(crate) fn check(&self, wanted: u64, returned: u64) -> Result<(), RuntimeError> {
        let free = self.n_free() + returned;
        if wanted > free {
            return Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted, free });
        }
        Ok(())
    }

    /// Allocates a page with one holder.
    ///
    /// # Panics
    /// If no page is free. Callers call [`Pages::check`] first.
    pub(crate) fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("`Pages::check` found a free page");
        self.holders[page as usize] = 1;
        page
    }

    /// Adds a holder to a page.
    pub(crate) fn share(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// Removes a holder. Returns true if the page is free now.
    pub(crate) fn release(&mut self, page: u32) -> bool {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        let is_free = *holders == 0;
        if is_free {
            self.free.push(page);
        }
        is_free
    }

    /// Number of holders of a page.
    pub(crate) fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_holder_lets_go() {
        let mut pages = Pages::new(2).unwrap();
        let (first, second) = (pages.take(), pages.take());
        assert_eq!((first, second, pages.n_free()), (0, 1, 0));
        pages.share(first);
        assert!(!pages.release(first));
        assert!(matches!(pages.check(2, 1), Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 2, free: 1 })));
        assert!(pages.release(first));
        assert_eq!((pages.holders(first), pages.holders(second), pages.n_free()), (0, 1, 1));
        assert_eq!(pages.take(), first);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        assert_eq!(reserved::<u32>(5).unwrap().capacity(), 5);
        for n in [usize::MAX / 4, usize::MAX] {
            assert!(matches!(reserved::<u32>(n), Err(RuntimeError::Memory { .. })));
        }
    }
}
