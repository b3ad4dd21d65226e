//! Small versions of hostile inputs that once did harm, and the error that each gets now. The tokenizers, templates and constraints among them are
//! those in `fuzz/regressions`.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;
use jamba_plan::format::{Arg, Count, Manifest, Program, TargetKind};
use jamba_plan::printable::printable;
use jamba_plan::sections::SectionKind;
use jamba_plan::{Plan, PlanWriter, peek, tables, text};
use jamba_runtime::{Constraint, Engine, GenerateOptions, Message, OpenOptions, PlanFile, Verify};
use jambac::manifest::ModelFile;
use jambac_checkpoint::Checkpoint;

const TOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/examples/toy.plan");
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/regressions");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny");

/// The parts of the toy's plan.
struct Parts {
    manifest: Manifest,
    program: Program,
    code: Vec<u8>,
    others: Vec<(SectionKind, String, Vec<u8>)>,
}

impl Parts {
    fn toy() -> Parts {
        let bytes = std::fs::read(TOY).unwrap();
        let plan = Plan::parse(&bytes).unwrap();
        let kinds =
            [SectionKind::Tokenizer, SectionKind::TokenizerConfig, SectionKind::ChatTemplate, SectionKind::Weights];
        let section = |kind: SectionKind| {
            let found = plan.sections().iter().find(|section| section.kind == kind.code()).unwrap();
            (kind, found.name.clone(), plan.bytes_of(found).to_vec())
        };
        Parts {
            manifest: plan.manifest().clone(),
            program: plan.program(TargetKind::Cpu).unwrap().clone(),
            code: plan.code("x86-64").unwrap().to_vec(),
            others: kinds.map(section).to_vec(),
        }
    }

    /// The toy's plan after a change.
    fn changed(change: impl FnOnce(&mut Parts)) -> Parts {
        let mut parts = Parts::toy();
        change(&mut parts);
        parts
    }

    fn with(kind: SectionKind, content: Vec<u8>) -> Parts {
        Parts::changed(|parts| {
            parts
                .others
                .iter_mut()
                .filter(|(known, ..)| *known == kind)
                .for_each(|(_, _, bytes)| bytes.clone_from(&content));
        })
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("hostile.plan");
        let mut writer = PlanWriter::create(&path).unwrap();
        writer.manifest(&self.manifest).unwrap();
        writer.program(TargetKind::Cpu, &self.program).unwrap();
        writer.code("x86-64", &self.code).unwrap();
        self.others.iter().for_each(|(kind, name, bytes)| writer.section(*kind, name, bytes).unwrap());
        writer.finish().unwrap();
        path
    }

    fn open(&self, folder: &Path) -> Result<Engine, String> {
        let options = OpenOptions { threads: Some(1), ..OpenOptions::default() };
        Engine::open(self.write(folder), options).map_err(|error| error.to_string())
    }
}

/// A shared object of C, which the compiler links as it does by default or without libraries.
fn object(folder: &Path, source: &str, flags: &[&str]) -> Vec<u8> {
    let (input, output) = (folder.join("code.c"), folder.join("code.so"));
    std::fs::write(&input, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&output).arg(&input).args(flags).status();
    assert!(status.expect("the C compiler cc").success());
    std::fs::read(output).unwrap()
}

fn regression(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(REGRESSIONS).join(name)).unwrap()
}

/// What is said of the plan: the error of opening it, or "opens".
fn said_of_plan(parts: &Parts) -> String {
    let folder = tempfile::tempdir().unwrap();
    let said = parts.open(folder.path()).map_or_else(|error| error, |_| "opens".to_owned());
    said.replace(&format!("{}/", folder.path().display()), "")
}

