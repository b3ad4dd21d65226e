//! Finding faults from the command line: stopping at a phase and resuming from its text, times of phases, comparing plans, and
//! reducing graphs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jambac_models::tiny::Tiny;
use tempfile::TempDir;

fn jambac(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).output().unwrap()
}

/// Standard output and error of a command that succeeds.
#[track_caller]
fn run(args: &[&str]) -> (String, String) {
    let output = jambac(args);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    (stdout, stderr)
}

/// Standard output of a command that fails with code 1 and a message that has all parts.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) -> String {
    let output = jambac(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A checkpoint with a Mamba layer and an attention layer.
struct Model {
    folder: TempDir,
}

impl Model {
    fn new() -> Model {
        let folder = tempfile::tempdir().unwrap();
        Tiny { layers: 2, attention: (2, 1), ..Tiny::odd() }.write(&folder.path().join("checkpoint"), 4).unwrap();
        Model { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Builds a plan with more options.
    fn build(&self, name: &str, options: &[&str]) -> String {
        let (checkpoint, plan) = (self.path("checkpoint"), self.path(name));
        run(&[&["build", &checkpoint, "-o", &plan, "--max-context", "64"], options].concat());
        plan
    }
}

#[test]
fn a_build_resumed_from_its_dumps_gives_the_same_program() {
    let model = Model::new();
    let dump = model.path("dump");
    let whole = model.build("whole.plan", &["--dump-dir", &dump]);
    let mut names: Vec<String> =
        Path::new(&dump).read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "01.checkpoint.txt",
        "02.decode.graph",
        "02.prefill.graph",
        "03.decode.optimized.graph",
        "03.prefill.optimized.graph",
        "04.schedule.txt",
        "05.x86-64-v3.mlir",
        "05.x86-64-v4.mlir",
        "06.x86-64-v3.llvm.mlir",
        "06.x86-64-v4.llvm.mlir",
        "07.x86-64-v3.ll",
        "07.x86-64-v3.s",
        "07.x86-64-v4.ll",
        "07.x86-64-v4.s",
        "08.plan.txt",
    ];
    assert_eq!(names, expected);

    let file = |name: &str| format!("{dump}/{name}");
    let graphs = [file("02.prefill.graph"), file("02.decode.graph")];
    let resumed = model.build("graph.plan", &["--from", "graph", &graphs[0], &graphs[1]]);
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&resumed).unwrap(), "another plan from the same graphs");
    // The passes that ran before are unknown, which the manifest says; everything else is the same.
    let optimized = [file("03.prefill.optimized.graph"), file("03.decode.optimized.graph")];
    let resumed = model.build("optimized.plan", &["--from", "optimized", &optimized[1], &optimized[0]]);
    for part in ["--steps", "--kernels", "--memory"] {
        assert_eq!(run(&["inspect", &whole, part]).0, run(&["inspect", &resumed, part]).0);
    }

    let checkpoint = model.path("checkpoint");
    let emitted = run(&["build", &checkpoint, "--emit", "graph"]).0;
    let [prefill, decode] = graphs.map(|path| std::fs::read_to_string(path).unwrap());
    assert_eq!(emitted, prefill + &decode);
    let both = model.path("both.graph");
    run(&["build", &checkpoint, "--emit", "optimized", "-o", &both]);
    let emit = |options: &[&str]| run(&[&["build", &checkpoint, "--max-context", "64"], options].concat()).0;
    let schedule = emit(&["--emit", "schedule", "--from", "optimized", &both]);
    assert_eq!(schedule, std::fs::read_to_string(file("04.schedule.txt")).unwrap());
    assert!(emit(&["--emit", "llvm-ir"]).starts_with("; ModuleID"));

    let plan = model.path("x.plan");
    let from = |options: &[&str], parts: &[&str]| {
        refused(&[&["build", &checkpoint, "-o", &plan, "--from"], options].concat(), parts)
    };
    from(&["schedule", &both], &["--from: found schedule", "graph, optimized"]);
    from(&["graph", &both, "--target", "x86-64-v3", "--target", "sm_90a"], &["--from graph", "expected one kind"]);
    from(&["graph", &file("02.prefill.graph")], &["no graph @decode"]);
    from(&["linker", &both], &["--from", "found linker"]);
    assert_eq!(jambac(&["build", &checkpoint, "--emit", "plan"]).status.code(), Some(2));
    assert_eq!(jambac(&["build", &checkpoint]).status.code(), Some(2));
}

