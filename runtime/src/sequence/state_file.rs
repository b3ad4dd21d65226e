//! Snapshot files, `.state`.
//!
//! | bytes | content |
//! |---|---|
//! | 0 … 8 | magic: 0x89 `STATE` CR LF; text-mode transfers corrupt it |
//! | 8 … 12 | format version |
//! | 12 … 16 | size of the note, in bytes |
//! | 16 … 24 | length of the file, in bytes |
//! | 24 … 56 | digest of the plan |
//! | 56 … 64 | number of tokens |
//! | 64 … 72 | maximum context of the plan, in tokens |
//! | 72 … 76 | vocabulary size |
//! | 76 … 80 | number of tokens to read next; version 1 has none |
//! | 80 … 88 | size of a state slot, in bytes |
//! | 88 … 92 | size of a KV page, in bytes |
//! | 92 … 96 | number of save points; versions 1 and 2 have none |
//! | 96 … 128 | target whose code computed the state, a zero, and as much of the model's name as fits; zero-padded |
//! | 128 … 160 | BLAKE3 of everything after the header |
//! | 160 … 192 | BLAKE3 of bytes 0 … 160 |
//! | 192 … | tokens, tokens to read next (u32 each); state slot; KV pages in the order of their tokens; save points: number of tokens (u64) and state slot each; note (UTF-8) |
//!
//! Version 3 is written if there are save points, version 2 if there are tokens to read next, otherwise version 1. All are read. Integers are little-endian. A
//! file is replaced when the new one is complete ([`jamba_plan::output`]). On reading, fields are checked in order before any
//! is used; the error names the first wrong one.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use jamba_plan::format::KV_PAGE_TOKENS;
use jamba_plan::output::{Content, Kind, Output, OutputError, Replace};

use crate::sequence::snapshot::MAX_POINTS;
use crate::{Engine, RuntimeError, SavePoint, Snapshot};

const MAGIC: [u8; 8] = *b"\x89STATE\r\n";

/// The format version of states with save points. Version 2 is the same without them, version 1 also without tokens to read next.
const VERSION: u32 = 3;

const HEADER_BYTES: usize = 192;
const TARGET_BYTES: usize = 32;
/// The number of tokens of a save point, in bytes.
const POINT_TOKENS: usize = size_of::<u64>();
const DIGEST_AT: usize = HEADER_BYTES - blake3::OUT_LEN;

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    note_bytes: u32,
    file_bytes: u64,
    plan: [u8; 32],
    n_tokens: u64,
    max_context: u64,
    vocab: u64,
    n_next: u32,
    slot_bytes: u64,
    page_bytes: u64,
    n_points: u32,
    target: [u8; TARGET_BYTES],
    content: [u8; 32],
}

/// What the states of an engine have in common: enough to read them without the engine, in another thread.
///
/// ```
/// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
/// # use jamba_runtime::{Engine, OpenOptions};
/// # let folder = tempfile::tempdir()?;
/// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
/// # let path = folder.path().join("prompt.state");
/// let mut engine = Engine::open(&plan, OpenOptions::default())?;
/// let format = engine.state_format();
/// let sequence = engine.add_sequence()?;
/// engine.prefill(sequence, &[1, 20, 30], None, None)?;
/// engine.snapshot(sequence)?.save(&path)?;
/// let reader = std::thread::spawn(move || format.load(&path));
/// let snapshot = reader.join().expect("no panic")?;
/// assert_eq!(snapshot.tokens(), [1, 20, 30]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StateFormat {
    plan: blake3::Hash,
    /// Name of the model.
    model: String,
    targets: Vec<String>,
    max_context: u64,
    vocab: u64,
    slot_bytes: u64,
    page_bytes: u64,
}

impl Engine {
    /// The format of this engine's states.
    pub fn state_format(&self) -> StateFormat {
        let (model, memory) = (&self.manifest().model, self.memory());
        StateFormat {
            plan: self.plan_digest(),
            model: model.name.clone(),
            targets: self.targets().to_vec(),
            max_context: self.plan_context(),
            vocab: model.vocab,
            slot_bytes: memory.state_slot,
            page_bytes: memory.kv_page,
        }
    }
}