fn plans() -> Vec<(&'static str, String)> {
    let folder = tempfile::tempdir().unwrap();
    let of = |change: &dyn Fn(&mut Parts)| said_of_plan(&Parts::changed(|parts| change(parts)));
    let arg = |step: usize, slot: usize, arg: &dyn Fn(&Manifest) -> Arg| {
        of(&|parts: &mut Parts| {
            let arg = arg(&parts.manifest);
            parts.program.entries.iter_mut().for_each(|entry| entry.steps[step].args[slot] = arg);
        })
    };
    let needed = object(folder.path(), "", &["-nostartfiles", "-Wl,--no-as-needed", "-lc"]);
    let constructor = "static int ran; __attribute__((constructor)) static void first(void) { ran = 1; }";
    let constructor = object(folder.path(), constructor, &["-nostdlib"]);
    let unmade = |parts: &mut Parts| {
        parts.manifest.synthetic_seed = Some(1);
        let weight = &mut parts.program.weights[0];
        weight.layout.groups = 1 << 45;
        weight.bytes = weight.layout.bytes(weight.format).unwrap();
        parts.manifest.programs[0].memory.weights = weight.bytes;
        parts.others.retain(|(kind, ..)| *kind != SectionKind::Weights);
    };
    vec![
        ("code that needs libc", of(&|parts: &mut Parts| parts.code.clone_from(&needed))),
        ("code with a constructor", of(&|parts: &mut Parts| parts.code.clone_from(&constructor))),
        ("logits behind the arena's end", arg(4, 2, &|manifest| Arg::Arena(manifest.programs[0].memory.arena - 64))),
        ("a number in place of an address", arg(4, 2, &|_| Arg::Constant(0x4141_4141_4000))),
        ("a count times 2^32 − 1", arg(0, 3, &|_| Arg::Count(Count::Tokens, u32::MAX))),
        ("2^45 groups of weights that no file holds", of(&unmade)),
        (
            "2^31 − 1 tokens for each of three sequences",
            of(&|parts: &mut Parts| {
                parts.manifest.limits.max_context = i32::MAX as u64;
                parts.manifest.programs[0].memory.tables = tables::table_bytes(&parts.manifest.limits);
            }),
        ),
    ]
}

