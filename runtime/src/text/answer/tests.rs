//! Tests of whole answers, their cuts, and broken markup.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIST: AnswerSyntax = AnswerSyntax { calls: Some(CallTags::List), reasoning: Reasoning::Tagged };
const EACH: AnswerSyntax = AnswerSyntax { calls: Some(CallTags::Each), reasoning: Reasoning::Tagged };
const OPEN: AnswerSyntax = AnswerSyntax { calls: Some(CallTags::Each), reasoning: Reasoning::Open };
const PLAIN: AnswerSyntax = AnswerSyntax { calls: None, reasoning: Reasoning::None };

/// An answer as one line: reasoning in parentheses, content, and calls as `name(arguments)`.
fn shown(answer: &Answer) -> String {
    let reasoning = answer.reasoning.as_ref().map(|text| format!("({text})"));
    let content = answer.content.as_ref().map(|text| format!("{text:?}"));
    let calls = answer.calls.iter().map(|call| format!("{}[{}]", call.name, call.arguments));
    reasoning.into_iter().chain(content).chain(calls).collect::<Vec<_>>().join(" ")
}

fn pieces<'t>(syntax: AnswerSyntax, pieces: impl IntoIterator<Item = &'t str>) -> Answer {
    let (mut parser, mut answer) = (AnswerParser::new(syntax), Answer::default());
    let mut is_open = false;
    let mut take = |events: Vec<AnswerEvent>| {
        for event in events {
            match &event {
                AnswerEvent::CallStarted { index, id, .. } => {
                    assert!(!is_open && *index == answer.calls.len() && *id == format!("call_{index}"));
                    is_open = true;
                }
                AnswerEvent::Arguments(text) => assert!(is_open && !text.is_empty()),
                AnswerEvent::CallEnded => assert!(std::mem::take(&mut is_open)),
                AnswerEvent::Content(text) | AnswerEvent::Reasoning(text) => assert!(!is_open && !text.is_empty()),
            }
            answer.add(&event);
        }
    };
    pieces.into_iter().for_each(|piece| take(parser.push(piece)));
    take(parser.finish());
    assert!(!is_open);
    answer
}

