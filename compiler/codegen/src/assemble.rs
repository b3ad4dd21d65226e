//! Assembles PTX with NVIDIA's ptxas, if it is installed, and parses its report of registers, spills and pipelines.

use crate::error::CodegenError;
use crate::ptx::ARCHITECTURE;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use jamba_plan::output::unfinished;

/// The result of assembling a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembled {
    pub cubin: Vec<u8>,
    /// Resource usage of each kernel, by symbol.
    pub kernels: BTreeMap<String, Usage>,
    /// Warnings that an instruction is slower than written: serialized wgmma, an ignored register count. Empty for a good
    /// kernel.
    pub warnings: Vec<String>,
}

/// Resource usage of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers per thread.
    pub registers: u32,
    /// Stack bytes per thread.
    pub stack_bytes: u32,
    /// Bytes of registers spilled to memory.
    pub spill_store_bytes: u32,
    /// Bytes of spilled registers read back.
    pub spill_load_bytes: u32,
    pub shared_bytes: u32,
}

/// True for a tool that did not run to its end: it was killed, for example because memory was short, or a library could not be
/// loaded.
fn is_of_the_system(status: ExitStatus) -> bool {
    const NOT_LOADED: i32 = 127;
    status.code().is_none_or(|code| code == NOT_LOADED)
}

/// Finds ptxas: `given`, then `CUDA_HOME`, then `PATH`.
pub fn find_ptxas(given: Option<&Path>) -> Option<PathBuf> {
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = home.into_iter().chain(absolute(&path)).map(|folder| folder.join("ptxas"));
    given.map(Path::to_owned).into_iter().chain(found).find(|path| path.is_file())
}

/// The folders of a PATH, without relative ones: these would make a program of the current folder the assembler.
fn absolute(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(path).filter(|folder| folder.is_absolute())
}

pub fn assemble(ptxas: &Path, ptx: &str) -> Result<Assembled, CodegenError> {
    let failed = |message: String| CodegenError::Assemble { assembler: ptxas.to_owned(), message };
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CodegenError::Io { path, source }
    };
    let folder = unfinished::Entry::folder().map_err(io(&std::env::temp_dir()))?;
    let (input, output) = (folder.path().join("kernels.ptx"), folder.path().join("kernels.cubin"));
    fs::write(&input, ptx).map_err(io(&input))?;
    let result = Command::new(ptxas)
        .args(["-v", &format!("-arch={ARCHITECTURE}"), "-o"])
        .args([&output, &input])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let said = [result.stdout, result.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if is_of_the_system(result.status) {
        return Err(io(ptxas)(std::io::Error::other(format!("{}: {}", result.status, said.trim()))));
    }
    if !result.status.success() {
        return Err(failed(said.trim().to_owned()));
    }
    let (kernels, warnings) = report(&said);
    Ok(Assembled { cubin: fs::read(&output).map_err(io(&output))?, kernels, warnings })
}

/// Parses the output of `ptxas -v`.
fn report(said: &str) -> (BTreeMap<String, Usage>, Vec<String>) {
    let mut kernels = BTreeMap::<String, Usage>::new();
    let mut warnings = Vec::new();
    let mut kernel = String::new();
    for line in said.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            kernel = name.split('\'').next().unwrap_or_default().to_owned();
            kernels.insert(kernel.clone(), Usage::default());
        } else if let Some(usage) = kernels.get_mut(&kernel) {
            for part in line.split([',', ':']) {
                let mut words = part.trim().trim_start_matches("Used ").splitn(2, ' ');
                let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse), words.next()) else { continue };
                match what.trim() {
                    "registers" => usage.registers = number,
                    "bytes stack frame" => usage.stack_bytes = number,
                    "bytes spill stores" => usage.spill_store_bytes = number,
                    "bytes spill loads" => usage.spill_load_bytes = number,
                    "bytes smem" => usage.shared_bytes = number,
                    _ => {}
                }
            }
        }
        if line.contains("C75") || line.contains("warning") {
            warnings.push(line.trim().to_owned());
        }
    }
    (kernels, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_the_current_folder_is_no_assembler() {
        for path in ["", ":", ".", "bin:./bin", "src/..:"] {
            assert_eq!(absolute(OsStr::new(path)).count(), 0, "{path:?}");
        }
        let found: Vec<PathBuf> = absolute(OsStr::new(":/usr/bin:.:/opt/cuda/bin")).collect();
        assert_eq!(found, [Path::new("/usr/bin"), Path::new("/opt/cuda/bin")]);
    }

    #[test]
    fn the_report_is_read() {
        let said = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n\
            ptxas info    : Compiling entry function 'first' for 'sm_90a'\n\
            ptxas info    : Function properties for first\n\
            \x20   8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 168 registers, used 1 barriers, 8 bytes stack size, 64 bytes smem\n\
            ptxas info    : Compile time = 3.0 ms\n\
            ptxas info    : Compiling entry function 'second' for 'sm_90a'\n\
            ptxas info    : Used 24 registers\n";
        let (kernels, warnings) = report(said);
        let first =
            Usage { registers: 168, stack_bytes: 8, spill_store_bytes: 4, spill_load_bytes: 12, shared_bytes: 64 };
        assert_eq!(kernels["first"], first);
        assert_eq!(kernels["second"], Usage { registers: 24, ..Usage::default() });
        assert_eq!(warnings.len(), 1);
    }
}