#[test]
fn hostile_plans_are_refused_before_their_code_is_looked_at() {
    check(
        plans(),
        &expect![[r#"
            code that needs libc
                code/x86-64: cannot be loaded: needs another library, expected none
            code with a constructor
                code/x86-64: cannot be loaded: has an initializer or finalizer, expected none
            logits behind the arena's end
                hostile.plan: program: entries[0].steps[4].args[2] (head): found Arena(29184), expected a multiple of 64 at which 28800 bytes are inside the 29248 bytes of the arena
            a number in place of an address
                hostile.plan: program: entries[0].steps[4].args[2] (head): found Constant(71748523474944), expected an address in the arena
            a count times 2^32 − 1
                hostile.plan: program: entries[0].steps[0].args[3] (embed): found Count(Tokens, 4294967295), expected Count(Tokens, 1)
            2^45 groups of weights that no file holds
                hostile.plan: program: entries[0].steps[0].args[1] (embed): found Weight(0), expected a weight with WeightShape { format: F32, layout: Layout { groups: 1, n: 300, k: 1, lanes: 16, order: Panels }, parts: [300], order: Stacked, transform: None }
            2^31 − 1 tokens for each of three sequences
                hostile.plan: program: entries[0].steps[2].args[8] (append): found Constant(7), expected Constant(134217728)
        "#]],
    );
}

/// Plans that open, since nothing in them is wrong, and commands that only look.
#[test]
fn names_and_sizes_of_a_plan_reach_no_terminal_and_no_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    let named = Parts::changed(|parts| {
        parts.manifest.model.name = "toy\u{1b}]0;owned\u{7}\u{1b}[2J".to_owned();
        parts.manifest.compiler = "0.1\u{1b}[8m".to_owned();
    });
    let file = PlanFile::open(&named.write(folder.path())).unwrap();
    let plan = file.plan(Verify::Everything, &mut |_, _| ()).unwrap();
    // As `jamba info` and `jambac inspect` print it.
    let text = text::plan(&plan);
    let shown = printable(&text);
    assert!(text.contains('\u{1b}'), "{text}");
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    assert!(shown.contains("owned"), "{shown}");
    let wide = Parts::changed(|parts| {
        parts.manifest.limits.max_sequences = 1 << 30;
        parts.manifest.programs[0].memory.state_slot = 1 << 40;
    });
    let error = peek::manifest(&wide.write(folder.path())).unwrap_err().to_string();
    assert!(error.contains("max_sequences") || error.contains("memory"), "{error}");
}

#[test]
fn hostile_texts_of_a_plan_are_errors_of_their_use() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = |name: &str| {
        let parts = Parts::with(SectionKind::Tokenizer, regression(&format!("tokenizer/{name}.json")));
        let mut engine = parts.open(folder.path()).unwrap();
        let prompt = engine.tokenizer().and_then(|tokenizer| tokenizer.encode(&"a".repeat(64)));
        let error = prompt.and_then(|_| {
            let constraint = Some(Constraint::Regex("a+".to_owned()));
            let options = GenerateOptions { max_new: 2, constraint, ..GenerateOptions::default() };
            engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(())).map(|_| ())
        });
        error.err().map_or_else(|| "works".to_owned(), |error| error.to_string())
    };
    let template = |name: &str| {
        let engine = Parts::with(SectionKind::ChatTemplate, regression(&format!("template/{name}.jinja")));
        let template = engine.open(folder.path()).unwrap().chat_template();
        let message = Message { role: "user".to_owned(), content: "Hi".to_owned() };
        let rendered = template.and_then(|template| template.render(&[message]));
        rendered.map_or_else(|error| error.to_string(), |text| format!("{} bytes", text.len()))
    };
    let schema = |name: &str| {
        let text = regression(&format!("constraint/{name}"));
        let (kind, text) = (text[0], String::from_utf8(text[1..].to_vec()).unwrap());
        let constraint = match kind % 3 {
            0 => Constraint::JsonSchema(serde_json::from_str(&text).unwrap()),
            1 => Constraint::Regex(text),
            _ => Constraint::Lark(text),
        };
        let compiler = Parts::toy().open(folder.path()).unwrap().constraint_compiler().unwrap();
        compiler.compile(&constraint).map_or_else(|error| error.to_string(), |_| "compiles".to_owned())
    };
    let mut said = Vec::new();
    for name in ["tok-bigid", "tok-ctrl", "tok-grow", "tok-template"] {
        said.push((name, tokenizer(name)));
    }
    for name in [
        "chars", "double", "entities", "eq", "group", "key", "macros", "marks", "nest", "out", "paths", "prefixes",
        "quad", "same", "sort", "splat", "split", "strip", "tags",
    ] {
        said.push((name, template(name)));
    }
    for name in ["multiple-of", "multiple-of-all", "multiple-of-hidden", "empty-intersection"] {
        said.push((name, schema(name)));
    }
    check(
        said,
        &expect![[r#"
            tok-bigid
                works
            tok-ctrl
                tokenizer: JSON error: control character (\u0000-\u001F) found while parsing a string at line 1 column 583
            tok-grow
                tokenizer: normalizer: its steps make up to 1099511627776 bytes of one byte of text, expected at most 64
            tok-template
                tokenizer: post_processor.single[0]: found "2s>", expected a key of special_tokens
            chars
                chat template: a sequence of 16000000 items, more than 1048576 (line 1)
            double
                chat template: a text of 33554432 bytes, more than 16777216 (line 1)
            entities
                8 bytes
            eq
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            group
                15000001 bytes
            key
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            macros
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            marks
                0 bytes
            nest
                chat template: values are nested more than 250 levels deep (line 1)
            out
                chat template: a text of 17000000 bytes, more than 16777216 (line 1)
            paths
                chat template: 'int object' has no attribute 'a' (line 1)
            prefixes
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            quad
                6 bytes
            same
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            sort
                chat template: its texts and lists have taken more than 536870912 bytes (line 1)
            splat
                chat template: a sequence of 2000000 items, more than 1048576 (line 1)
            split
                chat template: a sequence of 1048578 items, more than 1048576 (line 1)
            strip
                8 bytes
            tags
                1 bytes
            multiple-of
                JSON schema: multipleOf: found a product of 99999989, expected at most 10000
            multiple-of-all
                JSON schema: multipleOf: found a product of 99400891, expected at most 10000
            multiple-of-hidden
                grammar: multipleOf: found a product of 99999989, expected at most 10000
            empty-intersection
                compiles
        "#]],
    );
}

/// A copy of models/tiny beside a secret, with a change.
fn checkpoint(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(folder.path().join("secret"), "a key").unwrap();
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(Path::new(TINY).join(name), model.join(name)).unwrap();
    }
    change(&model);
    let opened = ModelFile::open(&model).map_err(|error| format!("{error:#}"));
    let opened = opened.and_then(|file| Checkpoint::open(&file.checkpoint).map_err(|error| error.to_string()));
    let said = opened.map_or_else(|error| error, |_| "opens".to_owned());
    said.replace(&format!("{}/", folder.path().display()), "").replace(&folder.path().display().to_string(), "DIR")
}

