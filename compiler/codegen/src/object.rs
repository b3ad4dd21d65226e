//! Links ELF objects into one shared object with lld, which is linked into this program as LLVM is: equal input gives equal bytes.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use jamba_plan::output::unfinished;

use crate::error::CodegenError;
use crate::ffi;

/// Flags for every link.
const FLAGS: &[&str] = &[
    "-shared",
    // Kernels call nothing: an undefined symbol is an error.
    "--no-undefined",
    "-nostdlib",
    // Remove kernels that are not exported, and symbols that the loader does not need.
    "--gc-sections",
    "--strip-all",
    // Reproducible output: the file does not depend on the time or place of linking.
    "--build-id=none",
    "--hash-style=gnu",
    // No writable code mappings; all symbols are resolved when the object is opened.
    "-znow",
    "-zrelro",
    "-znoexecstack",
    // An object has some 100 KB.
    "--threads=1",
];

/// Links objects into a shared object that depends on no library and exports the kernels.
///
/// # Errors
/// Fails if the objects do not link, or if memory for the files is short.
pub fn link(objects: &[Vec<u8>]) -> Result<Vec<u8>, CodegenError> {
    let folder =
        unfinished::Entry::folder().map_err(|source| CodegenError::Io { path: std::env::temp_dir(), source })?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CodegenError::Io { path, source }
    };
    let output = folder.path().join("kernels.so");
    let mut arguments = vec![PathBuf::from("ld.lld")];
    arguments.extend(FLAGS.iter().map(PathBuf::from));
    arguments.extend([PathBuf::from("-o"), output.clone()]);
    for (i, object) in objects.iter().enumerate() {
        let path = folder.path().join(format!("{i}.o"));
        fs::write(&path, object).map_err(io(&path))?;
        arguments.push(path);
    }
    let text = |argument: PathBuf| CString::new(argument.into_os_string().into_vec());
    let texts: Vec<CString> = arguments.into_iter().map(|argument| text(argument).expect("paths have no 0")).collect();
    ffi::lld(&texts).map_err(|message| CodegenError::Link { message })?;
    fs::read(&output).map_err(io(&output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{compile, compile_object};
    use crate::llvm::Machine;
    use inkwell::context::Context;
    use jambac_kernels::cpu::builder::ModuleBuilder;
    use jambac_kernels::kernel::{Elem, Param};
    use jambac_kernels::target::{CpuTarget, X86Level};

    fn exp(module: &ModuleBuilder, name: &str) {
        module.kernel(name, &[Param::read_write("x", Elem::F32, &[]), Param::scalar("n")], |b| {
            let x = b.buffer("x");
            b.for_each(0, b.scalar("n"), 16, |i| {
                b.store(jambac_kernels::cpu::math::exp(b.load_vector(x, i, 16)), x, i);
            });
        });
    }

    #[test]
    fn kernels_need_nothing_and_export_their_names() {
        for level in [X86Level::V2, X86Level::V3, X86Level::V4] {
            let elf = Elf(compile(CpuTarget::new(level), None, |module| exp(module, "exp")).unwrap());
            assert_eq!(elf.symbols(), [("exp".to_owned(), true)], "{level:?}");
            assert_eq!(elf.n_needed(), 0, "{level:?}");
        }
    }

    #[test]
    fn objects_link_together() {
        let target = CpuTarget::new(X86Level::V3);
        let objects = ["first", "second"].map(|name| compile_object(target, None, |module| exp(module, name)).unwrap());
        let names: Vec<String> = Elf(link(&objects).unwrap()).symbols().into_iter().map(|symbol| symbol.0).collect();
        assert_eq!(names, ["first", "second"]);
    }

    #[test]
    fn a_call_of_something_missing_is_refused() {
        let context = Context::create();
        let module = context.create_module("calls");
        let ty = context.void_type().fn_type(&[], false);
        let missing = module.add_function("memset", ty, None);
        let builder = context.create_builder();
        builder.position_at_end(context.append_basic_block(module.add_function("kernel", ty, None), "entry"));
        builder.build_direct_call(missing, &[], "").unwrap();
        builder.build_return(None).unwrap();
        let object = Machine::new(CpuTarget::new(X86Level::V2)).unwrap().object(&module).unwrap();
        let error = link(&[object]).unwrap_err().to_string();
        assert!(error.starts_with("link: ") && error.contains("undefined symbol: memset"), "{error}");
    }

    /// The parts of an ELF64 file that the tests read.
    struct Elf(Vec<u8>);

    impl Elf {
        fn u64(&self, at: usize) -> usize {
            u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap()) as usize
        }

        fn u32(&self, at: usize) -> usize {
            u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap()) as usize
        }

        fn u16(&self, at: usize) -> usize {
            u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap()) as usize
        }

        /// Offset, length and linked section of the section with a type.
        fn section(&self, kind: usize) -> (usize, usize, usize) {
            let (headers, size, count) = (self.u64(0x28), self.u16(0x3a), self.u16(0x3c));
            let header = (0..count).map(|i| headers + i * size).find(|&header| self.u32(header + 4) == kind).unwrap();
            let linked = headers + self.u32(header + 0x28) * size;
            (self.u64(header + 0x18), self.u64(header + 0x20), self.u64(linked + 0x18))
        }

        /// Names of the dynamic symbols, and whether each is defined.
        fn symbols(&self) -> Vec<(String, bool)> {
            const SHT_DYNSYM: usize = 11;
            let (start, length, strings) = self.section(SHT_DYNSYM);
            let symbols = (start..start + length).step_by(24).skip(1);
            let mut symbols: Vec<_> = symbols
                .map(|symbol| {
                    let name = &self.0[strings + self.u32(symbol)..];
                    let name = name.split(|&byte| byte == 0).next().unwrap();
                    (String::from_utf8(name.to_vec()).unwrap(), self.u16(symbol + 6) != 0)
                })
                .collect();
            symbols.sort();
            symbols
        }

        /// Number of required libraries (DT_NEEDED).
        fn n_needed(&self) -> usize {
            const SHT_DYNAMIC: usize = 6;
            const DT_NEEDED: usize = 1;
            let (start, length, _) = self.section(SHT_DYNAMIC);
            (start..start + length).step_by(16).filter(|&entry| self.u64(entry) == DT_NEEDED).count()
        }
    }
}
