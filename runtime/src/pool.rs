//! Pages of keys and values, with counts of who holds them: taken, shared and returned in constant time.
//!
//! A page that several sequences hold is read by all of them and written by none: [`crate::session`] copies it first.

use crate::{Pool, RuntimeError};

/// All pages of an engine.
pub(crate) struct Pages {
    /// Sequences that hold each page.
    holders: Vec<u32>,
    /// Pages that nobody holds; the lowest one last at first.
    free: Vec<u32>,
}

impl Pages {
    pub(crate) fn new(n_pages: u32) -> Pages {
        Pages { holders: vec![0; n_pages as usize], free: (0..n_pages).rev().collect() }
    }

    /// Pages that nobody holds.
    pub(crate) fn n_free(&self) -> u64 {
        self.free.len() as u64
    }

    /// Refuses when fewer than `wanted` pages would be free after `returned` more have come back.
    pub(crate) fn check(&self, wanted: u64, returned: u64) -> Result<(), RuntimeError> {
        let free = self.n_free() + returned;
        if wanted > free {
            return Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted, free });
        }
        Ok(())
    }

    /// Takes a page for one sequence.
    ///
    /// # Panics
    /// When none is free: [`Pages::check`] comes first.
    pub(crate) fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("pages are taken after they were checked for");
        self.holders[page as usize] = 1;
        page
    }

    /// Lets one more sequence hold a page.
    pub(crate) fn share(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// One sequence holds the page no longer; true when it is free now.
    pub(crate) fn release(&mut self, page: u32) -> bool {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        let is_free = *holders == 0;
        if is_free {
            self.free.push(page);
        }
        is_free
    }

    /// Sequences that hold a page.
    pub(crate) fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_holder_lets_go() {
        let mut pages = Pages::new(2);
        let (first, second) = (pages.take(), pages.take());
        assert_eq!((first, second, pages.n_free()), (0, 1, 0));
        pages.share(first);
        assert!(!pages.release(first));
        assert!(matches!(pages.check(2, 1), Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 2, free: 1 })));
        assert!(pages.release(first));
        assert_eq!((pages.holders(first), pages.holders(second), pages.n_free()), (0, 1, 1));
        assert_eq!(pages.take(), first);
    }
}
