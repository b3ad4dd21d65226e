//! Names in a template that this interpreter does not have: filters, tests, functions and methods. A template that uses one
//! fails for the chats that get there.

use std::collections::HashSet;

use minijinja::machinery::ast::{CallArg, Expr, Stmt};

use super::names::{Reach, any};
use super::{checks, filters, globals, methods};

/// A name that this interpreter does not have, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) line: u32,
    /// The kind of name and the name: `the filter 'markdown'`.
    pub(crate) what: String,
}

/// The names that a template uses and this interpreter does not have, in the order of their lines.
pub(super) fn of(template: &Stmt<'_>) -> Vec<Lack> {
    let statements = std::slice::from_ref(template);
    let mut defined = Defined::default();
    statements.iter().for_each(|statement| defined.add(statement));
    let mut lacks = Vec::new();
    any(statements, Reach::Everything, &mut |expression| {
        lacks.extend(lack(expression, &defined));
        false
    });
    lacks.sort_by_key(|lack| lack.line);
    lacks.dedup();
    lacks
}

fn lack(expression: &Expr<'_>, defined: &Defined<'_>) -> Option<Lack> {
    let line = expression.span().start_line.into();
    let named = |kind: &str, name: &str| Some(Lack { line, what: format!("the {kind} '{name}'") });
    match expression {
        Expr::Filter(filter) if !filters::has(filter.name) => named("filter", filter.name),
        Expr::Filter(filter) if matches!(filter.name, "map") => {
            first_text(&filter.args).filter(|name| !filters::has(name)).and_then(|name| named("filter", &name))
        }
        Expr::Test(test) if !checks::has(test.name) => named("test", test.name),
        Expr::Filter(filter) => {
            let at = match filter.name {
                "select" | "reject" => 0,
                "selectattr" | "rejectattr" => 1,
                _ => return None,
            };
            text_at(&filter.args, at).filter(|name| !checks::has(name)).and_then(|name| named("test", &name))
        }
        Expr::Call(call) => match &call.expr {
            Expr::Var(variable) if !globals::has(variable.id) && !defined.names.contains(variable.id) => {
                named("function", variable.id)
            }
            Expr::GetAttr(access) if !methods::has(access.name) && !defined.attributes.contains(access.name) => {
                named("method", access.name)
            }
            _ => None,
        },
        _ => None,
    }
}

fn first_text(arguments: &[CallArg<'_>]) -> Option<String> {
    text_at(arguments, 0)
}

/// The argument at this position, if it is a constant text.
fn text_at(arguments: &[CallArg<'_>], at: usize) -> Option<String> {
    match arguments.get(at)? {
        CallArg::Pos(Expr::Const(constant)) => constant.value.as_str().map(str::to_owned),
        _ => None,
    }
}

/// Names that a template gives to values, anywhere in it.
#[derive(Default)]
struct Defined<'a> {
    names: HashSet<&'a str>,
    /// Attributes of namespaces.
    attributes: HashSet<&'a str>,
}

impl<'a> Defined<'a> {
    fn add_all(&mut self, statements: &'a [Stmt<'a>]) {
        statements.iter().for_each(|statement| self.add(statement));
    }

    fn add(&mut self, statement: &'a Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.add_all(&template.children),
            Stmt::ForLoop(repeated) => {
                self.names.insert("loop");
                self.target(&repeated.target);
                self.add_all(&repeated.body);
                self.add_all(&repeated.else_body);
            }
            Stmt::IfCond(condition) => {
                self.add_all(&condition.true_body);
                self.add_all(&condition.false_body);
            }
            Stmt::WithBlock(with) => {
                with.assignments.iter().for_each(|(target, _)| self.target(target));
                self.add_all(&with.body);
            }
            Stmt::Set(set) => self.target(&set.target),
            Stmt::SetBlock(set) => {
                self.target(&set.target);
                self.add_all(&set.body);
            }
            Stmt::AutoEscape(escape) => self.add_all(&escape.body),
            Stmt::FilterBlock(filter) => self.add_all(&filter.body),
            Stmt::Macro(definition) => self.add_macro(definition.name, &definition.args, &definition.body),
            Stmt::CallBlock(call) => self.add_macro("caller", &call.macro_decl.args, &call.macro_decl.body),
            Stmt::EmitExpr(_) | Stmt::EmitRaw(_) | Stmt::Break(_) | Stmt::Continue(_) | Stmt::Do(_) => {}
        }
    }

    fn add_macro(&mut self, name: &'a str, parameters: &'a [Expr<'a>], body: &'a [Stmt<'a>]) {
        self.names.extend([name, "caller"]);
        parameters.iter().for_each(|parameter| self.target(parameter));
        self.add_all(body);
    }

    fn target(&mut self, target: &'a Expr<'a>) {
        match target {
            Expr::Var(variable) => {
                self.names.insert(variable.id);
            }
            Expr::GetAttr(access) => {
                self.attributes.insert(access.name);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.target(item)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parsed;
    use super::*;

    #[track_caller]
    fn lacks(source: &str, expected: &[(u32, &str)]) {
        let found = of(&parsed(source).unwrap());
        let found: Vec<(u32, &str)> = found.iter().map(|lack| (lack.line, lack.what.as_str())).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn what_a_template_names_exists_or_has_a_line() {
        lacks("{{ a | trim }}\n{% if b %}{{ a | markdown }}{% endif %}", &[(2, "the filter 'markdown'")]);
        lacks("{% macro m(x) %}\n{{ x is json }}{% endmacro %}{{ m(1) }}", &[(2, "the test 'json'")]);
        lacks("{% for x in now() %}{{ loop(x) }}{% endfor %}", &[(1, "the function 'now'")]);
        lacks("{{ lipsum() }}{{ a | random }}", &[(1, "the function 'lipsum'"), (1, "the filter 'random'")]);
        lacks("{{ a.render() }}\n{{ a.split('x')[0].strip() }}", &[(1, "the method 'render'")]);
        lacks(
            "{{ a | map('markdown') | select('json') | selectattr('x', 'yaml') | list }}",
            &[(1, "the test 'yaml'"), (1, "the test 'json'"), (1, "the filter 'markdown'")],
        );
        lacks(
            "{% filter yaml %}a{% endfilter %}{% set x | toml %}b{% endset %}",
            &[(1, "the filter 'yaml'"), (1, "the filter 'toml'")],
        );
    }

    #[test]
    fn names_that_a_template_defines_are_there() {
        lacks(
            "{% set f = cycler('a') %}{% set ns = namespace() %}{% set ns.g = f %}{{ ns.g() }}{{ f() }}\
             {% macro m(call) %}{{ caller() }}{{ call() }}{% endmacro %}{% call m(1) %}x{% endcall %}\
             {% for (a, b) in x.items() %}{{ a() }}{{ b() }}{{ loop.cycle(1) }}{% endfor %}\
             {{ raise_exception('x') }}{{ strftime_now('%Y') }}{{ dict.fromkeys('a') }}{{ joiner()() }}",
            &[],
        );
    }
}
