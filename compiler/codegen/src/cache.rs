//! Objects that this process has compiled. A program that builds several plans, such as a test, compiles the kernels that they share once.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use jambac_kernels::target::CpuTarget;

/// Most bytes of the objects; then all are dropped.
const MOST: usize = 64 << 20;

/// The digest of what decides an object's bytes: the target and the MLIR, as text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(blake3::Hash);

impl Key {
    pub fn new(target: CpuTarget, mlir: &str) -> Key {
        Key(blake3::Hasher::new().update(target.name().as_bytes()).update(b"\0").update(mlir.as_bytes()).finalize())
    }
}

#[derive(Default)]
struct Objects {
    by_key: HashMap<Key, Arc<[u8]>>,
    bytes: usize,
}

fn objects() -> MutexGuard<'static, Objects> {
    static OBJECTS: LazyLock<Mutex<Objects>> = LazyLock::new(Mutex::default);
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn get(key: &Key) -> Option<Arc<[u8]>> {
    objects().by_key.get(key).map(Arc::clone)
}

pub fn put(key: Key, object: &[u8]) {
    let mut objects = objects();
    if objects.bytes + object.len() > MOST {
        *objects = Objects::default();
    }
    if objects.by_key.insert(key, object.into()).is_none() {
        objects.bytes += object.len();
    }
}
