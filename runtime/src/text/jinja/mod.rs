//! Jinja templates, evaluated with Python's values and operators, as transformers evaluates them.
//!
//! minijinja parses the source. It evaluates with values of its own, which differ from Python's where templates notice:
//! `7 % -3`, `0 and 1`, `true ~ ''`, tuples, `'%s' % x`, a dictionary's method beside a key of the same name. So this module
//! evaluates the parsed template itself. What it does not support is an error, never another text.
//!
//! The reference is Jinja2 3.1 in transformers' environment: `ImmutableSandboxedEnvironment`, `trim_blocks`, `lstrip_blocks`,
//! `break` and `continue`, `{% generation %}` blocks, `tojson` without HTML escapes, `raise_exception` and `strftime_now`.
//! `tests/record/jinja.py` records what it makes of expressions.
//!
//! - [`value`], [`scope`]: values, variables, loops and macros; [`compare`], [`number`], [`print`]: operations on them.
//! - [`eval`], [`exec`]: expressions and statements; [`literal`], [`names`], [`arguments`]: their parts.
//! - [`text`]: texts, and which of their parts come from the template; [`strings`], [`methods`]: methods; [`format`](mod@format): `%` and `str.format`.
//! - [`budget`]: the limit on memory and time.
//! - [`filters`], [`text_filters`], [`checks`], [`globals`]: filters, tests and functions; [`lacks`]: those that are missing; [`clock`]: the time.

mod arguments;
mod budget;
mod checks;
mod clock;
mod compare;
mod eval;
mod exec;
mod filters;
mod format;
mod globals;
mod lacks;
mod literal;
mod methods;
mod names;
mod number;
mod print;
mod scope;
mod strings;
mod text;
mod text_filters;
mod value;

use std::time::Duration;

use minijinja::machinery::{WhitespaceConfig, ast, parse};
use self_cell::self_cell;
use serde_json::{Map, Value as Json};

use eval::{Interpreter, Limits};
pub(super) use lacks::Lack;

pub use clock::keep_time_zone;
use scope::Scope;
use text::{Origin, Text};
use value::{Error, Key, Value};

use crate::Cancel;
use crate::contain::contained;

/// Limit on the instructions of a template; ordinary templates run a few thousand per message.
const FUEL: u64 = 20_000_000;

/// Limit on the time of a template, on a core. A single instruction may take a large part of a second more.
const TIME: Duration = Duration::from_secs(5);

/// Stack of the thread that renders. It has room for the deepest nesting that the interpreter allows.
const STACK_BYTES: usize = 64 << 20;

/// The variables of a template.
pub(super) struct Variables<'a> {
    /// Those that belong to the template: special tokens by name.
    pub(super) own: &'a [(&'static str, String)],
    /// Those from outside.
    pub(super) outside: &'a Map<String, Json>,
}

/// A rendered template.
pub(super) struct Rendered {
    pub(super) text: String,
    /// The parts of the text that come from outside variables, in order.
    pub(super) outside: Vec<std::ops::Range<usize>>,
}

type Parsed<'a> = ast::Stmt<'a>;

self_cell! {
    /// A valid template: its source, and what the parser made of it.
    pub(super) struct Template {
        owner: String,
        #[covariant]
        dependent: Parsed,
    }
}

impl Template {
    /// Parses a template.
    pub(super) fn of(source: &str) -> Result<Template, String> {
        // Jinja2 reads every kind of line end as \n.
        let source = without_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        contained(|| Template::try_new(source, |source| parsed(source)))?
    }

    pub(super) fn source(&self) -> &str {
        self.borrow_owner()
    }

    /// Names of filters, tests, functions and methods that the interpreter does not have.
    pub(super) fn lacks(&self) -> Vec<Lack> {
        lacks::of(self.borrow_dependent())
    }

    /// Renders the template with these variables, unless `cancel` is set meanwhile.
    pub(super) fn render(&self, variables: &Variables<'_>, cancel: &Cancel) -> Result<Rendered, String> {
        self.render_within(Limits { fuel: FUEL, time: TIME, cancel }, variables)
    }

