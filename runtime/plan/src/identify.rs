//! What a file or a folder is, by its first bytes and by its name, for messages about a file of the wrong kind.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Bytes looked at.
const HEAD_BYTES: u64 = 4096;

/// Kinds of files and folders that are mistaken for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A plan.
    Plan,
    /// A saved state.
    State,
    /// Weights of llama.cpp.
    Gguf,
    /// Weights in safetensors.
    Safetensors,
    /// Weights in PyTorch's format: a pickle, or a ZIP archive with one.
    Pickle,
    /// Another ZIP archive.
    Zip,
    /// Data compressed by gzip, zstd, xz or bzip2.
    Compressed,
    /// An ELF program or library.
    Elf,
    /// An HTML page, often an error message that was downloaded in place of a file.
    Html,
    /// The stand-in of a file in Git Large File Storage.
    LfsPointer,
    /// A layer graph in its text form.
    Graph,
    /// JSON.
    Json,
    /// A model.toml.
    ModelToml,
    /// Other text.
    Text,
    /// A file without bytes.
    Empty,
    /// Anything else.
    Unknown,
    /// A folder with a config.json or a model.toml.
    Checkpoint,
    /// A LoRA adapter's folder.
    Adapter,
    /// A folder of the Hugging Face cache, `models--ORG--NAME`.
    HubFolder,
    /// Another folder.
    Folder,
    /// A device, FIFO or socket.
    Special,
}

/// Tells what a path leads to.
///
/// # Errors
/// The path cannot be read.
pub fn identify(path: &Path) -> io::Result<FileKind> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Ok(of_folder(path));
    }
    if !metadata.is_file() {
        return Ok(FileKind::Special);
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(of_head(&head))
}

/// `ORG/NAME`, if the text has the form of a model's id on Hugging Face.
pub fn hub_id(text: &str) -> Option<&str> {
    let (org, name) = text.split_once('/')?;
    let is_part = |part: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_allowed)
    };
    (!is_address(text) && is_part(org) && is_part(name)).then_some(text)
}

/// Beginnings of the addresses of Hugging Face's site.
const HUB_SITES: [&str; 3] = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];

fn is_address(text: &str) -> bool {
    text.contains("://") || HUB_SITES.iter().any(|site| text.starts_with(site))
}

/// What to do with an address of the web where a file or a model is expected. `None` for other texts.
pub fn help_for_an_address(text: &str) -> Option<String> {
    if !is_address(text) {
        return None;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let path = HUB_SITES.iter().find_map(|site| rest.strip_prefix(site)).unwrap_or(rest);
    let is_hub = path.len() < rest.len() || text.starts_with("hf://");
    // Ollama adds `:QUANTIZATION`, the site `/tree/main`.
    let mut parts = path.split(['/', ':', '?', '#']).filter(|part| !part.is_empty());
    Some(match (is_hub, parts.next(), parts.next()) {
        (true, Some(org), Some(name)) => {
            format!("is an address: download the model with hf download {org}/{name}, then name it {org}/{name}")
        }
        _ => format!("is an address: download the file first, with curl -LO {text}"),
    })
}

/// For a path that leads to something else than a plan: the message that says to what. `None` for plans and files of unknown kinds,
/// which have better errors when they are opened, and for missing files.
pub fn refusal_of_a_plan(path: &Path) -> Option<String> {
    match identify(path) {
        Ok(FileKind::Plan | FileKind::Unknown) => None,
        Ok(kind) => {
            let help = kind.help_for_a_plan(path);
            Some(format!("{}: not a plan but {}\n{help}", path.display(), kind.describe()))
        }
        Err(_) => {
            let text = path.to_str().filter(|_| !path.exists())?;
            help_for_an_address(text).map(|help| format!("{text}: {help}"))
        }
    }
}

fn of_folder(path: &Path) -> FileKind {
    let has = |name: &str| path.join(name).exists();
    match () {
        () if has("config.json") || has("model.toml") => FileKind::Checkpoint,
        () if has("adapter_config.json") => FileKind::Adapter,
        () if has("snapshots") && has("refs") => FileKind::HubFolder,
        () => FileKind::Folder,
    }
}

/// Tells the kind of a file from its first bytes.
pub fn of_head(head: &[u8]) -> FileKind {
    const MAGICS: [(&[u8], FileKind); 11] = [
        (&crate::header::MAGIC, FileKind::Plan),
        (b"\x89STATE\r\n", FileKind::State),
        (b"GGUF", FileKind::Gguf),
        (b"\x7fELF", FileKind::Elf),
        (b"\x80\x02", FileKind::Pickle),
        (b"\x80\x04\x95", FileKind::Pickle),
        (b"\x1f\x8b", FileKind::Compressed),
        (b"\x28\xb5\x2f\xfd", FileKind::Compressed),
        (b"\xfd7zXZ\x00", FileKind::Compressed),
        (b"BZh", FileKind::Compressed),
        (b"version https://git-lfs.github.com/spec/", FileKind::LfsPointer),
    ];
    if head.is_empty() {
        return FileKind::Empty;
    }
    if let Some((_, kind)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return *kind;
    }
    if head.starts_with(b"PK\x03\x04") {
        // `torch.save` writes NAME/data.pkl first.
        return if contains(head, b"data.pkl") { FileKind::Pickle } else { FileKind::Zip };
    }
    if is_safetensors(head) {
        return FileKind::Safetensors;
    }
    of_text(head)
}

/// The length of a JSON header, then the header.
fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, header)) = head.split_first_chunk::<8>() else { return false };
    // safetensors itself allows at most 100 MB.
    u64::from_le_bytes(*length) <= 100_000_000 && header.starts_with(b"{\"")
}

