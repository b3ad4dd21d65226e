//! Facts about this machine that matter to the compiler, and need no privileges.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Prefixes of the libraries that the compiler uses.
const LIBRARIES: [&str; 4] = ["libLLVM", "libzstd", "libz.", "libxml2"];

/// The facts that `jambac doctor` checks beside those of the runtime.
pub struct Machine {
    /// The current folder.
    pub folder: PathBuf,
    /// Free bytes on its disk.
    pub disk_free: u64,
    /// The PTX assembler.
    pub ptxas: Option<PathBuf>,
    /// LLVM's disassembler.
    pub objdump: Option<PathBuf>,
    /// Paths of the loaded libraries of [`LIBRARIES`]; None without /proc.
    pub libraries: Option<Vec<PathBuf>>,
}

impl Machine {
    /// Reads the facts; `folder` is where plans are written.
    pub fn read(folder: &Path) -> Result<Machine> {
        let disk =
            rustix::fs::statvfs(folder).with_context(|| format!("{}: cannot tell its disk", folder.display()))?;
        let text = |path: &str| fs::read_to_string(path).ok();
        Ok(Machine {
            folder: folder.to_owned(),
            disk_free: disk.f_bavail * disk.f_frsize,
            ptxas: in_path("ptxas", &["/usr/local/cuda/bin"]),
            objdump: in_path("llvm-objdump", &[concat!(env!("LLVM_SYS_191_PREFIX"), "/bin")]),
            libraries: text("/proc/self/maps").map(|text| libraries(&text)),
        })
    }
}

/// The first file of this name in the folders of PATH, then in `others`.
fn in_path(name: &str, others: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(others.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Of /proc/self/maps: the files that are mapped, those of [`LIBRARIES`] once each.
fn libraries(text: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in text.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if LIBRARIES.iter().any(|library| name.starts_with(library)) && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_understood() {
        let maps = "7f0-7f1 r-xp 0 08:01 1  /usr/lib/libLLVM-19.so.1\n7f1-7f2 r--p 0 08:01 1  /usr/lib/libLLVM-19.so.1\n\
                    7f3-7f4 r-xp 0 08:01 2  /usr/lib/libc.so.6\n7f5-7f6 rw-p 0 00:00 0\n7f7-7f8 r-xp 0 08:01 3  /usr/lib/libz.so.1\n";
        assert_eq!(libraries(maps), ["/usr/lib/libLLVM-19.so.1", "/usr/lib/libz.so.1"].map(PathBuf::from));
    }

    #[test]
    fn this_machine_has_a_disk() {
        let machine = Machine::read(&std::env::temp_dir()).unwrap();
        assert!(machine.disk_free > 0);
        assert_eq!(in_path("sh", &["/bin"]).map(|path| path.is_file()), Some(true));
        assert_eq!(in_path("no such program", &["/"]), None);
    }
}
