//! Rules of the repository: crate dependencies, files with `unsafe`, file headers and sizes, folder READMEs, and a code map in
//! README.md that matches the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Allowed dependencies between our crates (not dev-dependencies).
const ARROWS: &[(&str, &[&str])] = &[
    ("jambac-checkpoint", &[]),
    ("jambac-graph", &[]),
    ("jamba-plan", &[]),
    ("jambac-models", &["jambac-checkpoint", "jambac-graph"]),
    ("jambac-passes", &["jambac-graph"]),
    ("jambac-reference", &["jambac-graph"]),
    ("jambac-kernels", &["jambac-graph", "jamba-plan"]),
    ("jambac-schedule", &["jambac-graph", "jambac-kernels", "jamba-plan"]),
    ("jambac-codegen", &["jambac-schedule", "jambac-kernels", "jamba-plan"]),
    (
        "jambac",
        &[
            "jambac-checkpoint",
            "jambac-graph",
            "jambac-models",
            "jambac-passes",
            "jambac-reference",
            "jambac-kernels",
            "jambac-schedule",
            "jambac-codegen",
            "jamba-plan",
            "jamba-program",
            "jamba-runtime",
        ],
    ),
    ("jamba-runtime", &["jamba-plan"]),
    ("jamba-serve", &["jamba-runtime", "jamba-plan"]),
    ("jamba-program", &["jamba-runtime", "jamba-plan"]),
    ("jamba", &["jamba-program", "jamba-runtime", "jamba-plan", "jamba-serve"]),
    ("jamba-capi", &["jamba-runtime"]),
    ("jamba-python", &["jamba-plan", "jamba-runtime", "jamba-serve"]),
    ("jambac-tests", &[]),
    ("jambac-ptxsim", &["jamba-plan", "jamba-runtime"]),
    ("jambac-gpu-bench", &["jamba-plan", "jamba-runtime", "jambac-ptxsim"]),
    (
        "jambac-fuzz",
        &[
            "jamba",
            "jamba-capi",
            "jamba-plan",
            "jamba-runtime",
            "jambac",
            "jambac-checkpoint",
            "jambac-graph",
            "jambac-models",
            "jambac-passes",
            "jambac-ptxsim",
        ],
    ),
    (
        "jambac-harness",
        &[
            "jamba-plan",
            "jambac-codegen",
            "jambac-gpu-bench",
            "jambac-graph",
            "jambac-kernels",
            "jambac-ptxsim",
            "jambac-reference",
        ],
    ),
    (
        "jambac-benches",
        &["jambac", "jambac-codegen", "jambac-harness", "jambac-kernels", "jamba-plan", "jamba-runtime"],
    ),
];

/// Bindings to LLVM and MLIR.
const LLVM: &[&str] = &["melior", "mlir-sys", "inkwell", "llvm-sys"];

/// Files and folders that may contain `unsafe`.
const UNSAFE: &[&str] = &[
    "compiler/codegen/src/ffi.rs",
    "compiler/checkpoint/src/safetensors.rs",
    "kernels/src/cpu/builder/scope.rs",
    "runtime/plan/src/cpu/tiles.rs",
    "runtime/src/device/",
    "runtime/capi/src/",
    "tests/fuzz/src/library.rs",
    "tests/harness/src/loader.rs",
];

/// Most lines of a source file.
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn sources() -> Vec<(String, String)> {
    let root = root();
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(&root)
        .output();
    let listed = listed.expect("git lists the tree");
    assert!(listed.status.success(), "git ls-files failed");
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let files: Vec<_> = names
        .lines()
        .filter(|name| root.join(name).exists())
        .map(|name| (name.to_owned(), std::fs::read_to_string(root.join(name)).expect("a source file reads")))
        .collect();
    assert!(files.len() > 50, "only {} source files found", files.len());
    files
}

fn packages() -> BTreeMap<String, (BTreeSet<String>, PathBuf)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), (dependencies, PathBuf::from(text(&package["manifest_path"]))))
        })
        .collect()
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let packages = packages();
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(packages.keys().map(String::as_str).collect::<BTreeSet<_>>(), ours, "ARROWS lists every crate");
    for (name, allowed) in ARROWS {
        for dependency in &packages[*name].0 {
            assert!(
                !ours.contains(dependency.as_str()) || allowed.contains(&dependency.as_str()),
                "{name} depends on {dependency}, which ARROWS does not allow"
            );
        }
    }
}

#[test]
fn llvm_is_linked_by_codegen_and_kernels_alone() {
    for (name, (dependencies, _)) in packages() {
        let linked: Vec<_> = dependencies.iter().filter(|dependency| LLVM.contains(&dependency.as_str())).collect();
        assert!(linked.is_empty() || name == "jambac-codegen" || name == "jambac-kernels", "{name} links {linked:?}");
    }
}

