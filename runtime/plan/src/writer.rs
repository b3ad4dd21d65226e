//! Writes a plan section by section and hashes while writing, so weights of any size can be streamed.
//!
//! The plan replaces its target when it is complete; a failed build leaves an existing plan unchanged ([`mod@crate::output`]). Equal
//! sections give equal bytes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::PlanError;
use crate::format::{Manifest, Program, TargetKind};
use crate::header::{HEADER_BYTES, Header, OLDEST_READER, VERSION};
use crate::output::{Kind, Output, OutputFile, Replace};
use crate::sections::{self, FIRST_SECTION, MAX_SECTIONS, Section, SectionKind, TABLE};

/// Bytes hashed and written per chunk.
const CHUNK_BYTES: usize = 1 << 20;

/// A plan that is being written. Dropping it before [`PlanWriter::finish`] removes the temporary file.
#[derive(Debug)]
pub struct PlanWriter {
    path: PathBuf,
    file: OutputFile,
    sections: Vec<Section>,
    next: u64,
}

impl PlanWriter {
    /// Starts a plan that will be stored at `path`, whatever regular file is there now.
    pub fn create(path: impl AsRef<Path>) -> Result<PlanWriter, PlanError> {
        PlanWriter::to(Output::at(path.as_ref(), Kind::PLAN, Replace::AnyFile)?)
    }

    /// Starts a plan for a claimed output.
    pub fn to(output: Output) -> Result<PlanWriter, PlanError> {
        let path = output.path().to_owned();
        Ok(PlanWriter { path, file: output.create()?, sections: Vec::new(), next: FIRST_SECTION })
    }

    /// Adds the manifest.
    pub fn manifest(&mut self, manifest: &Manifest) -> Result<(), PlanError> {
        let kind = SectionKind::Manifest;
        let bytes = serde_json::to_vec_pretty(manifest)
            .map_err(|error| PlanError::Decode { section: kind.name().to_owned(), reason: error.to_string() })?;
        self.section(kind, kind.name(), &bytes)
    }

    /// Adds the program of a kind of target.
    pub fn program(&mut self, target: TargetKind, program: &Program) -> Result<(), PlanError> {
        let kind = SectionKind::Program;
        let name = target.section(kind.name());
        let bytes = postcard::to_stdvec(program)
            .map_err(|error| PlanError::Decode { section: name.clone(), reason: error.to_string() })?;
        self.section(kind, &name, &bytes)
    }

    /// Adds the code for one target: an ELF shared object, or PTX. The assembled PTX has the target's name with the suffix
    /// [`crate::sections::CUBIN`].
    pub fn code(&mut self, target: &str, code: &[u8]) -> Result<(), PlanError> {
        self.section(SectionKind::Code, &format!("code/{target}"), code)
    }

    /// Adds a section from bytes in memory.
    pub fn section(&mut self, kind: SectionKind, name: &str, bytes: &[u8]) -> Result<(), PlanError> {
        self.stream_section(kind, name, |out| {
            out.write_all(bytes).map_err(|source| PlanError::Io {
                path: PathBuf::from(name),
                action: "write the section",
                source,
            })
        })
        .map(|_| ())
    }

    /// Adds a section that `fill` writes and returns its length in bytes. Errors of `fill` are returned unchanged.
    pub fn stream_section<E: From<PlanError>>(
        &mut self,
        kind: SectionKind,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.check_name(kind, name)?;
        self.file.file().seek(SeekFrom::Start(self.next)).map_err(|source| io_error(&self.path, "seek in", source))?;
        let mut out = Hashing {
            file: self.file.file(),
            hasher: blake3::Hasher::new(),
            buffer: Vec::with_capacity(CHUNK_BYTES),
            bytes: 0,
        };
        fill(&mut out)?;
        out.flush_buffer().map_err(|source| PlanError::Io { path: self.path.clone(), action: "write", source })?;
        let section = Section {
            kind: kind.code(),
            name: name.to_owned(),
            offset: self.next,
            bytes: out.bytes,
            digest: out.hasher.finalize(),
        };
        self.next =
            section.next_offset().ok_or_else(|| PlanError::record(TABLE, name, out.bytes, "a length that fits"))?;
        self.sections.push(section);
        Ok(out.bytes)
    }

