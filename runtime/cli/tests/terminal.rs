//! `jamba run` and `jamba chat` on a terminal: colors, Ctrl-C, line editing and commands.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use std::path::Path;
use std::process::Command;

use fixture::{LIMITS, Toy};
use jamba_plan::format::Limits;
use rexpect::session::{PtySession, spawn_command};

/// Ends a test that hangs. No outcome depends on it: tests wait for output.
const TIMEOUT_MS: u64 = 600_000;

/// Tokens of an answer that outlasts any test: at 6 million loop iterations per token it takes about ten minutes. A prompt takes
/// less than the second after which a bar shows its progress.
const ENDLESS: u64 = 100_000;

fn toy(folder: &Path, toy: Toy) -> String {
    toy.write(folder, "toy.plan").to_str().unwrap().to_owned()
}

/// A toy that generates slowly and has room for an endless answer, so that Ctrl-C always comes before its end.
fn slow_toy() -> Toy {
    let limits = Limits { max_context: ENDLESS, kv_tokens: ENDLESS, ..LIMITS };
    Toy {
        targets: vec!["x86-64"],
        defines: "#define SPREAD 300\n#define SPIN 6000000",
        ..Toy::with_limits(&limits).and_text()
    }
}

fn on_terminal(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> PtySession {
    // Tests may have been started with SIGINT ignored, as by a shell's `&`.
    // The terminal of a person has an echo, unlike that of this library.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", "sh", "-c", "stty echo; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_jamba")).args(args);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env("XDG_STATE_HOME", folder);
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
    let plan = toy(folder.path(), Toy::with_text());
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
    let plan = toy(folder.path(), slow_toy());
    let state = folder.path().join("a.state");
    let n = ENDLESS.to_string();
    let args = ["run", &plan, "--tokens", "4,5", "--ignore-eos", "--save-state", state.to_str().unwrap(), "-n"];
    let stop = |says: &str| {
        let mut session = on_terminal(folder.path(), &[&args[..], &[&n]].concat(), &[]);
        session.exp_regex("[a-zA-Z,.]").unwrap(); // something of the answer
        session.send_control('c').unwrap();
        let rest = ended(session, 130);
        assert!(rest.contains("stopped by Ctrl-C") && rest.contains(" new, ") && rest.contains(says), "{rest}");
    };
    stop("a.state was not written");
    assert!(!state.exists());
    ended(on_terminal(folder.path(), &[&args[..], &["0"]].concat(), &[]), 0);
    let old = std::fs::read(&state).unwrap();
    stop("a.state is unchanged");
    assert_eq!(std::fs::read(&state).unwrap(), old);
}

/// Waits for the next prompt of the chat: the program turns bracketed paste on when it begins to read a line.
fn prompt(chat: &mut PtySession) {
    chat.exp_string("\x1b[?2004h").unwrap();
    chat.exp_string("> ").unwrap();
}

/// Sends a line and waits until the model's answer begins: the first letter after bracketed paste is off again.
fn begin_answer(chat: &mut PtySession, line: &str) {
    chat.send_line(line).unwrap();
    chat.exp_string("\x1b[?2004l").unwrap();
    chat.exp_regex("[a-zA-Z,.]").unwrap();
}

#[test]
fn a_chat_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), slow_toy());
    // Without the end token (2) only Ctrl-C ends an answer.
    let args = ["chat", &plan, "--logit-bias", "2=-inf", "--system", "Be brief"];
    let mut chat = on_terminal(folder.path(), &args, &[]);
    chat.exp_string("toy: ").unwrap();
    chat.exp_string(&format!("context of {ENDLESS} tokens, x86-64")).unwrap();
    chat.exp_string("/help lists").unwrap();
    prompt(&mut chat);

    // Ctrl-C ends the answer and not the program; the part that was printed stays in the conversation.
    begin_answer(&mut chat, "Hi");
    chat.send_control('c').unwrap();
    prompt(&mut chat);
    chat.send_line("/stats").unwrap();
    let answered = chat.exp_regex("answers  1, ([0-9]+) tokens").unwrap().1;
    let tokens: u64 = answered.trim_start_matches("answers  1, ").trim_end_matches(" tokens").parse().unwrap();
    assert!((1..ENDLESS).contains(&tokens), "{tokens}");
    prompt(&mut chat);

    // An unknown command and a failing one change nothing.
    chat.send_line("/loud").unwrap();
    chat.exp_string("which is not a command").unwrap();
    prompt(&mut chat);
    chat.send_line("/load no.state").unwrap();
    chat.exp_string("jamba\x1b[0m: no.state").unwrap();
    prompt(&mut chat);

    // Ctrl-C at the prompt drops the line; the arrow brings back an old one.
    chat.send("half a line").unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string("ends the chat").unwrap();
    prompt(&mut chat);
    chat.send("\x1b[A\x1b[A\x1b[A").unwrap();
    chat.flush().unwrap();
    chat.exp_string("/stats").unwrap();
    chat.send_line("").unwrap();
    chat.exp_string("context ").unwrap();
    prompt(&mut chat);

    begin_answer(&mut chat, "/regenerate");
    chat.send_control('c').unwrap();
    prompt(&mut chat);
    chat.send_line("/stats").unwrap();
    chat.exp_string("answers  2, ").unwrap();
    prompt(&mut chat);
    chat.send_line("/system Be long").unwrap();
    chat.exp_string("the system message is set").unwrap();
    prompt(&mut chat);
    chat.send_line("/undo").unwrap();
    chat.exp_string("removed the last message, \"Hi\"").unwrap();
    prompt(&mut chat);
    chat.send_line("/undo").unwrap();
    chat.exp_string("there is no message yet").unwrap();
    prompt(&mut chat);
    chat.send_line("/reset").unwrap();
    chat.exp_string("new conversation; the system message stays").unwrap();
    prompt(&mut chat);
    chat.send_line("/stats").unwrap();
    chat.exp_string(&format!("context  0 of {ENDLESS}")).unwrap();
    prompt(&mut chat);
    chat.send_control('d').unwrap();
    ended(chat, 0);
    let history = std::fs::read_to_string(folder.path().join("jamba/history")).unwrap();
    assert!(history.contains("/regenerate") && !history.contains("half a line"), "{history}");
}