#[test]
fn unsafe_is_where_it_is_allowed() {
    for (name, text) in sources() {
        if UNSAFE.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let found = code.contains(concat!("uns", "afe {"))
                || code.contains(concat!("uns", "afe fn"))
                || code.contains(concat!("uns", "afe impl"));
            assert!(!found, "{name}:{}: {} outside {UNSAFE:?}", i + 1, concat!("uns", "afe"));
        }
    }
}

/// `eprintln!` panics if the reader of stderr has closed it, `println!` likewise. Build scripts talk to Cargo.
#[test]
fn programs_survive_closed_outputs() {
    let macros = ["eprintln!", "eprint!", "println!", "print!", "dbg!"];
    let is_program = |name: &str| {
        let folders = ["compiler/", "runtime/", "kernels/", "models/"];
        let is_product = folders.iter().any(|folder| name.starts_with(folder)) && name.contains("src/");
        is_product && !is_test_file(name) && !name.contains("fixture")
    };
    let files: Vec<_> = sources().into_iter().filter(|(name, _)| is_program(name)).collect();
    assert!(files.len() > 300, "only {} files", files.len());
    for (name, text) in files {
        for line in code(&text) {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && !"_!".contains(c)).collect();
            let found = macros.iter().find(|found| words.contains(found));
            assert_eq!(found, None, "{name}: print with `say!` or the program's `print`: {line}");
        }
    }
}

#[test]
fn every_file_has_a_header_and_a_limited_size() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!"), "{name} does not begin with a header");
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, more than {MAX_LINES}");
    }
}

/// Crates whose public items must all have a doc line (`missing_docs`).
const DOCUMENTED: &[&str] = &["runtime/src/", "runtime/plan/", "runtime/capi/"];

/// Words that add nothing to a name.
const FILLER: &str = "the a an of its this that is are for in to as with and or by on it from at one returns gets";

/// The words of a name or of a sentence, in lower case and without a plural s. Formulas are no words: `None`.
fn words_of(text: &str) -> Option<BTreeSet<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if text.contains(|c: char| !is_word(c) && !" .,".contains(c)) {
        return None;
    }
    let mut words = BTreeSet::new();
    for name in text.split(|c: char| !c.is_alphanumeric()).filter(|name| !name.is_empty()) {
        let starts = (1..name.len()).filter(|&i| {
            let bytes = name.as_bytes();
            bytes[i].is_ascii_uppercase() && bytes[i - 1].is_ascii_lowercase()
        });
        let bounds: Vec<usize> = [0].into_iter().chain(starts).chain([name.len()]).collect();
        let parts = bounds.windows(2).map(|bound| name[bound[0]..bound[1]].to_lowercase());
        let singular =
            |word: String| word.strip_suffix('s').filter(|word| word.len() > 2).map(str::to_owned).unwrap_or(word);
        words.extend(parts.map(singular));
    }
    (!words.iter().any(|word| word.chars().count() < 2 && word != "a")).then_some(words)
}

/// The name that a line declares, if it is an item or a public field.
fn declared(line: &str) -> Option<&str> {
    let (is_public, rest) = match line.trim_start().strip_prefix("pub ") {
        Some(rest) => (true, rest),
        None => (false, line.trim_start()),
    };
    let rest = rest.strip_prefix("pub(crate) ").or(rest.strip_prefix("pub(super) ")).unwrap_or(rest);
    let name_of = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let keywords = ["fn ", "struct ", "enum ", "trait ", "type ", "const ", "static "];
    match keywords.iter().find_map(|keyword| rest.strip_prefix(keyword)) {
        Some(rest) => Some(&rest[..name_of(rest)]),
        None => (is_public && rest[name_of(rest)..].starts_with(':')).then(|| &rest[..name_of(rest)]),
    }
}