impl StateFormat {
    /// As [`Snapshot::load`].
    ///
    /// # Errors
    /// As [`Snapshot::load`].
    pub fn load(&self, path: &Path) -> Result<Snapshot, RuntimeError> {
        let failed = |source| RuntimeError::Io { path: path.to_path_buf(), action: "read it", source };
        let refused = |(field, found, expected): Wrong| {
            let path = path.to_path_buf();
            RuntimeError::StateFile { path, field, found, expected }
        };
        let file = File::open(path).map_err(failed)?;
        let mut begin = Vec::with_capacity(HEADER_BYTES);
        (&file).take(HEADER_BYTES as u64).read_to_end(&mut begin).map_err(failed)?;
        let header = Header::decode(&begin).map_err(refused)?;
        header.check(self).map_err(refused)?;
        // Reading one byte more than expected detects a file that is too long.
        let mut content = Vec::new();
        (&file).take(header.content_bytes().unwrap_or_default() + 1).read_to_end(&mut content).map_err(failed)?;
        check("length", (HEADER_BYTES + content.len()) as u64, header.file_bytes).map_err(refused)?;
        header.snapshot(&content).map_err(refused)
    }

    /// As [`Snapshot::from_bytes`].
    ///
    /// # Errors
    /// As [`Snapshot::from_bytes`].
    pub fn read(&self, bytes: &[u8]) -> Result<Snapshot, RuntimeError> {
        let decode = || {
            let header = Header::decode(bytes)?;
            header.check(self)?;
            check("length", bytes.len() as u64, header.file_bytes)?;
            header.snapshot(&bytes[HEADER_BYTES..])
        };
        decode().map_err(|(field, found, expected)| RuntimeError::StateBytes { field, found, expected })
    }

    /// Host memory of a state of `n_tokens` tokens, in bytes.
    pub fn bytes(&self, n_tokens: u64) -> u64 {
        let pages = if self.page_bytes == 0 { 0 } else { n_tokens.div_ceil(KV_PAGE_TOKENS) };
        self.slot_bytes + pages * self.page_bytes + n_tokens * size_of::<u32>() as u64
    }
}

