//! The section table: one page of fixed-size records, in file order.
//!
//! A record consists of kind (u32), zero (u32), offset (u64), length (u64), BLAKE3 (32 bytes), name (64 bytes, zero-padded) and
//! zero (8 bytes); integers are little-endian. The first section begins on the page after the table. Every section begins on a
//! page boundary and is followed by at least [`SLACK_BYTES`] zero bytes, up to the next page. The file contains nothing else.

use crate::PlanError;
use crate::format::{PAGE_BYTES, SLACK_BYTES, TargetKind};
use crate::header::array;

/// Length of the table in bytes.
pub const TABLE_BYTES: usize = PAGE_BYTES as usize;

/// Length of a record in bytes.
pub const RECORD_BYTES: usize = 128;

/// Maximum number of sections in a plan.
pub const MAX_SECTIONS: usize = TABLE_BYTES / RECORD_BYTES;

/// Offset in bytes of the first section in the file.
pub const FIRST_SECTION: u64 = 2 * PAGE_BYTES;

const NAME_AT: usize = 56;
const NAME_BYTES: usize = 64;

/// Content type of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionKind {
    /// [`crate::format::Manifest`] as JSON.
    Manifest,
    /// [`crate::format::Program`] in postcard encoding, one per kind of target.
    Program,
    /// Code of one target: an ELF shared object for a CPU; PTX for a GPU, and the assembled PTX ([`CUBIN`]).
    Code,
    /// Packed weights in the layout of [`crate::format::Program::weights`], one section per kind of target.
    Weights,
    /// The checkpoint's `tokenizer.json`.
    Tokenizer,
    /// The checkpoint's `tokenizer_config.json`.
    TokenizerConfig,
    /// The checkpoint's chat template (Jinja).
    ChatTemplate,
    /// The checkpoint's `config.json`, without the keys that the build was told to ignore; for `jambac limits`.
    Config,
}

impl SectionKind {
    const ALL: [SectionKind; 8] = [
        SectionKind::Manifest,
        SectionKind::Program,
        SectionKind::Code,
        SectionKind::Weights,
        SectionKind::Tokenizer,
        SectionKind::TokenizerConfig,
        SectionKind::ChatTemplate,
        SectionKind::Config,
    ];

    /// The number that a record stores for this kind.
    pub fn code(self) -> u32 {
        match self {
            SectionKind::Manifest => 1,
            SectionKind::Program => 2,
            SectionKind::Code => 3,
            SectionKind::Weights => 4,
            SectionKind::Tokenizer => 5,
            SectionKind::TokenizerConfig => 6,
            SectionKind::ChatTemplate => 7,
            SectionKind::Config => 8,
        }
    }

    /// The kind with this number; `None` for kinds of newer writers, which readers skip.
    pub fn from_code(code: u32) -> Option<SectionKind> {
        SectionKind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Base name of sections of this kind. Code sections append their target: `code/x86-64-v3`. Program and weights sections
    /// append their kind of target unless it is the CPU: `program/sm_90a`.
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Manifest => "manifest",
            SectionKind::Program => "program",
            SectionKind::Code => "code",
            SectionKind::Weights => "weights",
            SectionKind::Tokenizer => "tokenizer",
            SectionKind::TokenizerConfig => "tokenizer config",
            SectionKind::ChatTemplate => "chat template",
            SectionKind::Config => "config",
        }
    }

    /// Whether a section of this kind may have this name.
    pub fn accepts(self, name: &str) -> bool {
        match self {
            SectionKind::Code => name.strip_prefix("code/").is_some_and(|target| !target.is_empty()),
            SectionKind::Program | SectionKind::Weights => {
                TargetKind::ALL.into_iter().any(|kind| kind.section(self.name()) == name)
            }
            _ => name == self.name(),
        }
    }
}

/// Suffix of sections with assembled code: `code/sm_90a.cubin`.
pub const CUBIN: &str = ".cubin";

/// A record of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Number of the kind; see [`SectionKind::from_code`].
    pub kind: u32,
    /// Name: `program`, `code/x86-64-v3`.
    pub name: String,
    /// Bytes from the start of the file; a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 digest of the section.
    pub digest: blake3::Hash,
}