/// config.json with another number.
fn with_number(model: &Path, key: &str, number: u64) {
    let path = model.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = number.into();
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn hostile_checkpoints_reach_nothing() {
    let fifo = |model: &Path| {
        std::fs::remove_file(model.join("config.json")).unwrap();
        assert!(Command::new("mkfifo").arg(model.join("config.json")).status().unwrap().success());
    };
    let header = |model: &Path| {
        let header = format!("{{\"a\":{{\"x\":[{}{{}}]}}}}", "{},".repeat(6_000_000));
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(model.join("model.safetensors"), file).unwrap();
    };
    let said = vec![
        (
            "a template that is a link to a secret",
            checkpoint(|model| symlink("../secret", model.join("chat_template.jinja")).unwrap()),
        ),
        (
            "a tokenizer that is a link to a secret",
            checkpoint(|model| {
                std::fs::remove_file(model.join("tokenizer.json")).unwrap();
                symlink("/etc/passwd", model.join("tokenizer.json")).unwrap();
            }),
        ),
        (
            "a model.toml that names another model",
            checkpoint(|model| {
                std::fs::write(model.join("model.toml"), "[model]\ncheckpoint = \"/another/model\"\n").unwrap()
            }),
        ),
        ("a FIFO", checkpoint(fifo)),
        ("2^31 − 1 layers", checkpoint(|model| with_number(model, "num_hidden_layers", i32::MAX as u64))),
        ("a state of 4096", checkpoint(|model| with_number(model, "mamba_d_state", 4096))),
        ("a header of 18 MB", checkpoint(header)),
    ];
    check(
        said,
        &expect![[r#"
            a template that is a link to a secret
                model/chat_template.jinja: found a symbolic link that leads out of the folder, expected only files in model (--allow-links reads what links lead to)
            a tokenizer that is a link to a secret
                model/tokenizer.json: found a symbolic link that leads out of the folder, expected only files in model (--allow-links reads what links lead to)
            a model.toml that names another model
                model/model.toml: model.checkpoint: found /another/model, expected a path in this folder; to use it: name the model.toml itself, or --allow-links
            a FIFO
                model/config.json: found a device, FIFO or socket, expected a file
            2^31 − 1 layers
                model/config.json: num_hidden_layers: found 2147483647, expected at most 4096
            a state of 4096
                model/config.json: mamba_d_state: found 4096, expected at most 1024
            a header of 18 MB
                model/model.safetensors: found a header of 18000016 bytes in a file of 18000024 bytes, expected a header that fits, of at most 16777216 bytes (truncated, or not safetensors)
        "#]],
    );
}

fn check(said: Vec<(&str, String)>, expected: &expect_test::Expect) {
    let mut table = String::new();
    for (input, said) in said {
        writeln!(table, "{input}\n    {said}").unwrap();
    }
    expected.assert_eq(&table);
}
