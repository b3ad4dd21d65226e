//! `jamba run` and `jamba chat` without a terminal: pipes, files, constraints and manuals.

#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fixture::Toy;
use serde_json::{Value, json};

struct Files {
    folder: tempfile::TempDir,
    plan: String,
}

fn toy() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::with_text().write(folder.path(), "toy.plan").to_str().unwrap().to_owned();
    Files { folder, plan }
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs `jamba COMMAND PLAN ARGS…` with `input` on standard input.
    fn jamba(&self, command: &str, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_jamba"))
            .args([&[command, &self.plan], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input); // a program that refuses early reads nothing
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.jamba("run", &[args, &["--json"]].concat(), b"");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], input: &[u8], code: i32, says: &[&str]) {
        let output = self.jamba("run", args, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{stderr}");
        assert!(says.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_a_pipe() {
    let toy = toy();
    let file = toy.write("a.txt", "Once upon".as_bytes());
    let run = |args: &[&str], input: &[u8]| {
        let output = toy.jamba("run", &[args, &["-n", "8"]].concat(), input);
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
        output.stdout
    };
    let expected = run(&["--prompt", "Once upon"], b"");
    assert!(expected.len() > 2 && expected.ends_with(b"\n") && !expected.contains(&0x1b));
    assert_eq!(run(&["--prompt-file", &file], b""), expected);
    assert_eq!(run(&["--prompt-file", "-"], b"Once upon"), expected);
    assert_eq!(run(&[], b"Once upon"), expected);
    // One line break at the end is not part of the prompt.
    let broken = toy.write("c.txt", "Once upon\n".as_bytes());
    assert_eq!(run(&["--prompt-file", &broken], b""), expected);
    assert_eq!(
        (run(&[], b"Once upon\n"), run(&["--prompt-file", "-"], b"Once upon\r\n")),
        (expected.clone(), expected)
    );
    toy.refused(&[], b"", 2, &["a prompt is needed", "from a pipe"]);
    toy.refused(&[], b"ab\xffcd", 1, &["standard input", "0xff", "offset 2", "iconv"]);
    let file = toy.write("b.txt", b"caf\xe9");
    toy.refused(&["--prompt-file", &file], b"", 1, &["b.txt", "0xe9", "offset 3", "UTF-8"]);
    toy.refused(&["--prompt-file", "no.txt"], b"", 1, &["no.txt", "cannot read it"]);
}

#[test]
fn names_of_unknown_origin_are_shown_as_escapes() {
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy::with_text();
    toy.manifest.model.name = "a\u{1b}[31mb\u{9b}".to_owned();
    if let Some(text) = &mut toy.text {
        text.template = "{{ raise_exception('\u{1b}]0;title\u{7}no') }}".to_owned();
    }
    let plan = toy.write(folder.path(), "toy.plan").to_str().unwrap().to_owned();
    let toy = Files { folder, plan };
    let controls = ['\u{1b}', '\u{7}', '\u{9b}'];
    let template = toy.jamba("run", &["--prompt", "Hi", "--chat"], b"");
    let stderr = String::from_utf8(template.stderr).unwrap();
    assert!(stderr.contains("\\u001b]0;title\\u0007no") && !stderr.contains(controls), "{stderr}");
    for args in [&[][..], &["--json"]] {
        let info = toy.jamba("info", args, b"");
        let stdout = String::from_utf8(info.stdout).unwrap();
        assert!(stdout.contains("a\\u001b[31mb\\u009b") && !stdout.contains(controls), "{stdout}");
    }
    let name = format!("{}/no\u{1b}[2Jfile", toy.folder.path().display());
    for unknown in [&["--\u{1b}[31mno\u{7}"][..], &["--seed", "\u{1b}[2J\u{9b}"], &["--ngl\u{7}", "3"]] {
        let output = toy.jamba("run", unknown, b"a");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && !stderr.contains(controls), "{stderr:?}");
    }
    toy.refused(&["--prompt-file", &name], b"", 1, &["no\\u001b[2Jfile: cannot read it"]);
}

#[test]
fn a_prompt_that_is_too_long_is_refused_before_it_is_encoded() {
    let toy = toy();
    let long = toy.write("long.txt", "Once upon a time. ".repeat(4000).as_bytes());
    let says = [
        "the text of 72000 bytes has at least 101 tokens, and there is room for 100",
        "jambac limits PLAN --context N",
    ];
    toy.refused(&["--prompt-file", &long], b"", 1, &says);
    toy.refused(&["--prompt-file", &long, "--chat"], b"", 1, &["has at least 101 tokens", "room for 100"]);
    let huge = toy.write("huge.txt", &b"a b ".repeat((8 << 20) / 4 + 1));
    toy.refused(&["--prompt-file", &huge], b"", 1, &["8388612 bytes, expected at most 8388608"]);
    let chat = toy.jamba("chat", &[], "Once upon a time. ".repeat(4000).as_bytes());
    let stderr = String::from_utf8_lossy(&chat.stderr);
    assert!(chat.status.code() == Some(1) && stderr.contains("the message has at least 101 tokens"), "{stderr}");
}

#[test]
fn a_template_that_makes_no_prompt_says_so() {
    let toy = toy();
    let empty = toy.write("empty.jinja", b"{# nothing #}");
    toy.refused(&["--prompt", "a", "--chat-template", &empty], b"", 1, &["empty.jinja", "makes an empty prompt"]);
    let broken = toy.write("broken.jinja", b"\n{% if %}");
    toy.refused(
        &["--prompt", "a", "--chat-template", &broken],
        b"",
        1,
        &["chat template: ", "broken.jinja: ", "line 2"],
    );
    let fails = toy.write("fails.jinja", b"{{ foo.bar }}");
    toy.refused(
        &["--prompt", "a", "--chat-template", &fails],
        b"",
        1,
        &["chat template: ", "fails.jinja: 'foo' is undefined (line 1)"],
    );
}

#[test]
fn json_tells_probabilities_and_why_the_answer_ended() {
    let toy = toy();
    let report = toy.json(&["--prompt", "Once", "-n", "5", "--ignore-eos", "--greedy", "--logprobs", "3"]);
    let logprobs = report["logprobs"].as_array().unwrap();
    assert_eq!((logprobs.len(), &report["finish"]), (5, &"length".into()));
    for (token, expected) in logprobs.iter().zip(report["tokens"].as_array().unwrap()) {
        let top = token["top"].as_array().unwrap();
        let value = |top: &Value| top["logprob"].as_f64().unwrap();
        // Greedy: each token is the most likely one.
        assert_eq!((&token["token"], &top[0]["token"], top.len()), (expected, expected, 3));
        assert!(value(&top[0]) < 0.0 && value(&top[0]) >= value(&top[1]) && value(&top[1]) >= value(&top[2]));
        assert_eq!(token["logprob"], top[0]["logprob"]);
    }
    let whole = report["text"].as_str().unwrap();
    let told: String = logprobs.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert!(!whole.is_empty() && whole.starts_with(&told));
    assert_eq!(toy.json(&["--prompt", "Once", "-n", "2", "--logprobs"])["logprobs"][0]["top"], json!([]));

    // The answer ends before a stop string and avoids forbidden tokens.
    let letters = ["--prompt", "Once", "-n", "20", "--regex", "[a-z]+"];
    let whole = toy.json(&letters)["text"].as_str().unwrap().to_owned();
    let stop = &whole[2..5];
    let stopped = toy.json(&[&letters[..], &["--stop", stop]].concat());
    let before = &whole[..whole.find(stop).unwrap()];
    assert_eq!((&stopped["text"], &stopped["finish"]), (&before.into(), &"stopped".into()));
    let first = &report["tokens"][0];
    let bias = format!("{first}=-inf");
    let other = toy.json(&["--prompt", "Once", "-n", "5", "--ignore-eos", "--logit-bias", &bias]);
    assert!(!other["tokens"].as_array().unwrap().contains(first));
    let penalties = ["--presence-penalty", "90", "--frequency-penalty=-0.5"];
    let once = toy.json(&[&["--prompt", "Once", "-n", "40", "--ignore-eos"], &penalties[..]].concat());
    let mut tokens: Vec<u64> = once["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 40, "no token twice");
}

#[test]
fn an_answer_can_be_made_to_follow_a_form() {
    let toy = toy();
    let text = |args: &[&str]| {
        let report = toy.json(&[&["--prompt", "Once", "-n", "60"], args].concat());
        (report["text"].as_str().unwrap().to_owned(), report["finish"].clone())
    };
    let (date, _) = text(&["--regex", "[0-9]{4}-[0-9]{2}"]);
    assert!(date.len() == 7 && date.as_bytes()[4] == b'-', "{date}");
    let schema = r#"{"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["age"], "additionalProperties": false}"#;
    let file = toy.write("schema.json", schema.as_bytes());
    for given in [schema, &file] {
        let value: Value = serde_json::from_str(&text(&["--json-schema", given]).0).unwrap();
        assert!(value["age"].as_u64().is_some_and(|age| age < 10), "{value}");
    }
    let grammar = toy.write("grammar.lark", b"start: \"yes\" | \"no\"\n");
    assert!(["yes", "no"].contains(&&*text(&["--grammar", &grammar]).0));

    let ask = ["--prompt", "Once"];
    let broken = toy.write("broken.json", b"{\"type\": ");
    toy.refused(&[&ask[..], &["--json-schema", &broken]].concat(), b"", 1, &["broken.json", "JSON schema"]);
    let marked = toy.write("marked.json", "\u{feff}{\"type\": \"boolean\"}".as_bytes());
    assert!(["true", "false"].contains(&text(&["--json-schema", &marked]).0.as_str()));
    toy.refused(
        &[&ask[..], &["--json-schema", "{\"$ref\": \"#\"}"]].concat(),
        b"",
        1,
        &["jamba: JSON schema: no text"],
    );
    toy.refused(&[&ask[..], &["--json-schema", "{1}"]].concat(), b"", 1, &["--json-schema", "JSON schema"]);
    toy.refused(&[&ask[..], &["--json-schema", "7.json"]].concat(), b"", 1, &["7.json", "cannot read it"]);
    toy.refused(&[&ask[..], &["--regex", "a("]].concat(), b"", 1, &["regular expression"]);
    toy.refused(&[&ask[..], &["--regex", "a", "--grammar", &grammar]].concat(), b"", 2, &["cannot be used with"]);
    toy.refused(&[&ask[..], &["--logit-bias", "x"]].concat(), b"", 2, &["17=-2.5"]);
    toy.refused(&[&ask[..], &["--logit-bias", "999=1"]].concat(), b"", 1, &["token 999", "vocabulary of 300"]);
    toy.refused(&[&ask[..], &["--stop", ""]].concat(), b"", 2, &["stop"]);
    toy.refused(&[&ask[..], &["--logprobs"]].concat(), b"", 2, &["--json"]);
}

#[test]
fn a_prompt_can_be_a_message_of_a_chat() {
    let toy = toy();
    let tokens = |args: &[&str]| toy.json(&[args, &["-n", "1"]].concat())["prompt_tokens"].as_array().unwrap().len();
    let plain = tokens(&["--prompt", "Hi"]);
    let chat = tokens(&["--prompt", "Hi", "--chat"]);
    let system = tokens(&["--prompt", "Hi", "--system", "Be brief"]);
    assert!(plain < chat && chat < system, "{plain} {chat} {system}");
    toy.refused(&["--tokens", "1", "--chat"], b"", 2, &["--chat"]);
}

#[test]
fn a_chat_template_and_special_tokens_can_be_chosen() {
    let toy = toy();
    let mine = toy.write("mine.jinja", b"{{ messages[-1].content }}");
    let tokens = |args: &[&str]| toy.json(&[args, &["-n", "2", "--greedy", "--ignore-eos"]].concat());
    let (plain, chat) = (tokens(&["--prompt", "Hi"]), tokens(&["--prompt", "Hi", "--chat-template", &mine]));
    // The rendered chat is the prompt, without the start token that plain text gets.
    assert_eq!(plain["prompt_tokens"].as_array().unwrap()[1..], chat["prompt_tokens"].as_array().unwrap()[..]);
    let named = tokens(&["--prompt", "Hi", "--chat-template", "default"]);
    assert_eq!(named["prompt_tokens"], tokens(&["--prompt", "Hi", "--chat"])["prompt_tokens"]);
    toy.refused(&["--prompt", "Hi", "--chat-template", "nope"], b"", 1, &["nope", "expected a file", "default"]);
    // 2 is the end token, forced.
    let forced = ["--prompt", "Hi", "--logit-bias", "2=1000"];
    assert_eq!(tokens(&forced)["text"], "");
    toy.refused(
        &[&forced[..], &["--chat-template", &mine, "--load-state", "x"]].concat(),
        b"",
        2,
        &["--chat-template"],
    );
    let pad = ["--prompt", "Hi", "--logit-bias", "0=1000"];
    assert_eq!(
        (&tokens(&pad)["text"], &tokens(&[&pad[..], &["--special"]].concat())["text"]),
        (&json!(""), &json!("<|pad|><|pad|>"))
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let toy = toy();
    for (args, wants) in [("--json", "{"), ("", "")] {
        let line = format!(
            "{} run {} --prompt Once -n 90 --ignore-eos {args} | head -c 1",
            env!("CARGO_BIN_EXE_jamba"),
            toy.plan
        );
        let output = Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args}");
        assert!(output.stdout.len() == 1 && output.stdout.starts_with(wants.as_bytes()));
    }
}

#[test]
fn a_chat_is_obeyed_through_a_pipe() {
    let toy = toy();
    let state = toy.path("a chat.state");
    let lines = format!(
        "Hi\n/stats\n/save {}\n/reset\n/stats\n/load {}\n/stats\n/help\n/exit\nnever read\n",
        state.display(),
        state.display()
    );
    let output = toy.jamba("chat", &["-n", "4"], lines.as_bytes());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*err), (Some(0), ""), "{out}");
    let contexts: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("context  ")).collect();
    assert_eq!((contexts.len(), contexts[1]), (3, "0 of 100 tokens"), "{out}");
    assert!(contexts[0] == contexts[2] && contexts[0] != contexts[1], "{out}");
    assert!(out.contains("answers  1, 4 tokens") && out.contains("/regenerate") && state.is_file(), "{out}");
    assert!(out.contains("\nsaved 2 messages, ") && out.contains("\nnew conversation\n"), "{out}");
    assert!(out.contains("\nloaded 2 messages, "), "{out}");

    // Another answer reads one token again, and so does nothing else.
    let read = |lines: &str| {
        let output = toy.jamba("chat", &["-n", "4", "--temperature", "1"], lines.as_bytes());
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let read = out.lines().find_map(|line| line.strip_prefix("read     ")).expect("stats").to_owned();
        read.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let once = read("Hi there, you\n/stats\n");
    assert_eq!(read("Hi there, you\n/regenerate\n/regenerate\n/stats\n"), once + 2);
    assert_eq!(read("Hi there, you\n/undo\nHi there, you\n/stats\n"), 2 * once);

    // Without a terminal, an error ends the chat.
    for (line, says) in [("/loud\n", "/loud"), ("/regenerate\n", "no answer yet"), ("/load no.state\n", "no.state")] {
        let output = toy.jamba("chat", &[], line.as_bytes());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says));
    }
    let output = toy.jamba("chat", &[], b"caf\xe9\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("0xe9 at offset 3"));
    let tools = toy.write("tools.json", b"{}");
    let output = toy.jamba("chat", &["--tools", &tools], b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("tools.json: expected a JSON array"));
}

