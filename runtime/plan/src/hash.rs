//! BLAKE3 of large inputs on several threads.
//!
//! The threads belong to a pool of this module. rayon's global pool would do, but it panics if its threads cannot be created, and a
//! child of a process that used it waits forever for threads that only its parent has.

use std::sync::{Arc, Mutex};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Shorter inputs are hashed on the calling thread.
const MIN_BYTES: usize = 1 << 17;

/// The threads of one process.
struct Pool {
    /// The process that has the threads; its forks have not.
    process: u32,
    /// `None` if the system does not allow as many threads.
    threads: Option<ThreadPool>,
}

static POOL: Mutex<Option<Arc<Pool>>> = Mutex::new(None);

/// Adds bytes to a hash.
pub(crate) fn update(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let pool = if bytes.len() < MIN_BYTES { None } else { pool() };
    let _ = match pool.as_deref() {
        Some(Pool { threads: Some(threads), .. }) => threads.install(|| hasher.update_rayon(bytes)),
        _ => hasher.update(bytes),
    };
}

/// The pool of this process. `None` while another thread creates it, which may be a thread that a fork does not have.
fn pool() -> Option<Arc<Pool>> {
    let mut pool = POOL.try_lock().ok()?;
    let process = std::process::id();
    if pool.as_ref().is_none_or(|pool| pool.process != process) {
        std::mem::forget(pool.take()); // dropping a pool waits for threads
        let threads = ThreadPoolBuilder::new().thread_name(|index| format!("jamba-hash-{index}")).build();
        *pool = Some(Arc::new(Pool { process, threads: threads.ok() }));
    }
    pool.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_no_thread() {
        let bytes: Vec<u8> = (0..3 * MIN_BYTES as u32 + 7).map(|i| (i * 7 + i / 251) as u8).collect();
        for length in [0, 1, MIN_BYTES - 1, MIN_BYTES, bytes.len()] {
            let mut hasher = blake3::Hasher::new();
            update(&mut hasher, &bytes[..length]);
            assert_eq!(hasher.finalize(), blake3::hash(&bytes[..length]));
        }
        // While another thread holds the pool, this one hashes alone.
        let _held = POOL.lock().unwrap();
        let mut hasher = blake3::Hasher::new();
        update(&mut hasher, &bytes);
        assert_eq!(hasher.finalize(), blake3::hash(&bytes));
    }
}