impl Section {
    /// Offset of the next section: after the slack, rounded up to a page. `None` on overflow.
    pub fn next_offset(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes)?.checked_add(SLACK_BYTES)?.checked_next_multiple_of(PAGE_BYTES)
    }

    /// Encodes the record; [`name_fits`] must hold for the name.
    pub(crate) fn encode(&self, record: &mut [u8]) {
        record.fill(0);
        record[0..4].copy_from_slice(&self.kind.to_le_bytes());
        record[8..16].copy_from_slice(&self.offset.to_le_bytes());
        record[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        record[24..56].copy_from_slice(self.digest.as_bytes());
        record[NAME_AT..NAME_AT + self.name.len()].copy_from_slice(self.name.as_bytes());
    }

    fn decode(record: &[u8], index: usize) -> Result<Section, PlanError> {
        let field = |what: &str| format!("records[{index}].{what}");
        let name = &record[NAME_AT..NAME_AT + NAME_BYTES];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        let (name, rest) = name.split_at(end);
        let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        if !zero(&record[4..8]) || !zero(rest) || !zero(&record[NAME_AT + NAME_BYTES..]) {
            return Err(PlanError::record(TABLE, field("reserved"), "bytes that are not zero", "zero"));
        }
        let name = std::str::from_utf8(name).map_err(|_| {
            PlanError::record(TABLE, field("name"), format!("{:?}", String::from_utf8_lossy(name)), "UTF-8")
        })?;
        Ok(Section {
            kind: u32::from_le_bytes(array(record, 0)),
            name: name.to_owned(),
            offset: u64::from_le_bytes(array(record, 8)),
            bytes: u64::from_le_bytes(array(record, 16)),
            digest: blake3::Hash::from_bytes(array(record, 24)),
        })
    }
}

/// Name of the table in error messages.
pub const TABLE: &str = "section table";

/// Whether a name fits into a record and can be read back.
pub fn name_fits(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES && !name.contains('\0')
}

/// Encodes the table as a page.
pub fn encode(sections: &[Section]) -> [u8; TABLE_BYTES] {
    let mut page = [0; TABLE_BYTES];
    for (section, record) in sections.iter().zip(page.chunks_exact_mut(RECORD_BYTES)) {
        section.encode(record);
    }
    page
}

/// Decodes the records and checks that they cover the file in order: every name is valid for its kind and unique, every section
/// begins at the offset that the previous one determines, and the last section ends the file.
pub fn decode(page: &[u8; TABLE_BYTES], n_sections: u32, file_bytes: u64) -> Result<Vec<Section>, PlanError> {
    let count = usize::try_from(n_sections).ok().filter(|&count| count <= MAX_SECTIONS).ok_or_else(|| {
        PlanError::record("header", "number of sections", n_sections, format!("at most {MAX_SECTIONS}"))
    })?;
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    let mut next = FIRST_SECTION;
    for (index, record) in page.chunks_exact(RECORD_BYTES).enumerate() {
        if index >= count {
            if record != [0; RECORD_BYTES] {
                return Err(PlanError::record(
                    TABLE,
                    format!("records[{index}]"),
                    "a record",
                    "zero: past the last one",
                ));
            }
            continue;
        }
        let section = Section::decode(record, index)?;
        let field = |what: &str| format!("records[{index}].{what}");
        let kind = SectionKind::from_code(section.kind);
        if !name_fits(&section.name) || kind.is_some_and(|kind| !kind.accepts(&section.name)) {
            let expected = kind.map_or("a name", SectionKind::name);
            return Err(PlanError::record(TABLE, field("name"), format!("{:?}", section.name), expected));
        }
        if sections.iter().any(|other| other.name == section.name) {
            return Err(PlanError::record(TABLE, field("name"), format!("{:?}, again", section.name), "a new name"));
        }
        if section.offset != next {
            return Err(PlanError::record(TABLE, field("offset"), section.offset, next.to_string()));
        }
        next = section.next_offset().filter(|&next| next <= file_bytes).ok_or_else(|| {
            PlanError::record(TABLE, field("length"), section.bytes, format!("an end inside the file of {file_bytes}"))
        })?;
        sections.push(section);
    }
    if next != file_bytes {
        return Err(PlanError::record("header", "file length", file_bytes, format!("{next}, where the sections end")));
    }
    Ok(sections)
}