/// Each is a syntax, an answer, and its parts.
const CASES: &[(AnswerSyntax, &str, &str)] = &[
    (PLAIN, " <tool_call>{}</tool_call><think> ", r#"" <tool_call>{}</tool_call><think> ""#),
    (EACH, "Hello, 東京! ", r#""Hello, 東京! ""#),
    (EACH, "\n", r#""\n""#),
    (EACH, "", ""),
    (EACH, "a < b, <tool_calls> and <tool", r#""a < b, <tool_calls> and <tool""#),
    (
        EACH,
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Zürich\"}}\n</tool_call>",
        r#"f[{"city": "Zürich"}]"#,
    ),
    (
        EACH,
        "Wait.\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":[1, 2]}</tool_call> ",
        r#""Wait." f[{}] g[[1, 2]]"#,
    ),
    (EACH, "<tool_call>{\"name\": \"f\"}</tool_call>\n\nDone.", r#""Done." f[{}]"#),
    (EACH, "A \n<tool_call>{\"name\": \"f\"}</tool_call>\nB\n", "\"A \\n\\nB\" f[{}]"),
    // Braces, quotes and tags in strings.
    (
        EACH,
        r#"<tool_call>{"name": "f", "arguments": {"a": "}]</tool_call>\"{", "b": [{"c": "\\"}]}}</tool_call>"#,
        r#"f[{"a": "}]</tool_call>\"{", "b": [{"c": "\\"}]}]"#,
    ),
    // Arguments in a string, with escapes and a surrogate pair.
    (
        EACH,
        r#"<tool_call>{"name": "f", "arguments": "{\"a\": \"\ud83d\ude00 \u00e9 \\n \/\"}"}</tool_call>"#,
        r#"f[{"a": "😀 é \n /"}]"#,
    ),
    (EACH, r#"<tool_call>{"name": "f", "arguments": "\ud83d\d{1,2}"}</tool_call>"#, "f[\u{fffd}\\d{1,2}]"),
    // Arguments before the name, absent, null, empty, and no object.
    (EACH, r#"<tool_call>{"arguments": {"a": 1}, "id": "x", "name": "f"}</tool_call>"#, r#"f[{"a": 1}]"#),
    (EACH, r#"<tool_call>{"arguments": "{}", "name": "f"}</tool_call>"#, "f[{}]"),
    (EACH, r#"<tool_call>{"name": "f", "arguments": null}</tool_call>"#, "f[{}]"),
    (EACH, r#"<tool_call>{"name": "f", "arguments": ""}</tool_call>"#, "f[{}]"),
    (EACH, r#"<tool_call>{"name": "f", "arguments": -1.5e3 }</tool_call>"#, "f[-1.5e3]"),
    (EACH, r#"<tool_call>{"name": "a\"\n", "type": "function", "arguments": {}, }</tool_call>"#, "a\"\n[{}]"),
    // Lists and objects are taken with either tags.
    (
        LIST,
        r#"<tool_calls>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]</tool_calls>"#,
        r#"f[{"a": 1}] g[{}]"#,
    ),
    (
        LIST,
        "<tool_calls>[\n  {\"name\": \"f\", \"arguments\": {}},\n  {\"name\": \"g\"}\n]</tool_calls>\n",
        "f[{}] g[{}]",
    ),
    (LIST, r#" <tool_calls>{"name": "f", "arguments": {}}</tool_calls>"#, "f[{}]"),
    (LIST, "<tool_calls>[]</tool_calls>No.", r#""No.""#),
    (EACH, r#"<tool_call>[{"name": "f"}, {"name": "g"}]</tool_call>"#, "f[{}] g[{}]"),
    (EACH, "<tool_call>{\"name\": \"f\"}\n{\"name\": \"g\"}</tool_call>", "f[{}] g[{}]"),
    // The answer ends early.
    (EACH, r#"<tool_call>{"name": "f", "arguments": {"a": "x"#, r#"f[{"a": "x]"#),
    (EACH, r#"<tool_call>{"name": "f", "arguments": {"a": 1}}"#, r#"f[{"a": 1}]"#),
    (EACH, r#"<tool_call>{"name": "f", "arguments": {"a": 1}}</tool"#, r#""</tool" f[{"a": 1}]"#),
    (EACH, r#"<tool_call>{"name": "f", "argum"#, r#""<tool_call>{\"name\": \"f\", \"argum""#),
    (LIST, r#"<tool_calls>[{"name": "f", "arguments": {}}, {"na"#, r#"", {\"na" f[{}]"#),
    // Markup that is no call stays.
    (EACH, "<tool_call>f(x)</tool_call>", r#""<tool_call>f(x)</tool_call>""#),
    (EACH, r#"<tool_call>{"nam": "f"}</tool_call> x"#, r#""<tool_call>{\"nam\": \"f\"}</tool_call> x""#),
    (EACH, r#"<tool_call>{"name": ""}</tool_call>"#, r#""<tool_call>{\"name\": \"\"}</tool_call>""#),
    (EACH, r#"<tool_call>{"name": 5}</tool_call>"#, r#""<tool_call>{\"name\": 5}</tool_call>""#),
    (EACH, r#"Use <tool_call> so: <tool_call>{"name": "f"}</tool_call>"#, r#""Use <tool_call> so:" f[{}]"#),
    (EACH, r#"<tool_call>{"a<tool_call>{"name": "f"}</tool_call>"#, r#""<tool_call>{\"a" f[{}]"#),
    (EACH, r#"<tool_call>{"name": "f"} {"no": 1} </tool_call>"#, r#""{\"no\": 1} </tool_call>" f[{}]"#),
    (LIST, r#"<tool_calls>[{"name": "f"}, {"no": 1}]</tool_calls>"#, r#"", {\"no\": 1}]</tool_calls>" f[{}]"#),
    // A call without its last brackets.
    (EACH, r#"<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> x"#, r#""x" f[{"a": 1}]"#),
    (EACH, r#"<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>"#, r#"f[{"a": 1]"#),
    (LIST, r#"<tool_calls>[{"name": "f", "arguments": {}}</tool_calls>"#, "f[{}]"),
    // Reasoning.
    (
        EACH,
        "<think>\nA <b>?\n\n</think>\n\nYes. </think> <think>no</think>",
        r#"(A <b>?) "Yes. </think> <think>no</think>""#,
    ),
    (EACH, " \n<think></think> Yes", r#""Yes""#),
    (EACH, "<think>\n\n</think>\n\n", ""),
    (EACH, "<think>A</think><tool_call>{\"name\": \"f\"}</tool_call>", "(A) f[{}]"),
    (EACH, "<think>A</think>\n<think>B</think>C", "(A\nB) \"C\""),
    (
        EACH,
        "<think>A <tool_call>{\"name\": \"f\"}</tool_call> </thi",
        r#"(A <tool_call>{"name": "f"}</tool_call> </thi)"#,
    ),
    (EACH, "A <think>B</think>", r#""A <think>B</think>""#),
    (EACH, "<thin", r#""<thin""#),
    (OPEN, "A\n</think>\nB ", r#"(A) "B ""#),
    (OPEN, "\n<think>\nA</think>B", r#"(A) "B""#),
    (OPEN, "<thinner", "(<thinner)"),
    (OPEN, " A ", "(A)"),
    (OPEN, "<thi", "(<thi)"),
    (OPEN, "A</think><tool_call>{\"name\": \"f\"}</tool_call>", "(A) f[{}]"),
];

#[test]
fn answers_have_these_parts_however_they_are_cut() {
    for (syntax, text, expected) in CASES {
        let whole = AnswerParser::parse(*syntax, text);
        assert_eq!(shown(&whole), *expected, "{text}");
        let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for &first in &cuts {
            for &second in cuts.iter().filter(|&&second| second >= first) {
                let cut = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(pieces(*syntax, cut), whole, "{cut:?}");
            }
        }
        let characters = cuts.iter().map(|&at| &text[at..at + text[at..].chars().next().map_or(0, char::len_utf8)]);
        assert_eq!(pieces(*syntax, characters), whole, "{text}");
    }
}

#[test]
fn arguments_are_told_while_they_arrive() {
    let mut parser = AnswerParser::new(EACH).with_id_prefix("call-7-");
    assert_eq!(parser.push("<tool_call>{\"name\": \"f\", \"arguments\": "), []);
    let started = AnswerEvent::CallStarted { index: 0, id: "call-7-0".to_owned(), name: "f".to_owned() };
    assert_eq!(parser.push("{\"a"), [started, AnswerEvent::Arguments("{\"a".to_owned())]);
    assert_eq!(parser.push("\": 1"), [AnswerEvent::Arguments("\": 1".to_owned())]);
    assert_eq!(parser.push("}"), [AnswerEvent::Arguments("}".to_owned())]);
    assert_eq!(parser.push("}"), [AnswerEvent::CallEnded]);
    assert_eq!((parser.push("</tool_call>"), parser.n_calls()), (Vec::new(), 1));
    assert_eq!(parser.finish(), []);
    // Content is held back no longer than it may be a tag.
    let mut parser = AnswerParser::new(EACH);
    assert_eq!(parser.push("a <tool"), [AnswerEvent::Content("a".to_owned())]);
    assert_eq!(parser.push("s>b"), [AnswerEvent::Content(" <tools>b".to_owned())]);
}

#[test]
fn many_tags_take_no_more_than_their_text() {
    let many = "<tool_call>".repeat(100_000);
    assert_eq!(AnswerParser::parse(EACH, &many).content.as_deref(), Some(&*many));
    let nested = "<tool_call>[{\"name\":\"f\"}]</tool_call>".repeat(20_000);
    let mut parser = AnswerParser::new(EACH);
    for at in (0..nested.len()).step_by(16) {
        parser.push(&nested[at..nested.len().min(at + 16)]);
    }
    assert_eq!(parser.n_calls(), 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random markup: cuts make no difference, and without a call nothing but outer white space is lost.
    #[test]
    fn cuts_make_no_difference(
        parts in vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", "<think>", "</think>", "{", "}", "[", "]",
            "\"name\"", "\"arguments\"", ":", ",", "\"f\"", "{\"name\": \"f\"", "\"arguments\": {\"a\": 1}", "\"", "\\", "1",
            "null", " ", "\n", "x", "ü", "<", "tool_call>", "\"{\\\"b\\\": \\u00e9}\"", "{\"name\": \"g\", \"arguments\": {}}",
        ]), 0..24),
        cuts in vec(0usize..200, 0..12),
        which in 0usize..4,
    ) {
        let (syntax, text) = ([LIST, EACH, OPEN, PLAIN][which], parts.concat());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.retain(|&cut| text.is_char_boundary(cut));
        cuts.sort_unstable();
        let whole = pieces(syntax, [text.as_str()]);
        prop_assert_eq!(&pieces(syntax, cuts.windows(2).map(|pair| &text[pair[0]..pair[1]])), &whole);
        if whole.calls.is_empty() && whole.reasoning.is_none() && !text.contains("think>") && !text.contains("[]") {
            prop_assert_eq!(whole.content.unwrap_or_default(), text);
        }
    }
}