/// A wrong field: its name, the value found and the value expected.
type Wrong = (&'static str, String, String);

/// Fails if a field differs from its expected value.
fn check<T: PartialEq + ToString>(field: &'static str, found: T, expected: T) -> Result<(), Wrong> {
    if found == expected { Ok(()) } else { Err((field, found.to_string(), expected.to_string())) }
}

/// Fails if `bytes` do not hash to `noted`.
fn check_digest(field: &'static str, bytes: &[u8], noted: [u8; 32]) -> Result<(), Wrong> {
    check(field, blake3::hash(bytes), blake3::Hash::from_bytes(noted))
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let vocab = self.vocab | u64::from(self.n_next) << 32;
        let page = self.page_bytes | u64::from(self.n_points) << 32;
        let numbers = [self.n_tokens, self.max_context, vocab, self.slot_bytes, page];
        let version = match (self.n_points, self.n_next) {
            (0, 0) => 1,
            (0, _) => 2,
            _ => VERSION,
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.note_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.plan);
        for (place, number) in bytes[56..96].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[96..128].copy_from_slice(&self.target);
        bytes[128..160].copy_from_slice(&self.content);
        let digest = blake3::hash(&bytes[..DIGEST_AT]);
        bytes[DIGEST_AT..].copy_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(file: &[u8]) -> Result<Header, Wrong> {
        let begin = &file[..file.len().min(MAGIC.len())];
        check("magic", begin.escape_ascii().to_string(), MAGIC.escape_ascii().to_string())?;
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(("length", file.len().to_string(), format!("a header of {HEADER_BYTES} bytes")));
        };
        let number = |at: usize| u64::from_le_bytes(array(bytes, at));
        let version = u32::from_le_bytes(array(bytes, 8));
        if !(1..=VERSION).contains(&version) {
            return Err(("version", version.to_string(), format!("1 … {VERSION}")));
        }
        check_digest("header digest", &bytes[..DIGEST_AT], array(bytes, DIGEST_AT))?;
        let (vocab, page) = (number(72), number(88));
        Ok(Header {
            note_bytes: u32::from_le_bytes(array(bytes, 12)),
            file_bytes: number(16),
            plan: array(bytes, 24),
            n_tokens: number(56),
            max_context: number(64),
            vocab: if version == 1 { vocab } else { vocab & u64::from(u32::MAX) },
            n_next: if version == 1 { 0 } else { (vocab >> 32) as u32 },
            slot_bytes: number(80),
            page_bytes: if version < 3 { page } else { page & u64::from(u32::MAX) },
            n_points: if version < 3 { 0 } else { (page >> 32) as u32 },
            target: array(bytes, 96),
            content: array(bytes, 128),
        })
    }

    /// Checks the header against the engine's plan and target.
    fn check(&self, format: &StateFormat) -> Result<(), Wrong> {
        self.check_plan(format)?;
        check("max_context", self.max_context, format.max_context)?;
        check("vocabulary", self.vocab, format.vocab)?;
        check("state slot bytes", self.slot_bytes, format.slot_bytes)?;
        check("KV page bytes", self.page_bytes, format.page_bytes)?;
        if self.n_tokens > self.max_context {
            return Err(("tokens", self.n_tokens.to_string(), format!("up to {}", self.max_context)));
        }
        if u64::from(self.n_next) > self.max_context {
            return Err(("tokens to read next", self.n_next.to_string(), format!("up to {}", self.max_context)));
        }
        if self.n_points as usize > MAX_POINTS {
            return Err(("save points", self.n_points.to_string(), format!("up to {MAX_POINTS}")));
        }
        let name = self.target.split(|&byte| byte == 0).next().unwrap_or_default();
        let targets = &format.targets;
        if !targets.iter().any(|target| target.as_bytes() == name) {
            return Err(("target", name.escape_ascii().to_string(), format!("one of {targets:?}")));
        }
        let Some(content_bytes) = self.content_bytes() else {
            let expected = "a state that memory holds".to_owned();
            return Err(("tokens", format!("{} tokens and {} to read next", self.n_tokens, self.n_next), expected));
        };
        check("length", self.file_bytes, HEADER_BYTES as u64 + content_bytes)
    }

    /// Fails for the state of another plan. The error names both models.
    fn check_plan(&self, format: &StateFormat) -> Result<(), Wrong> {
        let (found, expected) = (blake3::Hash::from_bytes(self.plan), format.plan);
        if found == expected {
            return Ok(());
        }
        let of = |digest: blake3::Hash, name: &str| match name {
            "" => digest.to_string(),
            name => format!("{digest} of a plan of {name}"),
        };
        let name = self.target.split(|&byte| byte == 0).nth(1).unwrap_or_default();
        Err(("plan", of(found, &String::from_utf8_lossy(name)), of(expected, &format.model)))
    }

    /// Size of tokens, state slot, pages, save points and note, in bytes; `None` beyond any memory.
    fn content_bytes(&self) -> Option<u64> {
        let tokens = self.n_tokens.checked_add(self.n_next.into())?.checked_mul(size_of::<u32>() as u64)?;
        let pages = self.n_pages().checked_mul(self.page_bytes)?;
        let points = self.slot_bytes.checked_add(POINT_TOKENS as u64)?.checked_mul(self.n_points.into())?;
        let parts = [tokens, self.slot_bytes, pages, points, self.note_bytes.into()];
        let bytes = parts.into_iter().try_fold(0u64, u64::checked_add)?;
        Some(bytes).filter(|&bytes| bytes <= isize::MAX as u64 / 2)
    }

    fn n_pages(&self) -> u64 {
        if self.page_bytes == 0 { 0 } else { self.n_tokens.div_ceil(KV_PAGE_TOKENS) }
    }

    /// Parses the content.
    fn snapshot(&self, content: &[u8]) -> Result<Snapshot, Wrong> {
        check_digest("content digest", content, self.content)?;
        let (tokens, rest) = content.split_at((self.n_tokens as usize + self.n_next as usize) * size_of::<u32>());
        let (state, rest) = rest.split_at(self.slot_bytes as usize);
        let (pages, rest) = rest.split_at((self.n_pages() * self.page_bytes) as usize);
        let point_bytes = POINT_TOKENS + self.slot_bytes as usize;
        let (points, note) = rest.split_at(self.n_points as usize * point_bytes);
        let note = str::from_utf8(note).map_err(|error| ("note", error.to_string(), "UTF-8".to_owned()))?;
        let tokens: Vec<u32> = tokens.chunks_exact(4).map(|bytes| u32::from_le_bytes(array(bytes, 0))).collect();
        if let Some(token) = tokens.iter().find(|&&token| u64::from(token) >= self.vocab) {
            return Err(("tokens", format!("token {token}"), format!("a vocabulary of {}", self.vocab)));
        }
        let name: Vec<u8> = self.target.iter().copied().take_while(|&byte| byte != 0).collect();
        let (plan, target) = (blake3::Hash::from_bytes(self.plan), Arc::from(String::from_utf8_lossy(&name)));
        let point = |bytes: &[u8]| {
            let (n_tokens, state) = bytes.split_at(POINT_TOKENS);
            let n_tokens = u64::from_le_bytes(array(n_tokens, 0));
            match tokens.get(..n_tokens as usize).filter(|_| n_tokens <= self.n_tokens) {
                Some(begin) => Ok(SavePoint::new(plan, &target, begin, state.into())),
                None => Err(("save point", format!("{n_tokens} tokens"), format!("up to {}", self.n_tokens))),
            }
        };
        let points: Vec<SavePoint> = points.chunks_exact(point_bytes).map(point).collect::<Result<_, _>>()?;
        Ok(Snapshot {
            plan,
            target: target.clone(),
            max_context: self.max_context,
            vocab: self.vocab,
            model: String::from_utf8_lossy(self.target.split(|&byte| byte == 0).nth(1).unwrap_or_default()).into(),
            tokens: tokens[..self.n_tokens as usize].into(),
            next: tokens[self.n_tokens as usize..].into(),
            state: state.into(),
            page_bytes: self.page_bytes,
            pages: pages.chunks_exact((self.page_bytes as usize).max(1)).map(Arc::from).collect(),
            points: points.into(),
            note: note.into(),
        })
    }
}