#[test]
fn doc_lines_say_more_than_the_name() {
    let filler = words_of(FILLER).expect("words");
    let mut n_lines = 0;
    for (name, text) in sources() {
        if DOCUMENTED.iter().any(|folder| name.starts_with(folder)) {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        let doc = |i: usize| lines.get(i).and_then(|line: &&str| line.trim_start().strip_prefix("/// "));
        for i in (0..lines.len()).filter(|&i| doc(i).is_some() && doc(i + 1).is_none()) {
            let item = lines[i + 1..].iter().find(|line| !line.trim_start().starts_with("#["));
            let single = i == 0 || !lines[i - 1].trim_start().starts_with("///");
            let (Some(said), Some(declared)) = (doc(i).and_then(words_of), item.and_then(|line| declared(line))) else {
                continue;
            };
            let named = words_of(declared).unwrap_or_default();
            n_lines += 1;
            let repeats = said.iter().all(|word| named.contains(word) || filler.contains(word));
            assert!(!(single && repeats), "{name}:{}: the doc line only repeats `{declared}`", i + 1);
        }
    }
    assert!(n_lines > 1000, "only {n_lines} doc lines");
}

/// Multiprocessors of a GPU and the shared memory of its blocks, in kernels for Hopper and where they are scheduled.
#[test]
fn facts_of_hopper_have_one_home() {
    const HOME: &str = "kernels/src/hopper/facts.rs";
    let numbers = ["132", "227", "228", "232448", "232_448"];
    let is_hopper = |name: &str| name.starts_with("kernels/src/") && name.contains("/hopper");
    let is_scheduled = |name: &str| name.starts_with("compiler/schedule/");
    let (home, others): (Vec<_>, Vec<_>) = sources()
        .into_iter()
        .filter(|(name, _)| is_hopper(name) || is_scheduled(name))
        .partition(|(name, _)| name == HOME);
    let words = |text: &str| {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let is_part = |c: char| !c.is_alphanumeric() && c != '_';
        text.lines().filter(is_code).flat_map(|line| line.split(is_part)).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert!(home.iter().any(|(_, text)| words(text).contains("132")), "{HOME} has no facts");
    assert!(others.len() > 40, "only {} files", others.len());
    for (name, text) in others {
        let found: Vec<_> = words(&text).into_iter().filter(|word| numbers.contains(&word.as_str())).collect();
        assert!(found.is_empty(), "{name} repeats {found:?} of {HOME}");
    }
}

/// The code of a file, without comments and without its tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or("");
    code.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn is_test_file(name: &str) -> bool {
    ["/tests.rs", "/testing.rs", "/properties.rs"].iter().any(|end| name.ends_with(end)) || name.contains("/tests/")
}

/// Kernels and `jambac_kernels::target` answer what depends on a target.
#[test]
fn the_schedule_and_the_passes_name_no_target() {
    let targets = ["Sm90", "sm_90", "sm90", "hopper", "Hopper", "TargetKind::Cpu", "X86", "x86", "cuda"];
    let is_neutral =
        |name: &str| name.starts_with("compiler/schedule/src/") || name.starts_with("compiler/passes/src/");
    let files: Vec<_> = sources().into_iter().filter(|(name, _)| is_neutral(name) && !is_test_file(name)).collect();
    assert!(files.len() > 25, "only {} files", files.len());
    for (name, text) in files {
        for line in code(&text) {
            let named = targets.iter().find(|target| line.contains(**target));
            assert_eq!(named, None, "{name} names a target: {line}");
        }
    }
}

/// An op that is added to the catalog needs no other list.
#[test]
fn the_catalog_alone_names_all_operations() {
    const CATALOG: &str = "kernels/src/lib.rs";
    let sources = sources();
    let catalog = sources.iter().find(|(name, _)| name == CATALOG).expect("the catalog");
    let folders: Vec<&str> = code(&catalog.1)
        .filter_map(|line| line.trim().split_once("): \"")?.0.split_once('('))
        .map(|(_, folder)| folder)
        .collect();
    assert!(folders.len() > 15, "{folders:?}");
    for (name, text) in &sources {
        let is_product = ["compiler/", "kernels/src/", "runtime/"].iter().any(|part| name.starts_with(part));
        if !is_product || is_test_file(name) || name == CATALOG || name.starts_with("compiler/graph/") {
            continue;
        }
        let code: String = code(text).map(|line| line.to_owned() + "\n").collect();
        let named = folders.iter().filter(|folder| code.contains(&format!("{folder}::"))).count();
        assert!(named < folders.len() / 2, "{name} names {named} of the {} kernels", folders.len());
    }
}

#[test]
fn the_readme_maps_the_tree() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let map =
        readme.split("## Code map").nth(1).expect("README has a code map").split("\n## ").next().expect("a section");
    let mut folders = Vec::new();
    for (_, manifest) in packages().values() {
        let folder = manifest.parent().expect("a crate has a folder");
        folders.push(folder.strip_prefix(root()).expect("inside the workspace").to_string_lossy().into_owned());
    }
    for folder in folders {
        assert!(map.contains(&format!("`{folder}/`")), "README's code map lacks `{folder}/`");
    }
    for named in map.split('`').skip(1).step_by(2) {
        assert!(root().join(named).exists(), "README's code map names `{named}`, which does not exist");
    }
}

/// Folders whose README says how to work in them.
const README_FOLDERS: &[&str] = &["compiler", "kernels", "runtime", "runtime/plan", "tests", "benches"];

#[test]
fn folders_have_a_readme() {
    for folder in README_FOLDERS {
        assert!(root().join(folder).join("README.md").is_file(), "{folder} has no README.md");
    }
}

#[test]
fn the_top_level_holds_what_it_should() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "compiler",
        "runtime",
        "kernels",
        "models",
        "tests",
        "benches",
    ];
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().expect("git lists the tree");
    for name in String::from_utf8(listed.stdout).expect("UTF-8").lines() {
        let top = name.split('/').next().unwrap_or(name);
        assert!(top.starts_with('.') || allowed.contains(&top), "{top} at the top level");
    }
}
