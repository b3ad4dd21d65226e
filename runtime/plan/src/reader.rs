//! Zero-copy views of a plan's bytes, available only after verification.

use crate::PlanError;
use crate::format::{Manifest, PAGE_BYTES, Program, ProgramInfo, TargetKind};
use crate::header::{HEADER_BYTES, Header};
use crate::sections::{self, CUBIN, FIRST_SECTION, Section, SectionKind, TABLE, TABLE_BYTES};
use crate::verify;

/// Bytes hashed between two progress reports.
const CHUNK_BYTES: usize = 1 << 26;

/// The sections whose digests are verified. All other checks always run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// All sections.
    #[default]
    Everything,
    /// All sections except the weights, which can take long to read.
    AllButWeights,
}

/// A verified plan.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    bytes: &'a [u8],
    header: Header,
    sections: Vec<Section>,
    manifest: Manifest,
    /// In the manifest's order.
    programs: Vec<Program>,
}

impl<'a> Plan<'a> {
    /// Verifies a whole plan: [`Plan::parse_with`] with [`Verify::Everything`].
    pub fn parse(bytes: &'a [u8]) -> Result<Plan<'a>, PlanError> {
        Plan::parse_with(bytes, Verify::Everything)
    }

    /// Verifies a plan: the frame (header, table, bounds, padding), the digests, then the manifest and every offset, count and
    /// index of the programs.
    pub fn parse_with(bytes: &'a [u8], verify: Verify) -> Result<Plan<'a>, PlanError> {
        Plan::parse_telling(bytes, verify, &mut |_, _| ())
    }

    /// Like [`Plan::parse_with`], but reports progress: the number of bytes whose digests were verified, and the total.
    pub fn parse_telling(
        bytes: &'a [u8],
        verify: Verify,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Plan<'a>, PlanError> {
        let header = Header::decode(bytes)?;
        let sections = read_table(bytes, &header)?;
        check_length(bytes, &header, &sections)?;
        let is_checked =
            |section: &&Section| verify == Verify::Everything || section.kind != SectionKind::Weights.code();
        let total = sections.iter().filter(is_checked).map(|section| section.bytes).sum();
        let mut done = 0;
        for section in &sections {
            check_padding(bytes, section)?;
            if is_checked(&section) {
                let mut tell = |chunk: u64| {
                    done += chunk;
                    tell(done, total);
                };
                check_digest(view(bytes, section), &section.name, &section.digest, &mut tell)?;
            }
        }
        let find = |kind: SectionKind, name: &str| {
            let missing = || PlanError::MissingSection { section: name.to_owned() };
            let found = |section: &&Section| section.kind == kind.code() && section.name == name;
            sections.iter().find(found).map(|section| view(bytes, section)).ok_or_else(missing)
        };
        let manifest = decode_manifest(find(SectionKind::Manifest, SectionKind::Manifest.name())?)?;
        verify::manifest(&manifest)?;
        verify::sections(&manifest, &sections)?;
        let mut programs = Vec::with_capacity(manifest.programs.len());
        for info in &manifest.programs {
            let name = info.kind.section(SectionKind::Program.name());
            let program = decode_program(find(SectionKind::Program, &name)?, &name)?;
            verify::program(&manifest, info, &program)?;
            programs.push(program);
        }
        Ok(Plan { bytes, header, sections, manifest, programs })
    }

    /// The decoded manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The program of one kind of target; `None` if the plan does not support it.
    pub fn program(&self, kind: TargetKind) -> Option<&Program> {
        self.programs().find_map(|(info, program)| (info.kind == kind).then_some(program))
    }

    /// The program of the plan's first kind of target; this is the CPU if the plan supports it.
    pub fn first(&self) -> (&ProgramInfo, &Program) {
        (&self.manifest.programs[0], &self.programs[0])
    }

    /// Every program with its manifest record.
    pub fn programs(&self) -> impl Iterator<Item = (&ProgramInfo, &Program)> {
        self.manifest.programs.iter().zip(&self.programs)
    }

    /// The decoded header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The records of all sections, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// BLAKE3 digest of the header. It covers all other digests, so equal digests mean equal plans.
    pub fn digest(&self) -> blake3::Hash {
        crate::header::digest_of(&self.header.encode())
    }

    /// The bytes of one of [`Plan::sections`].
    pub fn bytes_of(&self, section: &Section) -> &'a [u8] {
        view(self.bytes, section)
    }

    /// The bytes of the first section of a kind.
    pub fn section(&self, kind: SectionKind) -> Option<&'a [u8]> {
        self.sections.iter().find(|section| section.kind == kind.code()).map(|section| view(self.bytes, section))
    }

    /// Byte range of a target kind's weights in the file; `None` for synthetic weights.
    pub fn weights_range(&self, kind: TargetKind) -> Option<std::ops::Range<usize>> {
        let name = kind.section(SectionKind::Weights.name());
        let section = self.sections.iter().find(|section| section.name == name)?;
        Some(section.offset as usize..(section.offset + section.bytes) as usize)
    }

