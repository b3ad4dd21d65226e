//! Checks of chat templates before anybody chats: names that the interpreter does not have, and small chats as a rehearsal.

use serde_json::json;

use super::chat::{Chat, ChatTemplate};

/// A fault of a chat template that parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFault {
    /// The name of the template.
    pub template: String,
    /// What is wrong, and the line if it is one.
    pub reason: String,
    /// True if no chat renders because the template uses a name that does not exist.
    pub is_fatal: bool,
}

/// A text that no template contains.
const GREETING: &str = "Greetings, 4712";

impl ChatTemplate {
    /// Rehearses every template: looks for filters, tests, functions and methods that do not exist, and renders small chats,
    /// with and without the beginning of an answer. No fault is certain to matter: a template may need variables that only its
    /// users know.
    pub fn faults(&self) -> Vec<TemplateFault> {
        self.names().into_iter().flat_map(|name| self.faults_of(name)).collect()
    }

    fn faults_of(&self, name: &str) -> Vec<TemplateFault> {
        let fault = |reason: String| TemplateFault { template: name.to_owned(), reason, is_fatal: false };
        let lacks = self.lacks(name);
        let mut faults: Vec<TemplateFault> = lacks
            .iter()
            .map(|lack| {
                let (line, what) = (lack.line, &lack.what);
                fault(format!("line {line}: {what} does not exist here: chats that get there fail"))
            })
            .collect();
        let rendered: Vec<(&str, Result<String, String>)> = chats(name)
            .into_iter()
            .map(|(what, chat)| (what, self.render_chat(&chat).map_err(|error| error.to_string())))
            .collect();
        let failed = rendered.iter().find_map(|(what, result)| Some((what, result.as_ref().err()?)));
        let Some((_, first)) = rendered.iter().find_map(|(what, result)| Some((what, result.as_ref().ok()?))) else {
            if let Some((_, error)) = failed {
                let mut fault = fault(format!("no chat renders: {}", without_section(error)));
                fault.is_fatal = lacks.iter().any(|lack| error.ends_with(&format!("(line {})", lack.line)));
                faults.insert(0, fault);
            }
            return faults;
        };
        if let Some((what, error)) = failed {
            faults.push(fault(format!("a chat of {what} fails: {}", without_section(error))));
        }
        if first.trim().is_empty() {
            faults.push(fault("it makes an empty prompt of a chat".to_owned()));
        } else if !first.contains(GREETING) {
            faults.push(fault("it leaves out the text of the user's message".to_owned()));
        }
        faults
    }
}

/// The reason in an error of [`ChatTemplate::render_chat`].
fn without_section(error: &str) -> &str {
    error.split_once(": ").map_or(error, |(_, reason)| reason)
}

/// Small chats, and what they are. If a template for tools or documents renders none without them, the last ones may do.
fn chats(name: &str) -> Vec<(&'static str, Chat)> {
    let user = || json!({ "role": "user", "content": GREETING });
    let answer = json!({ "role": "assistant", "content": "Hello." });
    let ask = Chat {
        messages: vec![user()],
        add_generation_prompt: true,
        template: Some(name.to_owned()),
        ..Chat::default()
    };
    let tool = json!({ "type": "function", "function": { "name": "time", "description": "The time of a place.",
        "parameters": { "type": "object", "properties": { "place": { "type": "string" } }, "required": ["place"] } } });
    let document = json!({ "title": "Clocks", "text": "A clock shows the time." });
    let with_all = Chat { tools: Some(vec![tool]), documents: Some(vec![document]), ..ask.clone() };
    let plain = [
        ("one message", ask.clone()),
        ("one message, without the beginning of an answer", Chat { add_generation_prompt: false, ..ask.clone() }),
        ("two messages and an answer between them", Chat { messages: vec![user(), answer, user()], ..ask }),
    ];
    match name {
        "tool_use" | "rag" => vec![("one message with tools and documents", with_all)],
        _ => plain.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(source: &str) -> Vec<(bool, String)> {
        let template = ChatTemplate::new(Some(source.as_bytes()), Some(br#"{"bos_token": "<s>"}"#)).unwrap();
        template.faults().into_iter().map(|fault| (fault.is_fatal, fault.reason)).collect()
    }

    #[track_caller]
    fn warns(source: &str, expected: &[&str]) {
        let found = faults(source);
        let expected: Vec<(bool, String)> = expected.iter().map(|&reason| (false, reason.to_owned())).collect();
        assert_eq!(found, expected, "{source}");
    }

    const LOOP: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

    #[test]
    fn whole_templates_have_no_fault() {
        warns(LOOP, &[]);
        for source in [
            include_str!("../../tests/chat/jamba.jinja"),
            include_str!("../../tests/chat/jamba1.jinja"),
            include_str!("../../tests/chat/chatml.jinja"),
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}\
             {% endif %}{{ m.content }}{% endfor %}",
        ] {
            warns(source, &[]);
        }
    }

    #[test]
    fn templates_that_fail_are_told() {
        let unknown = faults("{{ messages | markdown }}");
        assert_eq!(unknown.len(), 2);
        assert!(unknown[0].0 && unknown[0].1.starts_with("no chat renders: ") && unknown[0].1.contains("markdown"));
        assert_eq!(unknown[1].1, "line 1: the filter 'markdown' does not exist here: chats that get there fail");
        warns("\n{{ foo.bar.baz }}", &["no chat renders: 'foo' is undefined (line 2)"]);
        let rare = format!("{LOOP}\n{{% if tools %}}{{{{ tools | yaml }}}}{{% endif %}}");
        warns(&rare, &["line 2: the filter 'yaml' does not exist here: chats that get there fail"]);
        let answers = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}{{ m.x.y }}{% endif %}{% endfor %}";
        warns(
            answers,
            &["a chat of two messages and an answer between them fails: 'dict object' has no attribute 'x' (line 1)"],
        );
        let ends =
            format!("{{% if not add_generation_prompt %}}{{{{ raise_exception('no end') }}}}{{% endif %}}{LOOP}");
        warns(&ends, &["a chat of one message, without the beginning of an answer fails: no end (line 1)"]);
    }

    #[test]
    fn empty_prompts_are_told() {
        warns("", &["it makes an empty prompt of a chat"]);
        warns("{# nothing #}\n", &["it makes an empty prompt of a chat"]);
        warns("{{ bos_token }}", &["it leaves out the text of the user's message"]);
    }

    #[test]
    fn templates_for_tools_are_rehearsed_with_tools() {
        let tools =
            "{% for tool in tools %}{{ tool.function.name }}{{ tool.function.parameters.required[0] }}{% endfor %}";
        let config =
            json!({ "chat_template": { "default": LOOP, "tool_use": format!("{tools}{LOOP}"), "rag": "{{ a.b }}" } });
        let template = ChatTemplate::new(None, Some(config.to_string().as_bytes())).unwrap();
        let faults = template.faults();
        assert_eq!((faults.len(), faults[0].template.as_str()), (1, "rag"), "{faults:?}");
    }
}
