//! Where named states are kept: in memory, or one file each. States do not change; a new one replaces the old one at once,
//! and whoever goes on from the old one is not affected.
//!
//! The name of a file is the BLAKE3 digest of the state's name and owner, so that no name is a path. The file's note has the
//! name.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jamba_runtime::{Snapshot, StateFormat};
use serde::{Deserialize, Serialize};

use crate::ServeError;
use crate::app::{App, unix_seconds};
use crate::error::{ApiError, Result};

/// Most bytes of a name.
const MAX_NAME: usize = 128;

/// Whose states are meant: those of the API key with this digest; on a server without keys, everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner(Option<[u8; blake3::OUT_LEN]>);

impl Owner {
    /// On a server without keys.
    pub(crate) const EVERYBODY: Owner = Owner(None);

    /// The owner of a key.
    pub(crate) fn of_key(digest: blake3::Hash) -> Owner {
        Owner(Some(*digest.as_bytes()))
    }
}

/// What is known of a state.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) n_tokens: usize,
    pub(crate) bytes: u64,
    /// None if it is in a file.
    snapshot: Option<Snapshot>,
}

/// The note of a file.
#[derive(Serialize, Deserialize)]
struct Note {
    name: String,
    /// Digest of the owner's key, in hexadecimal.
    owner: Option<String>,
    created: u64,
}

/// All named states.
pub(crate) struct Store {
    folder: Option<PathBuf>,
    budget_bytes: u64,
    format: StateFormat,
    all: Mutex<BTreeMap<(Owner, String), Kept>>,
    /// Files and `all` change together.
    changes: Arc<tokio::sync::Mutex<()>>,
}

/// Refuses names that are empty, long, or have control characters.
pub(super) fn check_name(name: &str) -> Result<()> {
    let expected = match name {
        "" => "at least one character",
        _ if name.len() > MAX_NAME => "at most 128 bytes",
        _ if name.chars().any(char::is_control) => "no control characters",
        _ => return Ok(()),
    };
    Err(ApiError::field("name", format!("expected {expected}")))
}

fn file_name(Owner(owner): Owner, name: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    if let Some(digest) = owner {
        // No name contains a zero.
        hasher.update(&[0]).update(&digest);
    }
    format!("{}.state", hasher.finalize().to_hex())
}

impl Kept {
    fn new(created: u64, snapshot: &Snapshot) -> Kept {
        let n_tokens = snapshot.tokens().len() + snapshot.next().len();
        Kept { created, n_tokens, bytes: snapshot.bytes(), snapshot: None }
    }
}

impl Store {
    /// Makes the folder of states, if it is missing.
    pub(crate) fn make(folder: &Path) -> std::result::Result<(), ServeError> {
        // Prompts are nobody else's business.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| ServeError::States { path: folder.to_owned(), source })
    }

