//! Reads a plan's manifest without reading the whole file, which can be larger than memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::PlanError;
use crate::format::Manifest;
use crate::header::Header;
use crate::reader::{check_digest, decode_manifest, read_table};
use crate::sections::{FIRST_SECTION, SectionKind, TABLE};
use crate::verify;

/// Most bytes of a manifest, which has a few thousand.
const MOST_BYTES: u64 = 16 << 20;

/// Reads the manifest of a plan file, of at most 16 MiB. Verifies the digests of the header, section table and manifest, and the
/// manifest's limits and memory, only. The result is for display; it does not make the plan safe to run.
pub fn manifest(path: &Path) -> Result<Manifest, PlanError> {
    let io = |action: &'static str| move |source| PlanError::Io { path: path.to_owned(), action, source };
    let mut file = File::open(path).map_err(io("open it"))?;
    let mut begin = Vec::new();
    (&mut file).take(FIRST_SECTION).read_to_end(&mut begin).map_err(io("read it"))?;
    let header = Header::decode(&begin)?;
    let sections = read_table(&begin, &header)?;
    let missing = || PlanError::MissingSection { section: SectionKind::Manifest.name().to_owned() };
    let section = sections.iter().find(|section| section.kind == SectionKind::Manifest.code()).ok_or_else(missing)?;
    if section.bytes > MOST_BYTES {
        let expected = format!("at most {MOST_BYTES}");
        return Err(PlanError::record(TABLE, "manifest", format!("{} bytes", section.bytes), expected));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(section.offset)).map_err(io("read it"))?;
    file.take(section.bytes).read_to_end(&mut bytes).map_err(io("read it"))?;
    if (bytes.len() as u64) < section.bytes {
        let found = section.offset + bytes.len() as u64;
        return Err(PlanError::Truncated { section: section.name.clone(), found, expected: header.file_bytes });
    }
    check_digest(&bytes, &section.name, &section.digest, &mut |_| ())?;
    let manifest = decode_manifest(&bytes)?;
    verify::manifest(&manifest)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_manifest_is_read_without_the_rest_of_the_plan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        let bytes = fixture::plan();
        std::fs::write(&path, &bytes[..12288]).unwrap(); // header, table and the manifest's page
        assert_eq!(manifest(&path).unwrap(), fixture::manifest());
        std::fs::write(&path, &bytes[..8200]).unwrap();
        assert!(matches!(manifest(&path), Err(PlanError::Truncated { section, .. }) if section == "manifest"));
        let mut damaged = bytes;
        damaged[8192] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(manifest(&path), Err(PlanError::Digest { section, .. }) if section == "manifest"));
        assert!(matches!(manifest(&folder.path().join("no.plan")), Err(PlanError::Io { action: "open it", .. })));
    }
}