    fn render_within(&self, limits: Limits<'_>, variables: &Variables<'_>) -> Result<Rendered, String> {
        std::thread::scope(|threads| {
            // A program that contains panics by the names of its threads contains those of this one.
            let name = std::thread::current().name().unwrap_or("template").to_owned();
            let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
            match thread.spawn_scoped(threads, || contained(|| self.evaluate(limits, variables))) {
                Ok(rendering) => rendering.join().unwrap_or_else(|_| Err("the interpreter panicked".to_owned()))?,
                Err(error) => Err(format!("cannot start a thread: {error}")),
            }
        })
    }

    fn evaluate(&self, limits: Limits<'_>, variables: &Variables<'_>) -> Result<Rendered, String> {
        let scope = Scope::new(None);
        for (name, text) in variables.own {
            scope.set(name, Value::text(text));
        }
        for (name, value) in variables.outside {
            let value = match (name.as_str(), value) {
                ("messages", Json::Array(messages)) => Value::list(messages.iter().map(message).collect()),
                (_, value) => Ok(Value::from_json(value, Origin::Outside)),
            };
            scope.set(name, value.map_err(|error| error.message)?);
        }
        let interpreter = Interpreter::new(self.source(), limits, clock::now());
        let rendered = interpreter.run(self.borrow_dependent(), &scope).map_err(|Error { message, line }| match line {
            Some(line) => format!("{message} (line {line})"),
            None => message,
        });
        let (text, outside) = rendered?.into_parts();
        Ok(Rendered { text, outside })
    }
}

/// Roles that templates know. Templates make special tokens of them: `<|user|>`.
const ROLES: [&str; 7] = ["system", "developer", "user", "assistant", "model", "tool", "function"];

/// Tags around reasoning, which histories have in the content of answers.
const REASONING: [&str; 2] = ["<think>", "</think>"];

/// A message. The name of a known role belongs to the template, and in an answer the tags around reasoning. All else comes from
/// outside.
fn message(message: &Json) -> Value {
    let mut value = Value::from_json(message, Origin::Outside);
    let role = message["role"].as_str().filter(|role| ROLES.contains(role));
    if let (Value::Dict(dict), Some(role)) = (&value, role) {
        value = dict.with(Key::text("role"), Value::text(role));
    }
    if let (Value::Dict(dict), Some("assistant"), Some(content)) = (&value, role, message["content"].as_str()) {
        value = dict.with(Key::text("content"), Value::Text(Text::from_outside_with(content, &REASONING)));
    }
    value
}

fn parsed(source: &str) -> Result<ast::Stmt<'_>, String> {
    let whitespace = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    parse(source, "template", Default::default(), whitespace).map_err(|error| match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line})"),
        _ => error.to_string(),
    })
}