    /// The states in a folder; without one, states are kept in memory.
    pub(crate) fn open(
        folder: Option<PathBuf>,
        budget_bytes: u64,
        format: StateFormat,
    ) -> std::result::Result<Store, ServeError> {
        let mut all = BTreeMap::new();
        if let Some(folder) = &folder {
            let failed = |source| ServeError::States { path: folder.clone(), source };
            for entry in std::fs::read_dir(folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|extension| extension == "state") {
                    match read(&path, &format) {
                        Ok((key, kept)) => drop(all.insert(key, kept)),
                        Err(reason) => {
                            tracing::warn!(path = %path.display(), reason, "a file among the states is left out");
                        }
                    }
                }
            }
        }
        Ok(Store { folder, budget_bytes, format, all: Mutex::new(all), changes: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Owner, String), Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The states of an owner, by name.
    pub(super) fn list(&self, owner: Owner) -> Vec<(String, Kept)> {
        let all = self.lock();
        let own = all.range((owner, String::new())..).take_while(|((other, _), _)| *other == owner);
        own.map(|((_, name), kept)| (name.clone(), kept.clone())).collect()
    }

    pub(super) fn get(&self, owner: Owner, name: &str) -> Result<Kept> {
        self.lock().get(&(owner, name.to_owned())).cloned().ok_or_else(|| unknown(name))
    }

    /// Fails if a state of this many tokens does not fit beside the others.
    pub(super) fn check_room(&self, owner: Owner, name: &str, n_tokens: u64) -> Result<()> {
        self.check_bytes(owner, name, self.format.bytes(n_tokens))
    }

    fn check_bytes(&self, owner: Owner, name: &str, bytes: u64) -> Result<()> {
        let all = self.lock();
        let replaced = all.get(&(owner, name.to_owned())).map_or(0, |old| old.bytes);
        let others = all.values().map(|kept| kept.bytes).sum::<u64>() - replaced;
        if others + bytes <= self.budget_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (bytes, others, most) = (mib(bytes), mib(others), mib(self.budget_bytes));
        Err(ApiError::new(
            axum::http::StatusCode::INSUFFICIENT_STORAGE,
            "invalid_request_error",
            Some("states_full"),
            format!("the state has {bytes} MiB, the others {others} of at most {most} (--states-mib): delete some"),
        ))
    }

    fn path(&self, owner: Owner, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(file_name(owner, name)))
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found("state_not_found", format!("there is no state {name:?}; POST /v1/states makes one"))
}

/// An error of a file. The client is not told where the server keeps its files.
fn failed(path: &Path, error: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(path = %path.display(), %error, "a state");
    ApiError::internal("the file of the state cannot be used; the server's log describes it")
}

/// Reads what is known of the state in a file.
fn read(path: &Path, format: &StateFormat) -> std::result::Result<((Owner, String), Kept), String> {
    let snapshot = format.load(path).map_err(|error| error.to_string())?;
    let Note { name, owner, created } = serde_json::from_str(snapshot.note()).map_err(|error| error.to_string())?;
    let owner = match owner {
        None => Owner::EVERYBODY,
        Some(digest) => Owner::of_key(blake3::Hash::from_hex(digest).map_err(|error| error.to_string())?),
    };
    let expected = file_name(owner, &name);
    match path.file_name().is_some_and(|found| found == expected.as_str()) {
        true => Ok(((owner, name), Kept::new(created, &snapshot))),
        false => Err(format!("expected the name {expected}, which follows from its note")),
    }
}

impl App {
    /// Keeps a state.
    pub(super) async fn keep(self: &Arc<App>, owner: Owner, name: String, snapshot: Snapshot) -> Result<Kept> {
        let store = &self.states;
        let change = Arc::clone(&store.changes).lock_owned().await;
        let created = unix_seconds();
        let note = Note {
            name: name.clone(),
            owner: owner.0.map(|digest| blake3::Hash::from_bytes(digest).to_string()),
            created,
        };
        let snapshot = snapshot.with_note(&serde_json::to_string(&note).map_err(ApiError::internal)?);
        let mut kept = Kept::new(created, &snapshot);
        store.check_bytes(owner, &name, kept.bytes)?;
        let app = Arc::clone(self);
        // It runs to its end even if the client leaves: the file and what is known of it agree.
        self.off_thread(move || {
            match app.states.path(owner, &name) {
                Some(path) => snapshot.save(&path).map_err(|error| failed(&path, &error))?,
                None => kept.snapshot = Some(snapshot),
            }
            app.states.lock().insert((owner, name), kept.clone());
            drop(change);
            Ok(kept)
        })
        .await
    }

    /// The snapshot of a state.
    pub(super) async fn load(&self, owner: Owner, name: &str) -> Result<Snapshot> {
        let kept = self.states.get(owner, name)?;
        let (Some(path), None) = (self.states.path(owner, name), kept.snapshot.clone()) else {
            return kept.snapshot.ok_or_else(|| unknown(name));
        };
        let format = self.states.format.clone();
        self.off_thread(move || format.load(&path).map_err(|error| failed(&path, &error))).await
    }

    /// Deletes a state.
    pub(super) async fn forget(self: &Arc<App>, owner: Owner, name: String) -> Result<()> {
        let change = Arc::clone(&self.states.changes).lock_owned().await;
        self.states.get(owner, &name)?;
        let app = Arc::clone(self);
        self.off_thread(move || {
            if let Some(path) = app.states.path(owner, &name) {
                std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
            }
            app.states.lock().remove(&(owner, name));
            drop(change);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_a_path() {
        let key = Owner::of_key(blake3::hash(b"key"));
        let names = ["a", "../a", "/etc/passwd", "a/../b", "a\u{202e}b", "%2e%2e", ".", "CON"];
        let mut files: Vec<String> =
            names.iter().flat_map(|name| [Owner::EVERYBODY, key].map(|owner| file_name(owner, name))).collect();
        for file in &files {
            let digest = file.strip_suffix(".state").expect("its extension");
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{file}");
        }
        files.sort();
        files.dedup();
        assert_eq!(files.len(), 2 * names.len());
        assert_eq!(file_name(Owner::EVERYBODY, "a"), format!("{}.state", blake3::hash(b"a")));
        assert!(names.iter().all(|name| check_name(name).is_ok()));
        let long = "x".repeat(129);
        assert!(["", "a\0", "a\nb", "\u{7f}", "\u{85}", &long].iter().all(|name| check_name(name).is_err()));
        assert!(check_name(&long[1..]).is_ok());
    }
}