/// True if the terminal shows what is typed.
fn has_echo(session: &PtySession) -> bool {
    use rustix::termios::{LocalModes, tcgetattr};
    let terminal = session.process().get_file_handle().unwrap();
    tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO)
}

#[test]
fn keys_are_not_shown_in_the_middle_of_an_answer() {
    const KEYS: &str = "@#~%@#~%";
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), slow_toy());
    let args = ["chat", &plan, "--logit-bias", "2=-inf"];
    let mut chat = on_terminal(folder.path(), &args, &[]);
    prompt(&mut chat);
    begin_answer(&mut chat, "Hi");
    assert!(!has_echo(&chat));
    // The terminal has handled the keys before it handles Ctrl-C, which ends the answer.
    chat.send(KEYS).unwrap();
    chat.flush().unwrap();
    chat.send_control('c').unwrap();
    let answer = chat.exp_string("\x1b[?2004h").unwrap();
    assert!(!answer.contains('@') && !answer.contains("^C"), "{answer}");
    chat.exp_string("> ").unwrap();
    chat.send_control('d').unwrap();
    ended(chat, 0);

    // A signal that ends the program leaves the terminal as it was: in an answer, and in a line that is edited.
    for in_answer in [true, false] {
        let mut chat = on_terminal(folder.path(), &args, &[]);
        prompt(&mut chat);
        if in_answer {
            begin_answer(&mut chat, "Hi");
        }
        assert!(!has_echo(&chat));
        chat.process_mut().signal(rexpect::process::Signal::SIGTERM).unwrap();
        chat.exp_eof().unwrap();
        assert!(has_echo(&chat), "in an answer: {in_answer}");
    }
}

#[test]
fn lines_that_are_typed_ahead_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), Toy::with_text());
    let mut chat = on_terminal(folder.path(), &["chat", &plan, "-n", "3", "--logit-bias", "2=-inf"], &[]);
    prompt(&mut chat);
    // All lines at once: the first read returns the later ones too.
    chat.send("Hi\r/system Be brief\r/stats\r/exit\r").unwrap();
    chat.flush().unwrap();
    chat.exp_string("[cut after 3 tokens: -n").unwrap();
    chat.exp_string("the system message is set").unwrap();
    chat.exp_string("answers  1, 3 tokens").unwrap();
    ended(chat, 0);
}

#[test]
fn a_full_context_drops_the_oldest_turns() {
    let folder = tempfile::tempdir().unwrap();
    let plan = toy(folder.path(), Toy::with_text());
    let mut chat = on_terminal(folder.path(), &["chat", &plan, "--logit-bias", "2=-inf"], &[]);
    prompt(&mut chat);
    // Without an end token, the answer fills the context; the next message has room again.
    chat.send_line("Hi").unwrap();
    chat.exp_regex("cut after [0-9]+ tokens: the context of 100 tokens is full; the oldest").unwrap();
    prompt(&mut chat);
    chat.send_line("You").unwrap();
    chat.exp_string("[the context of 100 tokens is full: the oldest 2 messages give way]").unwrap();
    chat.exp_regex("cut after [0-9]+ tokens").unwrap();
    prompt(&mut chat);
    chat.send_line("/exit").unwrap();
    ended(chat, 0);
}
