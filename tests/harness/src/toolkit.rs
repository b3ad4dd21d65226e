//! NVIDIA's assembler and disassembler for tests: from a CUDA toolkit if installed, else downloaded once by pip into the target
//! folder. Because of their licence they stay there: they are neither committed nor shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use jambac_codegen::assemble::find_ptxas;

/// A program in a PyPI package.
struct Wheel {
    program: &'static str,
    package: &'static str,
    version: &'static str,
    /// Path of the program in the wheel.
    path: &'static str,
}

const PTXAS: Wheel = Wheel {
    program: "ptxas",
    package: "nvidia-cuda-nvcc-cu12",
    version: "12.9.86",
    path: "nvidia/cuda_nvcc/bin/ptxas",
};

const NVDISASM: Wheel = Wheel {
    program: "nvdisasm",
    package: "nvidia-cuda-nvdisasm",
    version: "13.2.78",
    path: "nvidia/cu13/bin/nvdisasm",
};

/// The assembler; `None`, with a notice, if it is neither installed nor downloadable.
pub fn ptxas() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| find_ptxas(None).or_else(|| PTXAS.fetch())).as_deref()
}

/// The disassembler; `None`, with a notice, if it is neither installed nor downloadable.
pub fn nvdisasm() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let beside = || Some(find_ptxas(None)?.with_file_name(NVDISASM.program)).filter(|path| path.is_file());
    FOUND.get_or_init(|| beside().or_else(|| NVDISASM.fetch())).as_deref()
}

impl Wheel {
    /// The program in the target folder; downloads it if it is missing.
    fn fetch(&self) -> Option<PathBuf> {
        // This program is `target/PROFILE/deps/PROGRAM`.
        let program = std::env::current_exe().ok()?;
        let folder = program.ancestors().nth(3)?.join("tmp/cuda");
        let program = folder.join(format!("{}-{}", self.program, self.version));
        if program.is_file() {
            return Some(program);
        }
        match self.fetch_to(&folder, &program) {
            Ok(()) => Some(program),
            Err(error) => {
                eprintln!("SKIPPED: no {}: not in CUDA_HOME or PATH, and not fetched: {error}", self.program);
                None
            }
        }
    }

    fn fetch_to(&self, folder: &Path, program: &Path) -> Result<(), String> {
        let io = |error: std::io::Error| error.to_string();
        fs::create_dir_all(folder).map_err(io)?;
        let unpacked = tempfile::tempdir_in(folder).map_err(io)?;
        let platforms = ["manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux1_x86_64"];
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries", "1"]);
        pip.args(platforms.iter().flat_map(|platform| ["--platform", platform]));
        pip.arg("--dest").arg(unpacked.path()).arg(format!("{}=={}", self.package, self.version));
        run(&mut pip)?;
        let wheels = fs::read_dir(unpacked.path()).map_err(io)?;
        let wheel = wheels.filter_map(Result::ok).map(|entry| entry.path()).find(|path| is_wheel(path));
        let wheel = wheel.ok_or("pip left no wheel")?;
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(unpacked.path()))?;
        let from = unpacked.path().join(self.path);
        run(Command::new("chmod").arg("+x").arg(&from))?;
        // Atomic: several tests may do this concurrently.
        fs::rename(from, program).map_err(io)
    }
}

fn is_wheel(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "whl")
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
