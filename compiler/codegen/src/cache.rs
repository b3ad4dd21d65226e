//! Objects that this process has compiled: a program that builds several plans, such as a test, compiles equal kernels once.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use jambac_kernels::target::CpuTarget;

/// Most bytes of the objects; when more are added, all are dropped.
const MOST: usize = 64 << 20;

/// The digest of what an object follows from: the target, and the MLIR as text.
pub fn key(target: CpuTarget, mlir: &str) -> blake3::Hash {
    blake3::Hasher::new().update(target.name().as_bytes()).update(b"\0").update(mlir.as_bytes()).finalize()
}

#[derive(Default)]
struct Objects {
    by_key: HashMap<blake3::Hash, Vec<u8>>,
    bytes: usize,
}

fn objects() -> MutexGuard<'static, Objects> {
    static OBJECTS: LazyLock<Mutex<Objects>> = LazyLock::new(Mutex::default);
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn get(key: &blake3::Hash) -> Option<Vec<u8>> {
    objects().by_key.get(key).cloned()
}

pub fn put(key: blake3::Hash, object: &[u8]) {
    let mut objects = objects();
    if objects.bytes + object.len() > MOST {
        *objects = Objects::default();
    }
    if objects.by_key.insert(key, object.to_vec()).is_none() {
        objects.bytes += object.len();
    }
}
