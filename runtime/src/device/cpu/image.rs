//! Reads kernel code: an ELF shared object of functions that need nothing else.
//!
//! Everything is refused that the loader of the system would act on: other libraries, imports, initializers, relocations,
//! thread-local storage, memory that is writable and executable.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};

/// Alignment of segments: the largest page that the architecture has.
pub(super) const PAGE_BYTES: u64 = if cfg!(target_arch = "aarch64") { 65536 } else { 4096 };

/// Largest address of an image, far above the code of any plan.
const MAX_BYTES: u64 = 1 << 30;

/// What is mapped of a shared object, and the functions in it.
pub(super) struct Image<'a> {
    pub(super) segments: Vec<Segment<'a>>,
    /// One more than the largest address.
    pub(super) bytes: u64,
    /// Names and addresses of functions.
    functions: Vec<(&'a [u8], u64)>,
}

/// Bytes at consecutive addresses.
pub(super) struct Segment<'a> {
    /// Whole pages.
    pub(super) addresses: Range<u64>,
    /// Address of the first byte of `contents`. The other bytes are zero.
    pub(super) address: u64,
    pub(super) contents: &'a [u8],
    pub(super) is_executable: bool,
}

impl<'a> Image<'a> {
    /// Reads the code of a plan.
    ///
    /// # Errors
    /// What is refused, and its name.
    pub(super) fn parse(elf: &'a [u8]) -> Result<Image<'a>, String> {
        let invalid = |error: object::Error| format!("not an ELF file of code: {error}");
        let header = FileHeader64::<LittleEndian>::parse(elf).map_err(invalid)?;
        let endian = header.endian().map_err(invalid)?;
        if header.e_type(endian) != elf::ET_DYN || header.e_machine(endian) != MACHINE {
            let (kind, machine) = (header.e_type(endian), header.e_machine(endian));
            return Err(format!(
                "ELF type {} for machine {}, expected a shared object for machine {}",
                kind.0, machine.0, MACHINE.0
            ));
        }
        let sections = header.sections(endian, elf).map_err(invalid)?;
        let symbols = sections.symbols(endian, elf, elf::SHT_DYNSYM).map_err(invalid)?;
        let mut functions = Vec::new();
        for symbol in symbols.iter().skip(1) {
            let name = symbol.name(endian, symbols.strings()).map_err(invalid)?;
            if symbol.is_undefined(endian) {
                return Err(format!("imports {}, expected no imports", String::from_utf8_lossy(name)));
            }
            if symbol.st_type() == elf::STT_GNU_IFUNC {
                return Err(format!("{} is chosen by a function, expected none", String::from_utf8_lossy(name)));
            }
            if symbol.st_type() == elf::STT_FUNC {
                functions.push((name, symbol.st_value(endian)));
            }
        }
        let mut segments = Vec::new();
        for program in header.program_headers(endian, elf).map_err(invalid)? {
            match program.p_type(endian) {
                elf::PT_LOAD => segments.push(segment(program, elf)?),
                elf::PT_DYNAMIC => {
                    let entries = program.dynamic(endian, elf).map_err(invalid)?.unwrap_or_default();
                    entries.iter().try_for_each(|entry| allowed(entry.d_tag(endian)))?;
                }
                elf::PT_INTERP => return Err("found a program interpreter, expected none".to_owned()),
                elf::PT_TLS => return Err("found thread-local storage, expected none".to_owned()),
                // Headers, notes, and protections that stricter ones replace.
                _ => {}
            }
        }
        if segments.windows(2).any(|pair| pair[0].addresses.end > pair[1].addresses.start) {
            return Err("found segments that overlap or are not in order".to_owned());
        }
        let bytes = segments.last().map_or(0, |segment| segment.addresses.end);
        Ok(Image { segments, bytes, functions })
    }

    /// The address of a function.
    ///
    /// # Errors
    /// There is no such function, or it is not in an executable segment.
    pub(super) fn function(&self, name: &str) -> Result<u64, String> {
        let found = self.functions.iter().find(|(found, _)| *found == name.as_bytes());
        let &(_, address) = found.ok_or_else(|| format!("has no function {name}"))?;
        let is_inside = |segment: &Segment| {
            segment.is_executable
                && (segment.address..segment.address + segment.contents.len() as u64).contains(&address)
        };
        let is_code = self.segments.iter().any(is_inside);
        is_code.then_some(address).ok_or_else(|| format!("{name} is at {address:#x}, which is not code"))
    }
}

#[cfg(target_arch = "aarch64")]
const MACHINE: elf::Machine = elf::EM_AARCH64;
#[cfg(not(target_arch = "aarch64"))]
const MACHINE: elf::Machine = elf::EM_X86_64;

fn segment<'a>(program: &elf::ProgramHeader64<LittleEndian>, elf: &'a [u8]) -> Result<Segment<'a>, String> {
    let endian = LittleEndian;
    let (address, bytes) = (program.p_vaddr(endian), program.p_memsz(endian));
    let has = |flag: elf::ProgramFlags| program.p_flags(endian).0 & flag.0 != 0;
    let contents = program.data(endian, elf).map_err(|()| format!("the segment at {address:#x} is not in the file"))?;
    let end = address.checked_add(bytes).filter(|&end| end <= MAX_BYTES && contents.len() as u64 <= bytes);
    let Some(end) = end else {
        return Err(format!(
            "the segment at {address:#x} has {bytes} bytes, of which {} are in the file",
            contents.len()
        ));
    };
    if has(elf::PF_W) && has(elf::PF_X) {
        return Err(format!("the segment at {address:#x} is writable and executable"));
    }
    let addresses = address / PAGE_BYTES * PAGE_BYTES..end.next_multiple_of(PAGE_BYTES);
    Ok(Segment { addresses, address, contents, is_executable: has(elf::PF_X) })
}

/// Refuses entries of the dynamic section that ask a loader for work.
fn allowed(tag: elf::DynamicTag) -> Result<(), String> {
    match tag {
        elf::DT_NULL | elf::DT_SONAME | elf::DT_FLAGS | elf::DT_FLAGS_1 => Ok(()),
        elf::DT_HASH | elf::DT_GNU_HASH | elf::DT_STRTAB | elf::DT_SYMTAB | elf::DT_STRSZ | elf::DT_SYMENT => Ok(()),
        elf::DT_NEEDED => Err("needs another library, expected none".to_owned()),
        elf::DT_INIT | elf::DT_FINI | elf::DT_INIT_ARRAY | elf::DT_FINI_ARRAY | elf::DT_PREINIT_ARRAY => {
            Err("has an initializer or finalizer, expected none".to_owned())
        }
        elf::DT_RELA | elf::DT_REL | elf::DT_JMPREL | elf::DT_RELR => Err("has relocations, expected none".to_owned()),
        tag => Err(format!("has entry {:#x} in its dynamic section, expected none but symbols", tag.0)),
    }
}