/// `N` bytes from offset `at`, which the caller has checked to exist.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

impl Snapshot {
    /// A state file, as an output.
    pub const FILE: Kind =
        Kind { name: "a saved state", content: Content::Private, recognizes: |head| head.starts_with(&MAGIC) };

    /// Writes the snapshot to a `.state` file of [`Snapshot::bytes`] + 192 bytes, and 8 for each save point. Replaces an existing
    /// state file atomically.
    ///
    /// # Errors
    /// [`RuntimeError::Output`] if the path cannot be written, or has a file that is no state; that file is unchanged.
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, OpenOptions, Snapshot};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let path = folder.path().join("prompt.state");
    /// let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20, 30], None, None)?;
    /// engine.snapshot(sequence)?.save(&path)?;
    ///
    /// let mut another = Engine::open(&plan, OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
    /// let snapshot = Snapshot::load(&path, &another)?;
    /// let sequence = another.restore(&snapshot)?;
    /// assert_eq!(another.tokens(sequence)?, [1, 20, 30]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, path: &Path) -> Result<(), RuntimeError> {
        self.save_to(Output::at(path, Snapshot::FILE, Replace::SameKind)?)
    }

    /// Like [`Snapshot::save`], to an output that was claimed before the work.
    ///
    /// # Errors
    /// [`RuntimeError::Output`] if it cannot be written; an existing file is unchanged then.
    pub fn save_to(&self, output: Output) -> Result<(), RuntimeError> {
        let numbers = self.number_bytes();
        Ok(write_whole(output, &self.header(&numbers), self.parts(&numbers))?)
    }

    /// The bytes of a file that [`Snapshot::save`] writes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = self.number_bytes();
        let mut bytes = self.header(&numbers).to_vec();
        self.parts(&numbers).for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// Reads what [`Snapshot::to_bytes`] made, for an engine of the same plan.
    ///
    /// # Errors
    /// [`RuntimeError::StateBytes`] names the wrong field.
    pub fn from_bytes(bytes: &[u8], engine: &Engine) -> Result<Snapshot, RuntimeError> {
        engine.state_format().read(bytes)
    }

    fn number_bytes(&self) -> Numbers {
        let tokens = self.tokens.iter().chain(&*self.next).flat_map(|token| token.to_le_bytes()).collect();
        let points = self.points.iter().map(|point| point.n_tokens().to_le_bytes()).collect();
        Numbers { tokens, points }
    }

    /// Everything after the header.
    fn parts<'a>(&'a self, numbers: &'a Numbers) -> impl Iterator<Item = &'a [u8]> {
        let pages = self.pages.iter().map(|page| &page[..]);
        let points = self.points.iter().zip(&numbers.points).flat_map(|(point, n)| [&n[..], point.state()]);
        [&numbers.tokens, &*self.state].into_iter().chain(pages).chain(points).chain([self.note.as_bytes()])
    }

    fn header(&self, numbers: &Numbers) -> [u8; HEADER_BYTES] {
        let mut content = blake3::Hasher::new();
        let mut content_bytes = 0;
        for part in self.parts(numbers) {
            content.update(part);
            content_bytes += part.len();
        }
        let mut target = [0; TARGET_BYTES];
        let names = [self.target.as_bytes(), &[0], self.model.as_bytes()].concat();
        let n = names.len().min(TARGET_BYTES);
        target[..n].copy_from_slice(&names[..n]);
        let header = Header {
            note_bytes: self.note.len() as u32,
            file_bytes: (HEADER_BYTES + content_bytes) as u64,
            plan: *self.plan.as_bytes(),
            n_tokens: self.tokens.len() as u64,
            max_context: self.max_context,
            vocab: self.vocab,
            n_next: self.next.len() as u32,
            slot_bytes: self.state.len() as u64,
            page_bytes: self.page_bytes,
            n_points: self.points.len() as u32,
            target,
            content: *content.finalize().as_bytes(),
        };
        header.encode()
    }

    /// Reads a file that [`Snapshot::save`] wrote, for an engine of the same plan.
    ///
    /// # Errors
    /// [`RuntimeError::StateFile`] names the wrong field if the file is truncated, modified, of another version, or of
    /// another plan.
    pub fn load(path: &Path, engine: &Engine) -> Result<Snapshot, RuntimeError> {
        engine.state_format().load(path)
    }
}

