//! The header page. Its layout is the same in every version of the format, so every version can reject all others with a
//! precise message.
//!
//! | bytes | content |
//! |---|---|
//! | 0 … 8 | magic: 0x89 `JAMBA` CR LF, which reveals a text-mode transfer |
//! | 8 … 12 | format version |
//! | 12 … 16 | oldest reader version that understands the plan |
//! | 16 … 24 | length of the file, in bytes |
//! | 24 … 28 | number of sections |
//! | 28 … 32 | zero |
//! | 32 … 64 | BLAKE3 of the section table's page |
//! | 64 … 4064 | zero |
//! | 4064 … 4096 | BLAKE3 of bytes 0 … 4064 |
//!
//! Integers are little-endian. The header's digest covers the digest of the table, and the table contains the digests of all
//! sections. The header's digest therefore identifies the plan.

use crate::PlanError;
use crate::format::PAGE_BYTES;

/// Magic bytes at the start of every plan.
pub const MAGIC: [u8; 8] = *b"\x89JAMBA\r\n";

/// Format version that this crate reads and writes.
pub const VERSION: u32 = 6;

/// Oldest reader version that understands the plans this crate writes.
pub const OLDEST_READER: u32 = 6;

/// Oldest format version that this crate reads.
pub const OLDEST_FORMAT: u32 = 6;

/// Length of the header in bytes: one page.
pub const HEADER_BYTES: usize = PAGE_BYTES as usize;

const DIGEST_AT: usize = HEADER_BYTES - blake3::OUT_LEN;

/// The header of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Format version.
    pub version: u32,
    /// Oldest reader version that understands the plan.
    pub oldest_reader: u32,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// Number of sections.
    pub n_sections: u32,
    /// BLAKE3 digest of the section table's page.
    pub table_digest: [u8; 32],
}

impl Header {
    /// Encodes the header as a page.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[0..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&self.version.to_le_bytes());
        page[12..16].copy_from_slice(&self.oldest_reader.to_le_bytes());
        page[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        page[24..28].copy_from_slice(&self.n_sections.to_le_bytes());
        page[32..64].copy_from_slice(&self.table_digest);
        let digest = blake3::hash(&page[..DIGEST_AT]);
        page[DIGEST_AT..].copy_from_slice(digest.as_bytes());
        page
    }

    /// Decodes the header of a file. Fails if the file is not a plan, is damaged, or needs another reader version.
    pub fn decode(file: &[u8]) -> Result<Header, PlanError> {
        let begin = &file[..file.len().min(MAGIC.len())];
        if begin.is_empty() || *begin != MAGIC[..begin.len()] {
            return Err(PlanError::NotAPlan { found: begin.to_vec() });
        }
        let Some(page) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(PlanError::Truncated {
                section: "header".to_owned(),
                found: file.len() as u64,
                expected: HEADER_BYTES as u64,
            });
        };
        let found = digest_of(page);
        let expected = blake3::Hash::from_bytes(array(page, DIGEST_AT));
        if found != expected {
            return Err(PlanError::Digest { section: "header".to_owned(), found, expected });
        }
        let header = Header {
            version: u32::from_le_bytes(array(page, 8)),
            oldest_reader: u32::from_le_bytes(array(page, 12)),
            file_bytes: u64::from_le_bytes(array(page, 16)),
            n_sections: u32::from_le_bytes(array(page, 24)),
            table_digest: array(page, 32),
        };
        if header.oldest_reader > VERSION {
            let Header { version, oldest_reader, .. } = header;
            return Err(PlanError::NewerFormat { version, oldest_reader, ours: VERSION });
        }
        if header.version < OLDEST_FORMAT {
            let (oldest, ours) = (OLDEST_FORMAT, VERSION);
            return Err(PlanError::OlderFormat { version: header.version, oldest, ours });
        }
        Ok(header)
    }
}

/// The digest stored at the end of a header page, computed from the rest of the page.
pub(crate) fn digest_of(page: &[u8; HEADER_BYTES]) -> blake3::Hash {
    blake3::hash(&page[..DIGEST_AT])
}

/// Copies N bytes of a page into an array; the page is always long enough.
pub(crate) fn array<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&page[at..at + N]);
    bytes
}
