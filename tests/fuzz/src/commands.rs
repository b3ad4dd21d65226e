//! Command lines and model files. Nothing that they name is run.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::file;

/// model.toml, with the checks of its limits.
pub fn model_toml(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(model) = jambac::parsers::model_toml(text, Path::new("folder/model.toml"))
        && model.check().is_ok()
    {
        assert!(model.kv_tokens() >= model.limits.max_context, "{:?}", model.limits);
    }
}

pub fn model_tomls() -> Vec<Vec<u8>> {
    let all = "[model]\nname = \"n\"\ncheckpoint = \"../m\"\nignore_keys = [\"k\"]\nignore_tensors = [\"a.*\"]\n\
        [build]\ntargets = [\"x86-64-v3\", \"sm_90a\"]\nfusion = [\"fuse-qkv\"]\n\
        [weights]\ndefault = \"int8\"\nexperts = \"int4\"\n\
        [limits]\nmax_context = 4096\nmax_sequences = 4\nkv_tokens = 65536\nkv_dtype = \"bf16\"\nprefill_chunk = 256\nmax_outputs = 16\n";
    vec![file("models/jamba-3b/model.toml"), all.as_bytes().to_vec()]
}

/// Says whether a program accepts arguments.
type Acceptor = Box<dyn FnMut(&[OsString]) -> bool>;

thread_local! {
    /// Those of `jamba` and `jambac`.
    static ACCEPTORS: RefCell<[Acceptor; 2]> =
        RefCell::new([Box::new(jamba_cli::acceptor()), Box::new(jambac::commands::acceptor())]);
}

/// Arguments of `jamba` and of `jambac`, one a line.
pub fn arguments(data: &[u8]) {
    let arguments: Vec<OsString> =
        data.split(|&byte| byte == b'\n').take(24).map(|word| OsString::from_vec(word.to_vec())).collect();
    ACCEPTORS.with_borrow_mut(|programs| {
        for accepts in programs {
            let _ = accepts(&arguments);
        }
    });
}

pub fn command_lines() -> Vec<Vec<u8>> {
    [
        "run\nm.plan\n--prompt\nOnce\n-n\n20\n--temperature\n0.8\n--top-k=40\n--seed\n7\n--threads\n2",
        "serve\nm.plan\n--listen\n127.0.0.1:8080\n--api-keys\nkeys\n--max-waiting\n20",
        "chat\nm.plan\n--system\nBe brief.\n--device\ncuda:0\n--require-digest\n00",
        "bench\nm.plan\n--prompt-tokens\n64,128\n-n\n-1",
        "build\nmodels/tiny\n-o\nx.plan\n--target\nnative\n--format\n*.out_proj=int8\n--lora\ndir:0.5\n--max-context\n64",
        "inspect\nx.plan\n--asm",
        "fit\nconfig\n--memory\n16GiB\n-ngl\n99",
        "help\nrun",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}
