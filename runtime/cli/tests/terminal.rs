//! `jamba run` and `jamba chat` on a terminal: colours, Ctrl-C, line editing, orders.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use std::path::Path;
use std::process::Command;

use fixture::Toy;
use rexpect::session::{PtySession, spawn_command};

/// Longer than any answer, on a machine that does other things too.
const TIMEOUT_MS: u64 = 60_000;

/// A toy whose tokens take long enough to be interrupted.
const SLOW: &str = "#define SPREAD 300\n#define SPIN 30000000";

fn toy(folder: &Path, defines: &'static str) -> String {
    Toy { defines, ..Toy::with_text() }.write(folder, "toy.plan").to_str().unwrap().to_owned()
}

fn on_terminal(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> PtySession {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jamba"));
    command.args(args).env("TERM", "xterm").env_remove("NO_COLOR").env("XDG_STATE_HOME", folder);
    command.envs(env.iter().copied());
    spawn_command(command, Some(TIMEOUT_MS)).unwrap()
}

#[track_caller]
fn ended(mut session: PtySession, code: i32) -> String {
    let rest = session.exp_eof().unwrap();
    let status = format!("{:?}", session.process_mut().wait().unwrap());
    assert!(status.starts_with("Exited(") && status.ends_with(&format!(", {code})")), "{status}\n{rest}");
    rest
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), "#define SPREAD 300");
    let args = ["run", &plan, "--prompt", "Once", "-n", "3"];
    let shown = |env: &[(&str, &str)]| ended(on_terminal(folder.path(), &args, env), 0);
    let coloured = shown(&[]);
    assert!(
        coloured.contains("\x1b[2m[open ") && coloured.contains("tokens/s") && coloured.contains("; plan "),
        "{coloured}"
    );
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = shown(&[env]);
        assert!(plain.contains("[open ") && !plain.contains('\x1b'), "{plain}");
    }
    let fault = ended(on_terminal(folder.path(), &["run", "no.plan", "--prompt", "a"], &[]), 1);
    assert!(fault.contains("\x1b[1;31mjamba\x1b[0m: no.plan"), "{fault}");
}

#[test]
fn ctrl_c_ends_a_run_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), SLOW);
    let state = folder.path().join("a.state");
    let args = ["run", &plan, "--tokens", "4,5", "-n", "90", "--ignore-eos", "--save-state", state.to_str().unwrap()];
    let mut session = on_terminal(folder.path(), &args, &[]);
    session.exp_regex("[a-zA-Z,.]").unwrap(); // something of the answer
    session.send_control('c').unwrap();
    let rest = ended(session, 0);
    assert!(rest.contains("stopped by Ctrl-C") && rest.contains(" new, "), "{rest}");
    assert!(state.is_file(), "what there is can be gone on from");
}

#[test]
fn a_chat_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), SLOW);
    let mut chat = on_terminal(folder.path(), &["chat", &plan, "-n", "60", "--system", "Be brief"], &[]);
    chat.exp_string("/help lists").unwrap();
    chat.exp_string("> ").unwrap();

    // Ctrl-C ends the answer and not the program; what was said of it stays in the conversation.
    chat.send_line("Hi").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    chat.send_control('c').unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_line("/stats").unwrap();
    let answered = chat.exp_regex("answers  1, ([0-9]+) tokens").unwrap().1;
    let tokens: u64 = answered.trim_start_matches("answers  1, ").trim_end_matches(" tokens").parse().unwrap();
    assert!(tokens < 60, "{tokens}");
    chat.exp_string("> ").unwrap();

    // An order that does not exist, and one that fails, change nothing.
    chat.send_line("/loud").unwrap();
    chat.exp_string("which is no order").unwrap();
    chat.send_line("/load no.state").unwrap();
    chat.exp_string("no.state").unwrap();
    chat.exp_string("> ").unwrap();

    // Ctrl-C at the prompt drops the line; the arrow brings back an old one.
    chat.send("half a line").unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string("ends the chat").unwrap();
    chat.exp_string("> ").unwrap();
    chat.send("\x1b[A\x1b[A\x1b[A").unwrap();
    chat.flush().unwrap();
    chat.exp_string("/stats").unwrap();
    chat.send_line("").unwrap();
    chat.exp_string("context ").unwrap();
    chat.exp_string("> ").unwrap();

    chat.send_line("/regenerate").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    chat.send_control('c').unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_line("/stats").unwrap();
    chat.exp_string("answers  2, ").unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_line("/system Be long").unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_line("/reset").unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_line("/stats").unwrap();
    chat.exp_string("context  0 of 100").unwrap();
    chat.exp_string("> ").unwrap();
    chat.send_control('d').unwrap();
    ended(chat, 0);
    let history = std::fs::read_to_string(folder.path().join("jamba/history")).unwrap();
    assert!(history.contains("/regenerate") && !history.contains("half a line"), "{history}");
}
