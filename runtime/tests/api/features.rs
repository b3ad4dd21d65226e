//! A build without the text features has none of their dependencies.

use std::collections::BTreeSet;
use std::process::Command;

/// Names of all dependencies of the library with these options.
fn crates(options: &[&str]) -> BTreeSet<String> {
    let base = ["tree", "-p", "jamba-runtime", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline"];
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo.args(base).args(options).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn features_pull_their_crates_and_no_others() {
    let text = ["tokenizers", "minijinja", "chrono"];
    let [without, tokens, all] =
        [&["--no-default-features"][..], &["--no-default-features", "--features", "tokenizer"], &[]].map(crates);
    assert!(without.contains("jamba-plan") && without.len() < 80, "{without:?}");
    for name in text {
        assert!(!without.contains(name) && tokens.contains(name) && all.contains(name), "{name}");
    }
    for name in ["llguidance", "toktrie", "referencing"] {
        assert!(!without.contains(name) && !tokens.contains(name) && all.contains(name), "{name}");
    }
    println!("{} crates without text, {} with tokenizers, {} in all", without.len(), tokens.len(), all.len());
}