#[test]
fn verbose_lists_phases_and_the_log_has_a_span_for_each() {
    let model = Model::new();
    let (checkpoint, plan) = (model.path("checkpoint"), model.path("x.plan"));
    let (_, stderr) = run(&["build", &checkpoint, "-o", &plan, "--verbose"]);
    let phases =
        ["checkpoint", "graph", "passes", "schedule", "code for x86-64-v4", "code for x86-64-v3", "weights and plan"];
    // Remarks about the checkpoint come first.
    let table = stderr.lines().skip_while(|line| line.split_whitespace().next() != Some("seconds"));
    let rows: Vec<&str> = table.skip(1).take(phases.len()).collect();
    assert_eq!(rows.len(), phases.len(), "{stderr}");
    for (row, phase) in rows.iter().zip(phases) {
        let mut cells = row.split_whitespace();
        assert!(cells.next().unwrap().parse::<f64>().is_ok_and(|seconds| seconds >= 0.0), "{row}");
        assert!(cells.next().unwrap().parse::<f64>().is_ok_and(|megabytes| megabytes > 1.0), "{row}");
        assert!(row.ends_with(phase), "{row}");
    }
    let log = |filter: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jambac"));
        let output = command.args(["build", &checkpoint, "--emit", "schedule"]).env("JAMBAC_LOG", filter).output();
        let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
        // Remarks about the checkpoint are no log.
        stderr.lines().filter(|line| !line.starts_with("jambac: ")).collect::<Vec<_>>().join("\n")
    };
    let lines = log("info");
    assert!(["work=graph", "work=passes", "work=schedule"].iter().all(|span| lines.contains(span)), "{lines}");
    assert_eq!(log("error"), "");
}

/// Adds one to the first element of a parameter of a checkpoint in f32.
fn change(checkpoint: &Path, parameter: &str) {
    let path = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(tensors[parameter]["dtype"], "F32", "{parameter}");
    let begin = 8 + header + tensors[parameter]["data_offsets"][0].as_u64().unwrap() as usize;
    let value = f32::from_le_bytes(bytes[begin..begin + 4].try_into().unwrap());
    bytes[begin..begin + 4].copy_from_slice(&(value + 1.0).to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_first_step_that_differs_between_two_plans_is_named() {
    let model = Model::new();
    let plan = model.build("a.plan", &[]);
    let (same, _) = run(&["compare", &plan, &plan, "--tolerance", "0"]);
    assert!(same.contains(" 0 without a partner\nno difference"), "{same}");

    // Fusions change ops and the order of sums, not results. Most ops stay.
    let unfused = model.build("unfused.plan", &["--fusion", "all,-fuse-residual-norm"]);
    let (fused, _) = run(&["compare", &unfused, &plan]);
    let compared: usize = fused.split(' ').next().unwrap().parse().unwrap();
    assert!(compared > 10 && fused.contains("no difference"), "{fused}");

    change(&PathBuf::from(model.path("checkpoint")), "model.layers.1.pre_ff_layernorm.weight");
    let changed = model.build("changed.plan", &[]);
    let report = refused(&["compare", &plan, &changed], &["the plans differ, first in prefill at layers.1"]);
    let first = report.split_once("first difference: ").unwrap().1;
    assert!(first.starts_with("prefill, ") && first.contains(" at layers.1"), "{report}");
    assert!(first.contains("\n  A: step ") && first.contains("rms_norm"), "{report}");
    assert!(first.contains("first bad: element 0: "), "{report}");
    refused(&["compare", &plan, &changed, "--tokens", "1,2,3", "--decode", "1"], &["first in prefill at layers.1"]);

    refused(&["compare", &plan, "no.plan"], &["no.plan"]);
    refused(&["compare", &plan, &plan, "--tokens", "1,99999"], &["99999"]);
}

#[test]
fn bisecting_a_right_build_finds_nothing_and_quantized_weights_are_explained() {
    let model = Model::new();
    let checkpoint = model.path("checkpoint");
    let (found, _) = run(&["build", &checkpoint, "--bisect", "--fusion", "fuse-qkv"]);
    assert_eq!(found, "the plan agrees with the interpreter after all 2 rewrites\n");
    let found = refused(&["build", &checkpoint, "--bisect", "--weights", "int4"], &["without any pass"]);
    assert!(found.contains("bisect with --weights f32"), "{found}");
    refused(&["build", &checkpoint, "--bisect", "--target", "sm_90a"], &["--bisect", "no CPU target"]);
    assert_eq!(jambac(&["build", &checkpoint, "--bisect", "-o", "x.plan"]).status.code(), Some(2));
}

#[test]
fn a_graph_is_reduced_while_a_command_fails() {
    let model = Model::new();
    let graph = model.path("model.graph");
    let text = run(&["graph", &model.path("checkpoint"), "--unfused"]).0;
    std::fs::write(&graph, &text).unwrap();
    let (reduced, stderr) = run(&["reduce", &graph, "--while", "! grep -q softplus {}"]);
    assert_eq!(reduced.lines().filter(|line| line.contains(" = ")).count(), 3, "{reduced}");
    assert!(reduced.contains("softplus") && stderr.starts_with("2 of "), "{reduced}{stderr}");

    let small = model.path("small.graph");
    let jambac = env!("CARGO_BIN_EXE_jambac");
    let opt = format!("{jambac} opt {{}}");
    run(&["reduce", &graph, "--while", &opt, "--matches", "fuse-qkv +1 rewrites", "-o", &small]);
    let (_, passes) = run(&["opt", &small]);
    assert!(passes.contains("fuse-qkv                   1 rewrites"), "{passes}");
    assert!(std::fs::read_to_string(&small).unwrap().lines().count() < text.lines().count() / 4);

    refused(&["reduce", &graph, "--while", "true {}"], &["the command does not fail on it"]);
    refused(&["reduce", &graph, "--while", "false"], &["--while", "{}"]);
}