    /// Writes the header and the table, and renames the file to its final name. Returns its length in bytes.
    pub fn finish(mut self) -> Result<u64, PlanError> {
        let table = sections::encode(&self.sections);
        let header = Header {
            version: VERSION,
            oldest_reader: OLDEST_READER,
            file_bytes: self.next,
            n_sections: self.sections.len() as u32,
            table_digest: *blake3::hash(&table).as_bytes(),
        };
        let write = |file: &mut File| {
            file.set_len(header.file_bytes)?; // the gaps left by seeking are zero
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.encode())?;
            debug_assert_eq!(file.stream_position()?, HEADER_BYTES as u64);
            file.write_all(&table)
        };
        write(self.file.file()).map_err(|source| io_error(&self.path, "write", source))?;
        self.file.finish()?;
        Ok(header.file_bytes)
    }

    fn check_name(&self, kind: SectionKind, name: &str) -> Result<(), PlanError> {
        if !sections::name_fits(name) || !kind.accepts(name) {
            return Err(PlanError::record(TABLE, "name", format!("{name:?}"), kind.name()));
        }
        if self.sections.iter().any(|section| section.name == name) {
            return Err(PlanError::record(TABLE, "name", format!("{name:?}, again"), "a new name"));
        }
        if self.sections.len() == MAX_SECTIONS {
            return Err(PlanError::record(TABLE, name, "one section more", format!("at most {MAX_SECTIONS}")));
        }
        Ok(())
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> PlanError {
    PlanError::Io { path: path.to_owned(), action, source }
}

/// Hashes the bytes that it writes, in chunks large enough for multithreaded hashing.
struct Hashing<'a> {
    file: &'a mut File,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Hashing<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        crate::hash::update(&mut self.hasher, bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.put(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > CHUNK_BYTES {
            self.flush_buffer()?;
        }
        if bytes.len() >= CHUNK_BYTES {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_buffer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_plan_that_fails_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        std::fs::write(&path, "old").unwrap();
        let mut writer = PlanWriter::create(&path).unwrap();
        writer.section(SectionKind::Manifest, "manifest", b"{}").unwrap();
        let refused = writer.stream_section(SectionKind::Weights, "weights", |_| {
            Err(PlanError::MissingSection { section: "lost".to_owned() })
        });
        assert!(matches!(refused, Err(PlanError::MissingSection { .. })));
        drop(writer);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.plan"]);
    }

    #[test]
    fn the_file_is_the_sections_in_order() {
        let (manifest, cpu, sm_90a) = (fixture::manifest(), fixture::program(), fixture::sm_90a::program());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        let mut writer = PlanWriter::create(&path).unwrap();
        for (kind, name, bytes) in fixture::contents(&manifest, &cpu, &sm_90a) {
            match (kind, &*name) {
                (SectionKind::Manifest, _) => writer.manifest(&manifest).unwrap(),
                (SectionKind::Program, "program") => writer.program(TargetKind::Cpu, &cpu).unwrap(),
                (SectionKind::Program, _) => writer.program(TargetKind::Sm90a, &sm_90a).unwrap(),
                (SectionKind::Code, _) => writer.code(name.strip_prefix("code/").unwrap(), &bytes).unwrap(),
                _ => writer.section(kind, &name, &bytes).unwrap(),
            }
        }
        assert_eq!(writer.finish().unwrap(), fixture::plan().len() as u64);
        assert!(std::fs::read(path).unwrap() == fixture::plan());
    }

    #[test]
    fn names_follow_the_kind_and_occur_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = PlanWriter::create(folder.path().join("a.plan")).unwrap();
        assert!(writer.section(SectionKind::Manifest, "program", b"").is_err());
        assert!(writer.section(SectionKind::Code, "code/", b"").is_err());
        writer.code("x86-64-v3", b"").unwrap();
        assert!(writer.code("x86-64-v3", b"").is_err());
        assert!(writer.code(&"x".repeat(60), b"").is_err());
    }

    #[test]
    fn streaming_in_pieces_is_writing_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|i| (i * 7 + i / 251) as u8).collect();
        let write = |name: &str, piece: usize| {
            let path = folder.path().join(name);
            let mut writer = PlanWriter::create(&path).unwrap();
            let written = writer.stream_section(SectionKind::Weights, "weights", |out| {
                bytes.chunks(piece).for_each(|piece| out.write_all(piece).unwrap());
                Ok::<(), PlanError>(())
            });
            assert_eq!(written.unwrap(), bytes.len() as u64);
            writer.finish().unwrap();
            std::fs::read(path).unwrap()
        };
        let whole = write("whole", bytes.len());
        assert_eq!(&whole[FIRST_SECTION as usize..][..bytes.len()], &bytes);
        assert!(whole == write("small", 1000) && whole == write("large", CHUNK_BYTES + 3));
    }
}