    /// The assembled code (cubin) of a target, if present.
    pub fn cubin(&self, target: &str) -> Option<&'a [u8]> {
        self.code(&format!("{target}{CUBIN}"))
    }

    /// The code of a target: an ELF shared object, or PTX.
    pub fn code(&self, target: &str) -> Option<&'a [u8]> {
        let named = |section: &&Section| section.name.strip_prefix("code/") == Some(target);
        self.sections.iter().find(named).map(|section| view(self.bytes, section))
    }
}

/// The bytes of a section whose bounds were verified.
fn view<'a>(bytes: &'a [u8], section: &Section) -> &'a [u8] {
    &bytes[section.offset as usize..(section.offset + section.bytes) as usize]
}

pub(crate) fn read_table(bytes: &[u8], header: &Header) -> Result<Vec<Section>, PlanError> {
    let Some(page) = bytes.get(HEADER_BYTES..).and_then(|rest| rest.first_chunk::<TABLE_BYTES>()) else {
        return Err(PlanError::Truncated {
            section: TABLE.to_owned(),
            found: bytes.len() as u64,
            expected: header.file_bytes.max(FIRST_SECTION),
        });
    };
    check_digest(page, TABLE, &blake3::Hash::from_bytes(header.table_digest), &mut |_| ())?;
    sections::decode(page, header.n_sections, header.file_bytes)
}

/// The sections of a plan of `file_bytes`, from its first [`FIRST_SECTION`] bytes, whose digests are compared. For programs that read
/// parts of a file before the plan is verified as a whole.
///
/// # Errors
/// As [`Plan::parse`], for a header or a table that is wrong or of another file.
pub fn frame(begin: &[u8], file_bytes: u64) -> Result<Vec<Section>, PlanError> {
    let header = Header::decode(begin)?;
    if header.file_bytes != file_bytes {
        let expected = header.file_bytes.to_string();
        return Err(PlanError::record("header", "file length", file_bytes, expected));
    }
    read_table(begin, &header)
}

fn check_length(bytes: &[u8], header: &Header, sections: &[Section]) -> Result<(), PlanError> {
    let (found, expected) = (bytes.len() as u64, header.file_bytes);
    if found > expected {
        return Err(PlanError::record("header", "file length", format!("{found} bytes"), format!("{expected} bytes")));
    }
    if found < expected {
        let cut = sections.iter().find(|section| section.next_offset().is_none_or(|next| found < next));
        let section = cut.map_or(TABLE, |section| &section.name).to_owned();
        return Err(PlanError::Truncated { section, found, expected });
    }
    Ok(())
}

/// What padding is compared with: a page.
const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

fn check_padding(bytes: &[u8], section: &Section) -> Result<(), PlanError> {
    let start = (section.offset + section.bytes) as usize;
    let end = section.next_offset().map_or(bytes.len(), |next| next as usize);
    let padding = &bytes[start..end];
    if padding.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()]) {
        return Ok(());
    }
    let at = start + padding.iter().position(|&byte| byte != 0).unwrap_or_default();
    Err(PlanError::Padding { section: section.name.clone(), offset: at as u64, found: bytes[at] })
}

pub(crate) fn check_digest(
    bytes: &[u8],
    section: &str,
    expected: &blake3::Hash,
    tell: &mut dyn FnMut(u64),
) -> Result<(), PlanError> {
    let mut hasher = blake3::Hasher::new();
    for chunk in bytes.chunks(CHUNK_BYTES) {
        crate::hash::update(&mut hasher, chunk);
        tell(chunk.len() as u64);
    }
    let found = hasher.finalize();
    if found != *expected {
        return Err(PlanError::Digest { section: section.to_owned(), found, expected: *expected });
    }
    Ok(())
}

pub(crate) fn decode_manifest(bytes: &[u8]) -> Result<Manifest, PlanError> {
    serde_json::from_slice(bytes).map_err(|error| PlanError::Decode {
        section: SectionKind::Manifest.name().to_owned(),
        reason: error.to_string(),
    })
}