/// The numbers of a snapshot as bytes.
struct Numbers {
    /// The tokens and those to read next.
    tokens: Vec<u8>,
    /// The numbers of tokens of the save points.
    points: Vec<[u8; POINT_TOKENS]>,
}

fn write_whole<'a>(output: Output, header: &[u8], content: impl Iterator<Item = &'a [u8]>) -> Result<(), OutputError> {
    let mut file = output.create()?;
    file.write_all(header)?;
    for part in content {
        file.write_all(part)?;
    }
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_written() {
        let header = Header {
            note_bytes: 10,
            file_bytes: 1,
            plan: [2; 32],
            n_tokens: 3,
            max_context: 4,
            vocab: 5,
            n_next: 9,
            slot_bytes: 6,
            page_bytes: 7,
            n_points: 10,
            target: [8; 32],
            content: [9; 32],
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header.clone()));
        let wrong = |at: usize, length: usize| {
            let mut bytes = header.encode();
            bytes[at] ^= 0x10;
            Header::decode(&bytes[..length]).unwrap_err().0
        };
        assert_eq!(
            [wrong(0, 192), wrong(7, 3), wrong(8, 192), wrong(191, 191)],
            ["magic", "magic", "version", "length"]
        );
        assert!((12..192).all(|at| wrong(at, 192) == "header digest"));
    }
}
