//! Functions that the model may call.

use jamba_runtime::{AnswerSyntax, CallTags, Constraint, Tokenizer};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};

/// Most functions of a request.
const MAX_TOOLS: usize = 128;

/// Whether the model calls functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    None,
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The functions of a request.
pub(crate) struct Tools<'a> {
    pub(crate) list: &'a [Value],
    pub(crate) choice: ToolChoice,
}

impl<'a> Tools<'a> {
    pub(crate) fn new(list: &'a [Value], choice: Option<&Value>) -> Result<Tools<'a>> {
        if list.len() > MAX_TOOLS {
            return Err(ApiError::field(
                "tools",
                format!("found {} functions, expected at most {MAX_TOOLS}", list.len()),
            ));
        }
        for (index, tool) in list.iter().enumerate() {
            if tool["type"] != "function" {
                return Err(ApiError::field(format!("tools[{index}].type"), "expected \"function\""));
            }
            if name_of(tool).is_none() {
                return Err(ApiError::field(format!("tools[{index}].function.name"), "missing"));
            }
        }
        let expected =
            "expected \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";
        let choice = match choice {
            None | Some(Value::Null) => ToolChoice::Auto,
            Some(Value::String(name)) => match name.as_str() {
                "none" => ToolChoice::None,
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                other => return Err(ApiError::field("tool_choice", format!("found {other:?}, {expected}"))),
            },
            Some(choice) => match name_of(choice) {
                Some(name) if list.iter().any(|tool| name_of(tool) == Some(name)) => ToolChoice::Named(name.to_owned()),
                Some(name) => {
                    return Err(ApiError::field(
                        "tool_choice.function.name",
                        format!("found {name:?}, which is not in tools"),
                    ));
                }
                None => return Err(ApiError::field("tool_choice", expected)),
            },
        };
        if choice == ToolChoice::Required && list.is_empty() {
            return Err(ApiError::field("tool_choice", "found \"required\" without tools"));
        }
        Ok(Tools { list, choice })
    }

    /// The constraint that makes the model call: the markup of its calls around JSON that the functions' schemas allow.
    pub(crate) fn constraint(&self, syntax: &AnswerSyntax, tokenizer: &Tokenizer) -> Result<Option<Constraint>> {
        let is_allowed = |tool: &&Value| match &self.choice {
            ToolChoice::Named(name) => name_of(tool) == Some(name),
            _ => true,
        };
        if matches!(self.choice, ToolChoice::None | ToolChoice::Auto) {
            return Ok(None);
        }
        let Some(tags) = syntax.calls else {
            return Err(ApiError::field("tool_choice", "the model's chat template has no markup for calls"));
        };
        let calls: Vec<Value> = self.list.iter().filter(is_allowed).map(call_schema).collect();
        let schema = json!({
            "anyOf": calls,
            "x-guidance": { "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " },
        });
        // Decoding skips special tokens. In llguidance's grammars, they stand without quotes.
        let is_special =
            |text: &str| tokenizer.id(text).is_some_and(|id| tokenizer.decode(&[id]).is_ok_and(|text| text.is_empty()));
        let tag = |text: &str| if is_special(text) { text.to_owned() } else { Value::from(text).to_string() };
        let (begin, end) = (tag(tags.begin()), tag(tags.end()));
        let body = match (tags, &self.choice) {
            (CallTags::List, ToolChoice::Required) => format!("{begin} \"[\" call (\", \" call)* \"]\" {end}"),
            (CallTags::List, _) => format!("{begin} \"[\" call \"]\" {end}"),
            (CallTags::Each, ToolChoice::Required) => format!("({begin} \"\\n\" call \"\\n\" {end} \"\\n\"?)+"),
            (CallTags::Each, _) => format!("{begin} \"\\n\" call \"\\n\" {end}"),
        };
        let grammar = format!("start: {body}\ncall: %json {schema}\n");
        match grammar.len() {
            n if n > Constraint::MAX_BYTES => Err(ApiError::field(
                "tool_choice",
                format!(
                    "found schemas of {n} bytes among tools, expected at most {} where a call is required: \
                     name one function, or use \"auto\", which has no such limit",
                    Constraint::MAX_BYTES
                ),
            )),
            _ => Ok(Some(Constraint::Lark(grammar))),
        }
    }
}

fn name_of(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str().filter(|name| !name.is_empty())
}

/// The schema of a call of this function.
fn call_schema(tool: &Value) -> Value {
    let parameters = match &tool["function"]["parameters"] {
        Value::Null => json!({ "type": "object" }),
        parameters => without_annotations(parameters),
    };
    json!({
        "type": "object",
        "properties": { "name": { "const": tool["function"]["name"] }, "arguments": parameters },
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

/// A schema without what does not constrain a text: descriptions are for the model, and grammars have a limited size.
fn without_annotations(schema: &Value) -> Value {
    const ANNOTATIONS: [&str; 6] = ["title", "description", "examples", "default", "$comment", "deprecated"];
    const BY_NAME: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
    match schema {
        Value::Array(schemas) => schemas.iter().map(without_annotations).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()));
            let field = |(name, value): (&String, &Value)| {
                let value = match (name.as_str(), value) {
                    // Values, not schemas.
                    ("const" | "enum" | "required", value) => value.clone(),
                    (name, Value::Object(schemas)) if BY_NAME.contains(&name) => {
                        schemas.iter().map(|(name, schema)| (name.clone(), without_annotations(schema))).collect()
                    }
                    (_, value) => without_annotations(value),
                };
                (name.clone(), value)
            };
            kept.map(field).collect()
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_go_and_properties_of_their_names_stay() {
        let schema = json!({
            "type": "object", "title": "T", "description": "D",
            "properties": {
                "description": { "type": "string", "description": "x", "enum": ["description"] },
                "list": { "type": "array", "items": { "title": "I", "anyOf": [{ "const": { "title": 1 }, "default": 2 }] } },
            },
            "required": ["description"],
            "$defs": { "title": { "examples": [1], "type": "null" } },
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "description": { "type": "string", "enum": ["description"] },
                "list": { "type": "array", "items": { "anyOf": [{ "const": { "title": 1 } }] } },
            },
            "required": ["description"],
            "$defs": { "title": { "type": "null" } },
        });
        assert_eq!(without_annotations(&schema), expected);
    }
}
