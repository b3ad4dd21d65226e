//! Files that `jamba` writes: what it refuses to replace, and what remains when it is interrupted or the machine fails.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fixture::{LIMITS, Toy};
use jamba_plan::format::Limits;

struct Files {
    folder: tempfile::TempDir,
    plan: String,
}

fn files(toy: Toy) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy.write(folder.path(), "toy.plan").to_str().unwrap().to_owned();
    Files { folder, plan }
}

/// A toy whose answers outlast any test.
fn endless() -> Toy {
    const ENDLESS: u64 = 100_000;
    let limits = Limits { max_context: ENDLESS, kv_tokens: ENDLESS, ..LIMITS };
    Toy { targets: vec!["x86-64"], defines: "#define SPIN 30000000", ..Toy::with_limits(&limits) }
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jamba"));
        command.args([subcommand, &self.plan]).args(args).current_dir(self.folder.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command("run", &[&["--tokens", "1,2", "-n", "0"], args].concat()).output().unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], says: &[&str]) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{stderr}");
        assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
    }

    #[track_caller]
    fn done(&self, args: &[&str]) {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn no_file_of_another_kind_is_replaced() {
    let files = files(Toy::new());
    let plan = std::fs::read(&files.plan).unwrap();
    let letter = files.write("letter.txt", "Dear reader");
    std::os::unix::fs::symlink(&files.plan, files.path("link.state")).unwrap();
    std::fs::hard_link(&files.plan, files.path("hard.state")).unwrap();
    for option in ["--save-state", "--trace"] {
        for name in ["toy.plan", "./toy.plan", "link.state", "hard.state"] {
            files.refused(&[option, name], &[option, name, "is an input of this command"]);
            files.refused(&[option, name, "--force"], &["is an input of this command"]);
        }
        files.refused(&[option, "letter.txt"], &["letter.txt: exists and is not a", "--force"]);
        files.refused(&[option, "/dev/null"], &["/dev/null: is a device"]);
        files.refused(&[option, "."], &["is a folder"]);
        files.refused(&[option, "no/such/file"], &["its folder does not exist: mkdir -p no/such"]);
    }
    assert_eq!((std::fs::read(&letter).unwrap(), std::fs::read(&files.plan).unwrap()), (b"Dear reader".to_vec(), plan));
    files.refused(&["--save-state", "a", "--trace", "a"], &["is the file of --trace too"]);
    let stdout = files.run(&["--save-state", "-"]);
    assert_eq!(stdout.status.code(), Some(2));
    files.done(&["--save-state", "letter.txt", "--force"]);
    files.done(&["--save-state", "letter.txt", "--trace", "t.json"]);
    files.done(&["--save-state", "letter.txt", "--load-state", "letter.txt", "--trace", "t.json"]);
}

#[test]
fn outputs_are_refused_before_the_work() {
    let files = files(Toy::new());
    std::fs::write(&files.plan, "no plan").unwrap();
    files.refused(&["--trace", "no/such/file"], &["--trace no/such/file"]);
    // The prompt is not read either: nothing is piped in.
    let mut child =
        files.command("run", &["--trace", "/dev/null"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn logits_go_to_a_file_or_a_pipe() {
    let files = files(Toy::new());
    let logits = |output: &str| files.command("logits", &["--tokens", "1,2,3", "-o", output]).output().unwrap();
    assert_eq!(logits("a.safetensors").status.code(), Some(0));
    let piped = logits("-");
    assert_eq!(piped.status.code(), Some(0));
    assert_eq!(std::fs::read(files.path("a.safetensors")).unwrap(), piped.stdout);
    assert_eq!(logits("a.safetensors").status.code(), Some(0), "logits replace logits");
    let weights = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let checkpoint = files.path("model.safetensors");
    safetensors::serialize_to_file([("lm_head.weight", weights)], None, &checkpoint).unwrap();
    let before = std::fs::read(&checkpoint).unwrap();
    let refused = logits("model.safetensors");
    assert_eq!((refused.status.code(), std::fs::read(&checkpoint).unwrap()), (Some(1), before));
}

#[test]
fn manual_pages_replace_manual_pages_only() {
    let files = files(Toy::new());
    let pages = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jamba"));
        command.args(["man", "--dir"]).arg(files.path("man")).args(args).output().unwrap().status.code()
    };
    assert_eq!([pages(&[]), pages(&[])], [Some(0); 2]);
    std::fs::write(files.path("man/jamba-run.1"), "my own page").unwrap();
    std::fs::remove_file(files.path("man/jamba.1")).unwrap();
    assert_eq!(pages(&[]), Some(1));
    assert_eq!(std::fs::read(files.path("man/jamba-run.1")).unwrap(), b"my own page");
    assert!(!files.path("man/jamba.1").exists(), "all pages are claimed before one is written");
    assert_eq!(pages(&["--force"]), Some(0));
}

/// Starts an endless answer and waits for its first token.
fn answering(files: &Files) -> std::process::Child {
    let args = ["--tokens", "4,5", "--ignore-eos", "-n", "99999", "--threads", "2"];
    let mut command = files.command("run", &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child
}

#[test]
fn a_plan_truncated_in_use_is_named() {
    let files = files(endless());
    let child = answering(&files);
    std::fs::File::options().write(true).open(&files.plan).unwrap().set_len(0).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{:?} {stderr}", output.status.signal());
    assert!(stderr.contains("toy.plan: the file became shorter"), "{stderr}");
}

#[test]
fn sigterm_ends_a_run_with_its_exit_code() {
    let files = files(endless());
    let mut child = answering(&files);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_hangup_does_not_end_a_run_under_nohup() {
    let files = files(endless());
    let args = ["--tokens", "4,5", "--ignore-eos", "-n", "99999", "--threads", "2"];
    let run = files.command("run", &args);
    let mut command = Command::new("nohup");
    command.arg(run.get_program()).args(run.get_args()).current_dir(files.folder.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    let id = child.id().to_string();
    let kill = |signal: &str| Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(kill("-HUP").success());
    // The answer goes on after it.
    stdout.read_exact(&mut [0; 8]).unwrap();
    assert!(kill("-TERM").success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// Runs under a limit of the shell. Whatever fails is the machine's fault: exit code 1, with a reason.
#[track_caller]
fn limited(files: &Files, limit: &str) -> bool {
    let program = env!("CARGO_BIN_EXE_jamba");
    let script = format!("{limit} && exec {program} run toy.plan --tokens 1,2 -n 3 --ignore-eos --threads 4");
    let output = Command::new("bash").args(["-c", &script]).current_dir(files.folder.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // 127: the dynamic loader has no memory for the program itself.
    if output.status.code() == Some(127) {
        return false;
    }
    let failed = output.status.code() == Some(1) && !stderr.is_empty() && !stderr.contains("bug");
    assert!(output.status.success() || failed, "{limit}: {:?} {stderr}", output.status);
    output.status.success()
}

#[test]
fn little_memory_and_few_descriptors_are_the_machines_fault() {
    let files = files(Toy::new());
    // The system ends a program that it cannot map with SIGSEGV: the first limit holds the program itself.
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_jamba")).unwrap().len().div_ceil(1024);
    let limits = (program.next_power_of_two().ilog2()..=20).map(|power| 1_u64 << power);
    let memory: Vec<bool> = limits.map(|kib| limited(&files, &format!("ulimit -v {kib}"))).collect();
    assert_eq!(memory.last(), Some(&true), "{memory:?}");
    let descriptors: Vec<bool> = (3..=20).map(|n| limited(&files, &format!("ulimit -n {n}"))).collect();
    assert!(!descriptors[0] && descriptors[17], "{descriptors:?}");
}

/// Runs a script in a mount namespace of its own, where that is possible.
fn namespace(script: &str, folder: &Path) -> Option<Output> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "bash", "-c", script]).current_dir(folder);
        command.output()
    };
    match unshare("true") {
        Ok(output) if output.status.success() => Some(unshare(script).unwrap()),
        _ => {
            eprintln!("!! no user namespaces here: plans without /proc and on mount points were NOT tested");
            None
        }
    }
}

#[test]
fn plans_run_without_proc_and_mount_points_are_written() {
    let files = files(Toy::new());
    let program = env!("CARGO_BIN_EXE_jamba");
    let run = format!("{program} run toy.plan --tokens 1,2 -n 2 --ignore-eos --save-state");
    let script = format!("mount -t tmpfs none /proc && {run} a.state && ls -A");
    let Some(output) = namespace(&script, files.folder.path()) else { return };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.starts_with("0,0\n"), "{stdout}{stderr}");
    assert!(stdout.contains("a.state") && !stdout.contains(".jamba-"), "{stdout}");

    let run = run.replace("1,2", "1,2,3,4");
    let script = format!(": > b.state && mount --bind a.state b.state && {run} b.state && ls -A");
    let before = std::fs::read(files.path("a.state")).unwrap();
    let output = namespace(&script, files.folder.path()).unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !stdout.contains(".jamba-"), "{stdout}{stderr}");
    assert!(std::fs::read(files.path("a.state")).unwrap().len() > before.len(), "the mounted file has the new state");
}