fn decode_program(bytes: &[u8], section: &str) -> Result<Program, PlanError> {
    let decode = |reason: String| PlanError::Decode { section: section.to_owned(), reason };
    let (program, rest) = postcard::take_from_bytes(bytes).map_err(|error| decode(error.to_string()))?;
    if !rest.is_empty() {
        return Err(decode(format!("{} bytes follow it", rest.len())));
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::format::SLACK_BYTES;
    use crate::header::VERSION;

    /// Name of the section that contains `offset`, for error messages.
    fn section_at(plan: &Plan<'_>, offset: u64) -> String {
        match offset {
            _ if offset < PAGE_BYTES => "header".to_owned(),
            _ if offset < FIRST_SECTION => TABLE.to_owned(),
            _ => plan.sections.iter().rfind(|section| section.offset <= offset).unwrap().name.clone(),
        }
    }

    fn refusal(bytes: &[u8]) -> PlanError {
        Plan::parse(bytes).expect_err("a damaged plan must be refused")
    }

    #[test]
    fn reads_what_was_written() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        assert_eq!(plan.manifest(), &fixture::manifest());
        assert_eq!(plan.program(TargetKind::Cpu), Some(&fixture::program()));
        assert_eq!(plan.program(TargetKind::Sm90a), Some(&fixture::sm_90a::program()));
        assert_eq!((plan.cubin("sm_90a"), plan.cubin("x86-64-v2")), (Some(&b"assembled"[..]), None));
        assert_eq!(plan.code("x86-64-v2"), Some(&b"code for x86-64-v2"[..]));
        assert_eq!(plan.section(SectionKind::Tokenizer), Some(&b"{}"[..]));
        assert_eq!(plan.section(SectionKind::ChatTemplate), None);
        let weights: Vec<u8> = (0..160).collect();
        assert_eq!(plan.section(SectionKind::Weights), Some(&weights[..]));
        assert!(bytes.len() as u64 - plan.weights_range(TargetKind::Cpu).unwrap().end as u64 >= SLACK_BYTES);
    }

    #[test]
    fn same_input_gives_the_same_bytes() {
        assert_eq!(fixture::plan(), fixture::plan());
    }

    #[test]
    fn every_changed_byte_is_refused_by_name() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        let dense =
            plan.sections.iter().find(|section| section.name == "program/sm_90a").unwrap().next_offset().unwrap();
        let offsets = (0..dense).chain((dense..bytes.len() as u64).step_by(97));
        let mut damaged = bytes.clone();
        for offset in offsets {
            let at = offset as usize;
            damaged[at] ^= 1 << (at % 8);
            assert_eq!(refusal(&damaged).section(), Some(&*section_at(&plan, offset)), "byte {offset}");
            damaged[at] = bytes[at];
        }
        Plan::parse(&damaged).unwrap();
    }

    #[test]
    fn every_cut_is_refused_by_name() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        for length in 0..bytes.len() {
            let error = refusal(&bytes[..length]);
            match error {
                PlanError::NotAPlan { .. } => assert_eq!(length, 0),
                PlanError::Truncated { section, found, .. } => {
                    assert_eq!((section, found), (section_at(&plan, length as u64), length as u64));
                }
                other => panic!("cut at {length}: {other}"),
            }
        }
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = fixture::plan();
        bytes.push(0);
        assert_eq!(refusal(&bytes).section(), Some("header"));
    }

    #[test]
    fn other_files_and_newer_formats_are_refused() {
        assert!(matches!(refusal(b"\x7fELF, more than eight"), PlanError::NotAPlan { .. }));
        let mut bytes = fixture::plan();
        let mut header = Header::decode(&bytes).unwrap();
        (header.version, header.oldest_reader) = (9, 7);
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        assert!(matches!(refusal(&bytes), PlanError::NewerFormat { version: 9, oldest_reader: 7, ours: VERSION }));
    }

    /// Invalid records with matching digests.
    #[test]
    fn bad_records_of_the_table_are_refused() {
        type Spoil = fn(&mut Header, &mut Vec<Section>);
        let cases: [(&str, Spoil); 8] = [
            ("records[1].offset", |_, sections| sections[1].offset += PAGE_BYTES),
            ("records[0].offset", |_, sections| sections.swap(0, 1)),
            ("records[2].length", |_, sections| sections[2].bytes = u64::MAX - 5),
            ("records[0].name", |_, sections| sections[0].name = "program".to_owned()),
            ("records[3].name", |_, sections| sections[3].name = sections[2].name.clone()),
            ("file length", |header, _| header.file_bytes += PAGE_BYTES),
            ("records[9]", |header, _| header.n_sections -= 1),
            ("number of sections", |header, _| header.n_sections = 33),
        ];
        for (expected, spoil) in cases {
            let mut bytes = fixture::plan();
            let plan = Plan::parse(&bytes).unwrap();
            let (mut header, mut sections) = (plan.header.clone(), plan.sections.clone());
            spoil(&mut header, &mut sections);
            let table = sections::encode(&sections);
            header.table_digest = *blake3::hash(&table).as_bytes();
            bytes[HEADER_BYTES..HEADER_BYTES + TABLE_BYTES].copy_from_slice(&table);
            bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
            match refusal(&bytes) {
                PlanError::Record { field, .. } => assert_eq!(field, expected),
                other => panic!("{expected}: {other}"),
            }
        }
    }

    #[test]
    fn weights_may_go_unread_and_nothing_else() {
        let bytes = fixture::plan();
        let weights = Plan::parse(&bytes).unwrap().weights_range(TargetKind::Cpu).unwrap();
        let mut damaged = bytes.clone();
        damaged[weights.start] ^= 1;
        Plan::parse_with(&damaged, Verify::AllButWeights).unwrap();
        damaged[weights.end] ^= 1;
        let error = Plan::parse_with(&damaged, Verify::AllButWeights).unwrap_err();
        assert!(matches!(error, PlanError::Padding { .. }), "{error}");
    }
}
