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
//! - [`strings`], [`methods`]: methods; [`format`](mod@format): `%` and `str.format`.
//! - [`filters`], [`text_filters`], [`checks`], [`globals`]: filters, tests and functions.

mod arguments;
mod checks;
mod compare;
mod eval;
mod exec;
mod filters;
mod format;
mod globals;
mod literal;
mod methods;
mod names;
mod number;
mod print;
mod scope;
mod strings;
mod text_filters;
mod value;

use minijinja::machinery::{WhitespaceConfig, ast, parse};
use serde_json::{Map, Value as Json};

use eval::Interpreter;
use scope::Scope;
use value::{Error, Value};

/// Limit on the instructions of a template; ordinary templates run a few thousand per message.
const FUEL: u64 = 20_000_000;

/// Stack of the thread that renders. It has room for the deepest nesting that the interpreter allows.
const STACK_BYTES: usize = 64 << 20;

/// A valid template.
pub(super) struct Template {
    source: String,
}

impl Template {
    /// Parses a template.
    pub(super) fn new(source: &str) -> Result<Template, String> {
        // Jinja2 reads every kind of line end as \n.
        let source = without_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        parsed(&source)?;
        Ok(Template { source })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Renders the template with these variables.
    pub(super) fn render(&self, variables: &Map<String, Json>) -> Result<String, String> {
        std::thread::scope(|threads| {
            let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
            match thread.spawn_scoped(threads, || self.evaluate(variables)) {
                Ok(rendering) => rendering.join().unwrap_or_else(|_| Err("the interpreter panicked".to_owned())),
                Err(error) => Err(format!("cannot start a thread: {error}")),
            }
        })
    }

    fn evaluate(&self, variables: &Map<String, Json>) -> Result<String, String> {
        let template = parsed(&self.source)?;
        let scope = Scope::new(None);
        for (name, value) in variables {
            scope.set(name, Value::from(value));
        }
        let interpreter = Interpreter::new(&self.source, FUEL, chrono::Local::now().naive_local());
        interpreter.run(&template, &scope).map_err(|Error { message, line }| match line {
            Some(line) => format!("{message} (line {line})"),
            None => message,
        })
    }
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
    fn no_template_fills_the_stack_or_the_memory() {
        let refused =
            |source: &str| Template::new(source).and_then(|template| template.render(&Map::new())).unwrap_err();
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
        ];
        for (source, expected) in table {
            let message = refused(source);
            assert!(message.contains(expected), "{source}: {message}");
        }
    }
}