fn of_text(head: &[u8]) -> FileKind {
    let valid = match str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
        Err(_) => return FileKind::Unknown,
    };
    if valid.contains('\0') {
        return FileKind::Unknown;
    }
    let text = valid.trim_start();
    let lower = text.get(..text.len().min(64)).unwrap_or(text).to_ascii_lowercase();
    match () {
        () if lower.starts_with("<!doctype html") || lower.starts_with("<html") => FileKind::Html,
        () if text.starts_with("graph @") => FileKind::Graph,
        () if text.starts_with('{') => FileKind::Json,
        () if text.lines().any(|line| line.trim() == "[model]") => FileKind::ModelToml,
        () => FileKind::Text,
    }
}

fn contains(head: &[u8], part: &[u8]) -> bool {
    head.windows(part.len()).any(|window| window == part)
}

impl FileKind {
    /// The kind with its article: `a GGUF file`.
    pub fn describe(self) -> &'static str {
        match self {
            FileKind::Plan => "a plan",
            FileKind::State => "a saved state",
            FileKind::Gguf => "a GGUF file, the format of llama.cpp",
            FileKind::Safetensors => "a file of weights (safetensors)",
            FileKind::Pickle => "a file of weights in PyTorch's pickle format",
            FileKind::Zip => "a ZIP archive",
            FileKind::Compressed => "a compressed file",
            FileKind::Elf => "a program or library (ELF)",
            FileKind::Html => "an HTML page, perhaps the error message of a download",
            FileKind::LfsPointer => "a pointer of Git LFS, not the file itself",
            FileKind::Graph => "a layer graph",
            FileKind::Json => "a JSON file",
            FileKind::ModelToml => "a model file (model.toml)",
            FileKind::Text => "a text file",
            FileKind::Empty => "an empty file",
            FileKind::Unknown => "a file of an unknown kind",
            FileKind::Checkpoint => "the folder of a checkpoint",
            FileKind::Adapter => "the folder of a LoRA adapter",
            FileKind::HubFolder => "a folder of the Hugging Face cache",
            FileKind::Folder => "a folder",
            FileKind::Special => "a device, FIFO or socket",
        }
    }

    /// What to do with a file of this kind where a plan is expected; `path` is its path.
    pub fn help_for_a_plan(self, path: &Path) -> String {
        let path = path.display();
        match self {
            FileKind::Plan => format!("Run it: jamba run {path}"),
            FileKind::State => format!("Continue it with the plan that saved it: jamba run PLAN --load-state {path}"),
            FileKind::Checkpoint | FileKind::HubFolder | FileKind::ModelToml | FileKind::Gguf => {
                format!("Build a plan: jambac build {path} -o OUT.plan (or: jamba run {path})")
            }
            FileKind::Safetensors | FileKind::Json => {
                "Build a plan of the checkpoint's folder: jambac build MODEL -o OUT.plan".to_owned()
            }
            FileKind::Graph => format!("Build a plan of it: jambac build MODEL --from optimized {path} -o OUT.plan"),
            _ => {
                format!("{} To build a plan: jambac build MODEL -o OUT.plan", self.help_for_a_model()).trim().to_owned()
            }
        }
    }

    /// What to do with a file of this kind where a model is expected; empty for kinds that say nothing about it.
    pub fn help_for_a_model(self) -> &'static str {
        match self {
            FileKind::Gguf => "Name the file itself: jambac build FILE.gguf -o OUT.plan",
            FileKind::Pickle => {
                "jambac reads safetensors; transformers converts: AutoModelForCausalLM.from_pretrained(IN).save_pretrained(OUT)"
            }
            FileKind::LfsPointer => "Fetch the file itself: git lfs pull, or hf download ORG/NAME",
            FileKind::Html => "Download the file again: hf download ORG/NAME",
            FileKind::Empty => "Download or copy the file again.",
            FileKind::Zip | FileKind::Compressed => "Unpack it first.",
            FileKind::Adapter => {
                "Name its base model, and the adapter beside it: jambac build MODEL --lora ADAPTER -o OUT.plan"
            }
            FileKind::Plan => "A plan is built already: jamba run PLAN, or jambac inspect PLAN",
            FileKind::State => "A state belongs to a plan: jamba run PLAN --load-state STATE",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let safetensors = [&20_u64.to_le_bytes()[..], b"{\"a\":{\"dtype\":\"F32\""].concat();
        let torch = [b"PK\x03\x04".as_slice(), &[0; 26], b"archive/data.pkl"].concat();
        let plan = crate::fixture::plan();
        for (head, kind) in [
            (&plan[..], FileKind::Plan),
            (b"\x89STATE\r\n\x01\0\0\0", FileKind::State),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (&safetensors, FileKind::Safetensors),
            (&torch, FileKind::Pickle),
            (b"\x80\x02}q\0", FileKind::Pickle),
            (b"PK\x03\x04word/document.xml", FileKind::Zip),
            (b"\x1f\x8b\x08", FileKind::Compressed),
            (b"\x7fELF\x02", FileKind::Elf),
            (b"\n<!DOCTYPE HTML><title>404</title>", FileKind::Html),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", FileKind::LfsPointer),
            (b"graph @prefill {", FileKind::Graph),
            (b"{\n  \"architectures\": []}", FileKind::Json),
            (b"# mine\n[model]\ncheckpoint = \".\"", FileKind::ModelToml),
            ("Grüße".as_bytes(), FileKind::Text),
            (&"Grüße".as_bytes()[..3], FileKind::Text),
            (b"", FileKind::Empty),
            (b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09", FileKind::Unknown),
            (b"\xff\xfe\x00", FileKind::Unknown),
        ] {
            assert_eq!(of_head(head), kind, "{}", head[..head.len().min(40)].escape_ascii());
        }
    }

    #[test]
    fn addresses_name_the_download() {
        for text in [
            "https://huggingface.co/ai21labs/Jamba-v0.1",
            "https://huggingface.co/ai21labs/Jamba-v0.1/tree/main",
            "hf.co/ai21labs/Jamba-v0.1:Q4_K_M",
            "hf://ai21labs/Jamba-v0.1",
        ] {
            let help = help_for_an_address(text).unwrap();
            assert!(help.contains("hf download ai21labs/Jamba-v0.1,"), "{text}: {help}");
            assert_eq!(hub_id(text), None, "{text}");
        }
        assert!(
            help_for_an_address("https://example.org/a.plan").unwrap().contains("curl -LO https://example.org/a.plan")
        );
        for text in ["ai21labs/Jamba-v0.1", "a.plan", "./x/y", ""] {
            assert_eq!(help_for_an_address(text), None, "{text}");
        }
        assert_eq!(hub_id("ai21labs/Jamba-v0.1"), Some("ai21labs/Jamba-v0.1"));
        for text in ["a.plan", "./x/y", "a/b/c", "/a/b", "a b/c", "~/c"] {
            assert_eq!(hub_id(text), None, "{text}");
        }
    }

    #[test]
    fn folders_are_known_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let kind = || identify(folder.path()).unwrap();
        assert_eq!(kind(), FileKind::Folder);
        for name in ["snapshots", "refs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(kind(), FileKind::HubFolder);
        fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        assert_eq!(kind(), FileKind::Adapter);
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(kind(), FileKind::Checkpoint);
        assert_eq!(identify(Path::new("/dev/null")).unwrap(), FileKind::Special);
        assert!(identify(&folder.path().join("none")).is_err());
    }
}