#[test]
fn several_lines_are_one_message() {
    let toy = toy();
    let read = |lines: &str| {
        let output = toy.jamba("chat", &["-n", "1"], format!("{lines}\n/stats\n").as_bytes());
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        out.lines().find_map(|line| line.strip_prefix("read     ")).map(str::to_owned).expect("stats")
    };
    let tokens = |lines: &str| read(lines).split(' ').next().unwrap().parse::<u64>().unwrap();
    assert_eq!(tokens("a\\\nb"), tokens("\"\"\"\na\nb\n\"\"\""));
    assert!(tokens("a\\\nb") > tokens("a"));
}

const SUBCOMMANDS: [&str; 15] = [
    "run",
    "health",
    "chat",
    "bench",
    "tokenize",
    "perplexity",
    "logits",
    "classify",
    "embed",
    "info",
    "serve",
    "verify",
    "doctor",
    "completions",
    "man",
];

#[test]
fn every_subcommand_completes_and_has_a_page() {
    let stdout = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_jamba")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        assert!(SUBCOMMANDS.iter().all(|subcommand| script.contains(subcommand)), "{shell}");
        assert!(script.contains("repetition-penalty"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", "--dir", folder.path().to_str().unwrap()]);
    let files = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: std::collections::BTreeSet<String> = files.collect();
    let expected = SUBCOMMANDS.iter().map(|name| format!("jamba-{name}.1")).chain(["jamba.1".to_owned()]);
    assert_eq!(files, expected.collect());
    for subcommand in SUBCOMMANDS {
        let page = stdout(&["man", subcommand]);
        assert_eq!(page, std::fs::read_to_string(folder.path().join(format!("jamba-{subcommand}.1"))).unwrap());
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"));
    }
    assert!(stdout(&["man"]).contains(".TH jamba 1"));
    let output = Command::new(env!("CARGO_BIN_EXE_jamba")).args(["man", "brew"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
