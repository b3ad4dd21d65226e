//! The markup that a model uses in its answers, found from its chat template.

use crate::{ChatTemplate, Tokenizer};

/// The tags around calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTags {
    /// `<tool_calls>[{"name": …, "arguments": {…}}, …]</tool_calls>`: Jamba 1.5 to 1.7.
    List,
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>` around each call: Jamba 2 and Jamba Reasoning.
    Each,
}

impl CallTags {
    /// The tag before the calls.
    pub fn begin(self) -> &'static str {
        match self {
            CallTags::List => "<tool_calls>",
            CallTags::Each => "<tool_call>",
        }
    }

    /// The tag behind the calls.
    pub fn end(self) -> &'static str {
        match self {
            CallTags::List => "</tool_calls>",
            CallTags::Each => "</tool_call>",
        }
    }
}

/// Where the model reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// Nowhere that is marked.
    #[default]
    None,
    /// Between `<think>` and `</think>`, before the content.
    Tagged,
    /// From the start of the answer to `</think>`: the prompt ends with `<think>`.
    Open,
}

/// The markup of a model's answers. The default has none: all is content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerSyntax {
    /// The tags around calls; None if calls are not looked for.
    pub calls: Option<CallTags>,
    /// Where the model reasons.
    pub reasoning: Reasoning,
}

impl AnswerSyntax {
    /// The markup that `template` writes, or, where it writes none, that `tokenizer` has tokens for.
    pub fn of(template: &ChatTemplate, tokenizer: Option<&Tokenizer>) -> AnswerSyntax {
        let in_template = |text: &str| template.sources().any(|source| source.contains(text));
        let has_token = |text: &str| tokenizer.is_some_and(|tokenizer| tokenizer.id(text).is_some());
        let find = |has: &dyn Fn(&str) -> bool| {
            [CallTags::List, CallTags::Each].into_iter().find(|tags| has(tags.begin()) && has(tags.end()))
        };
        let thinks = in_template(super::END_THINK) || has_token(super::THINK) && has_token(super::END_THINK);
        AnswerSyntax {
            calls: find(&in_template).or_else(|| find(&has_token)),
            reasoning: if thinks { Reasoning::Tagged } else { Reasoning::None },
        }
    }

    /// The markup of an answer that continues `said`, which may have an open `<think>`.
    pub fn within(self, said: &str) -> AnswerSyntax {
        let is_open = said.rfind(super::THINK).is_some_and(|at| !said[at..].contains(super::END_THINK));
        match self.reasoning != Reasoning::None && is_open {
            true => AnswerSyntax { reasoning: Reasoning::Open, ..self },
            false => self,
        }
    }

    /// The markup of the answer to a prompt, whose end may be the `<think>` of the answer.
    pub fn after(self, prompt: &str) -> AnswerSyntax {
        match self.reasoning != Reasoning::None && prompt.trim_end().ends_with(super::THINK) {
            true => AnswerSyntax { reasoning: Reasoning::Open, ..self },
            false => self,
        }
    }
}
