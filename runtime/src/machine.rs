//! Facts about this machine that need no privileges.

use std::fs;

/// Linux's setting for transparent huge pages.
pub const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub total: u64,
    /// Bytes that programs can still allocate.
    pub available: u64,
    /// The limit of this control group: of a container.
    pub limit: Option<u64>,
}

impl Memory {
    /// Bytes that this process can use at most.
    pub fn most(&self) -> u64 {
        self.limit.map_or(self.total, |limit| limit.min(self.total))
    }
}

/// The machine's memory; `None` without /proc/meminfo.
pub fn memory() -> Option<Memory> {
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    memory_in(&read("/proc/meminfo")?, limit)
}

/// `always`, `madvise` or `never`.
pub fn huge_pages() -> Option<String> {
    chosen(&read(HUGE_PAGES)?)
}

/// Version of the NVIDIA driver, and the GPUs.
pub fn nvidia_driver() -> Option<String> {
    read("/proc/driver/nvidia/version").map(|text| driver(&text))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Parses /proc/meminfo, whose numbers are KiB.
fn memory_in(text: &str, limit: Option<u64>) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")?, limit })
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The first dotted number of /proc/driver/nvidia/version, and the models of the GPUs.
fn driver(text: &str) -> String {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let version = text.split_whitespace().find(is_version).unwrap_or("of unknown version");
    let models: Vec<String> = fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .filter_map(|gpu| fs::read_to_string(gpu.ok()?.path().join("information")).ok())
        .filter_map(|text| Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned()))
        .collect();
    if models.is_empty() { version.to_owned() } else { format!("{version}, {}", models.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_reports_is_parsed() {
        let text = "MemTotal:       16000 kB\nMemFree:  1 kB\nMemAvailable:    4000 kB\n";
        let memory = Memory { total: 16_384_000, available: 4_096_000, limit: Some(7) };
        assert_eq!((memory_in(text, Some(7)), memory.most()), (Some(memory), 7));
        assert_eq!(memory_in("MemTotal: 5 kB\n", None), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("nothing"), None);
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n";
        assert!(driver(version).starts_with("550.54.15"));
    }
}
