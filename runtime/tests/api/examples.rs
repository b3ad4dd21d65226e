//! Runs the programs in examples/ on the committed plan.

use std::path::Path;

#[allow(dead_code, reason = "an example's main is not called")]
#[path = "../../examples/batch_server.rs"]
mod batch_server;
#[allow(dead_code, reason = "an example's main is not called")]
#[path = "../../examples/chat.rs"]
mod chat;
#[allow(dead_code, reason = "an example's main is not called")]
#[path = "../../examples/embedded.rs"]
mod embedded;
#[allow(dead_code, reason = "an example's main is not called")]
#[path = "../../examples/generate.rs"]
mod generate;

fn plan() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/toy.plan"))
}

fn output(run: impl Fn(&mut dyn std::io::Write)) -> String {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    run(&mut first);
    run(&mut second);
    assert_eq!(first, second, "the same twice");
    String::from_utf8(first).unwrap()
}

#[test]
fn generate_goes_on_from_a_prompt() {
    let text = output(|out| generate::run(plan(), "Once upon a time.", out).unwrap());
    assert!(text.ends_with("]\n") && text.contains(" tokens, ") && text.contains("mean logprob -"), "{text}");
    let error = generate::run("absent.plan".as_ref(), "Hi", &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("absent.plan: cannot open it"), "{error}");
}

#[test]
fn a_chat_reads_only_what_is_new() {
    let text = output(|out| chat::run(plan(), &mut "Hello\nAnd again\n".as_bytes(), out).unwrap());
    let ends: Vec<&str> = text.split("[read ").skip(1).map(|end| end.split(']').next().unwrap()).collect();
    let [first, second] = ends[..] else { panic!("two answers: {text}") };
    let numbers = |text: &str| text.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<usize>>();
    let (first, second) = (numbers(first), numbers(second));
    assert_eq!(first[0], first[1], "{text}");
    assert!(second[1] > first[1], "{text}");
}

#[test]
fn clients_of_a_server_get_what_they_get_alone() {
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut all = Vec::new();
    batch_server::run(plan(), &mut all).unwrap();
    let lines = sorted(String::from_utf8(all).unwrap());
    assert_eq!(lines.len(), 5, "{lines:#?}");
    let mut engine = crate::generate::open();
    for (index, prompt) in ["Once upon a time", "The dog", "A girl named Lily", "One day", "The sun"].iter().enumerate()
    {
        let prompt = engine.tokenizer().unwrap().encode(prompt).unwrap();
        let options = jamba_runtime::GenerateOptions { max_new: 8 + 4 * index, ..Default::default() };
        let alone = engine.generate(&prompt, &options, |_| std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!(lines[index], format!("client {index}: {:?} [{}]", alone.text, alone.finish.name()));
    }
}

#[test]
fn an_embedded_plan_runs_from_memory() {
    let text = output(|out| embedded::run("Once upon a time", out).unwrap());
    assert!(text.contains("12 tokens: "), "{text}");
}