/// Replaces `{% generation %}` blocks, an extension of transformers, by `{% with %}` blocks, which have no effect.
fn without_generation(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out += before;
        let sign = tag.len() - tag.strip_prefix(['-', '+']).unwrap_or(tag).len();
        let word = tag[sign..].trim_start();
        let (begin, other) = ["endgeneration", "generation"]
            .into_iter()
            .find(|name| {
                word.strip_prefix(name)
                    .is_some_and(|end| end.trim_start_matches([' ', '\n', '\t', '-', '+']).starts_with("%}"))
            })
            .map_or(("", ""), |name| (name, if name == "generation" { "with" } else { "endwith" }));
        out += &tag[..tag.len() - word.len()];
        out += other;
        rest = &word[begin.len()..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_generation_are_left_out() {
        let template = "a\n{% generation %}\nb {% generate %}{%- endgeneration -%}\n c";
        assert_eq!(without_generation(template), "a\n{% with %}\nb {% generate %}{%- endwith -%}\n c");
    }

    #[test]
    fn a_template_renders_in_many_threads() {
        let template = Template::of("{% for i in range(n) %}{{ i }}{% endfor %}").unwrap();
        let render = |n: usize| {
            let outside = serde_json::json!({ "n": n });
            let variables = Variables { own: &[], outside: outside.as_object().unwrap() };
            template.render(&variables, &Cancel::new()).unwrap().text
        };
        std::thread::scope(|threads| {
            let render = &render;
            let all: Vec<_> = (0..4).map(|n| threads.spawn(move || render(n))).collect();
            let texts: Vec<String> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(texts, ["", "0", "01", "012"]);
        });
    }

    #[test]
    fn no_template_fills_the_stack_or_the_memory() {
        let none = Variables { own: &[], outside: &Map::new() };
        let refused = |source: &str| {
            let template = Template::of(source);
            let limits = Limits { fuel: FUEL, time: Duration::MAX, cancel: &Cancel::new() };
            let rendered = template.and_then(|template| template.render_within(limits, &none));
            rendered.map(|rendered| rendered.text).unwrap_err()
        };
        let table = [
            ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "does a macro call itself forever"),
            (
                "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
                "levels deep",
            ),
            ("{{ 'a' * 999999999999 }}", "a text of 999999999999 bytes"),
            ("{{ [0] * 999999999 }}", "a sequence of 999999999 items"),
            ("{{ '%999999999d' % 1 }}", "a text of 999999999 bytes"),
            (
                "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                "a text of",
            ),
            ("{{ 'a'.ljust(10 ** 12) }}", "a text of"),
            // Many large texts, kept, dropped, printed, or looked at.
            (
                "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = ns.x + ['a' * 16000000] %}{% endfor %}",
                "have taken more than",
            ),
            ("{{ (['a' * 16000000] * 1000000) | map('upper') | list | length }}", "have taken more than"),
            ("{% for a in range(90000) %}{{ \"x\" * 1000000 }}{% endfor %}", "a text of"),
            // Many small items, and more parts than a list may have.
            ("{{ ('x' * 16000000) | list | length }}", "a sequence of 16000000 items"),
            ("{{ ('x ' * 8000000).split() | length }}", "a sequence of"),
            ("{{ ('xy' * 8000000).split('x') | length }}", "a sequence of"),
            ("{{ ('\\n' * 16000000).splitlines() | length }}", "a sequence of"),
            ("{% set a = [0] * 1000000 %}{{ dict(*a, *a) }}", "a sequence of 2000000 items"),
            (
                "{% for i in range(90000) %}{% for j in range(90000) %}{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}",
                "have taken",
            ),
            // Lists that share their parts take exponential time, and texts that are long take long.
            (
                "{% set ns = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}\
                 {% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
                "have taken",
            ),
            (
                "{% set ns = namespace(a=(1,)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {ns.a: 1} }}",
                "have taken",
            ),
            ("{{ (['x' * 16000000, 'x' * 15999999] * 500000) | sort | length }}", "have taken"),
            ("{{ (['x' * 16000000] * 1000000) | unique(case_sensitive=true) | list | length }}", "have taken"),
            ("{% set t = 'x' * 15000000 %}{{ (t ~ 'z').startswith((t ~ 'y',) * 1000000) }}", "have taken"),
        ];
        for (source, expected) in table {
            let message = refused(source);
            assert!(message.contains(expected), "{source}: {message}");
        }
        // These end, with whatever result.
        for source in [
            "{{ '{:015000000,}'.format(1) | length }}",
            "{{ ('<a>' * 5000000) | striptags | length }}{{ ('&' * 16000000) | striptags | length }}",
            "{% set t = 'x' * 15000000 %}{{ t.strip('a' * 15000000) | length }}",
            "{{ ([1] * 1000000) | map(attribute='a.' * 8000000) | list | length }}",
        ] {
            let _ = Template::of(source).and_then(|template| template.render(&none, &Cancel::new()));
        }
    }

    #[test]
    fn a_template_stops_when_its_time_is_over() {
        let template = Template::of("{% for i in range(999) %}{{ i }}{% endfor %}").unwrap();
        let none = Variables { own: &[], outside: &Map::new() };
        let cancel = &Cancel::new();
        let render = |time| {
            let rendered = template.render_within(Limits { fuel: FUEL, time, cancel }, &none);
            rendered.map(|rendered| rendered.text.len())
        };
        assert_eq!(render(Duration::MAX), Ok(2887));
        assert!(render(Duration::ZERO).is_err_and(|error| error.contains("stopped after 0ns")));
    }
}
