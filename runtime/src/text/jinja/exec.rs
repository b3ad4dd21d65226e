//! Statements.

use std::rc::Rc;

use indexmap::IndexMap;
use minijinja::machinery::ast;

use super::arguments::Arguments;
use super::budget;
use super::eval::Interpreter;
use super::names::{mentions, names_in};
use super::print;
use super::scope::{Loop, Macro, Scope};
use super::text::{Output, Text};
use super::value::{Callable, Key, Result, Value, check_text, error};

/// How the next statement is found.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'a> Interpreter<'a> {
    /// Runs a template.
    pub(super) fn run(&self, template: &'a ast::Stmt<'a>, scope: &Rc<Scope>) -> Result<Output> {
        let mut out = Output::default();
        self.capture(scope);
        self.statement(template, scope, &mut out)?;
        Ok(out)
    }

    fn block(&self, statements: &'a [ast::Stmt<'a>], scope: &Rc<Scope>, out: &mut Output) -> Result<Flow> {
        for statement in statements {
            let flow = self.statement(statement, scope, out)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, statement: &'a ast::Stmt<'a>, scope: &Rc<Scope>, out: &mut Output) -> Result<Flow> {
        match statement {
            ast::Stmt::Template(template) => return self.block(&template.children, scope, out),
            ast::Stmt::EmitRaw(raw) => *out += raw.raw,
            ast::Stmt::EmitExpr(emitted) => {
                self.deeper(emitted.span(), || print::write_text(&self.eval(&emitted.expr, scope)?, out))?
            }
            ast::Stmt::IfCond(condition) => {
                let body = match self.eval(&condition.expr, scope)?.is_true() {
                    true => &condition.true_body,
                    false => &condition.false_body,
                };
                return self.deeper(condition.span(), || self.block(body, scope, out));
            }
            ast::Stmt::ForLoop(definition) => self.deeper(definition.span(), || {
                let items = self.eval(&definition.iter, scope)?;
                self.for_loop(definition, &items, 0, scope, out)
            })?,
            ast::Stmt::Set(set) => {
                self.deeper(set.span(), || self.assign(&set.target, self.eval(&set.expr, scope)?, scope))?
            }
            ast::Stmt::SetBlock(set) => self.deeper(set.span(), || {
                let value = self.captured(&set.body, scope)?;
                let value = match &set.filter {
                    Some(filter) => self.filtered(filter, Some(&value), scope)?,
                    None => value,
                };
                self.assign(&set.target, value, scope)
            })?,
            ast::Stmt::WithBlock(with) => {
                return self.deeper(with.span(), || {
                    let inner = Scope::new(Some(scope));
                    for (target, value) in &with.assignments {
                        self.assign(target, self.eval(value, scope)?, &inner)?;
                    }
                    self.block(&with.body, &inner, out)
                });
            }
            ast::Stmt::FilterBlock(filter) => self.deeper(filter.span(), || {
                let value = self.captured(&filter.body, scope)?;
                print::write_text(&self.filtered(&filter.filter, Some(&value), scope)?, out)
            })?,
            ast::Stmt::Macro(definition) => {
                let value = self.define(definition, scope);
                scope.set(definition.name, value);
            }
            ast::Stmt::CallBlock(call) => self.deeper(call.span(), || {
                let function = self.eval(&call.call.expr, scope)?;
                let mut arguments = self.arguments(&call.call.args, scope)?;
                arguments.named.push(("caller".into(), self.define(&call.macro_decl, scope)));
                print::write_text(&self.call(&function, arguments)?, out)
            })?,
            ast::Stmt::Break(_) => return Ok(Flow::Break),
            ast::Stmt::Continue(_) => return Ok(Flow::Continue),
            ast::Stmt::Do(statement) => {
                return self.deeper(statement.span(), || error("Encountered unknown tag 'do'."));
            }
            ast::Stmt::AutoEscape(statement) => {
                return self.deeper(statement.span(), || error("the tag autoescape is not supported"));
            }
        }
        check_text(out.len())?;
        Ok(Flow::Next)
    }

    /// The text of a block.
    fn captured(&self, body: &'a [ast::Stmt<'a>], scope: &Rc<Scope>) -> Result<Value> {
        let mut out = Output::default();
        self.block(body, &Scope::new(Some(scope)), &mut out)?;
        Ok(Value::Text(out.into_text()))
    }

    /// Assigns to a name, an attribute of a namespace, or the parts of a sequence.
    fn assign(&self, target: &'a ast::Expr<'a>, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            ast::Expr::Var(variable) => scope.set(variable.id, value),
            ast::Expr::GetAttr(access) => match self.eval(&access.expr, scope)? {
                Value::Namespace(namespace) if matches!(access.expr, ast::Expr::Var(_)) => {
                    namespace.set(access.name, value)?;
                }
                _ => return error("cannot assign attribute on non-namespace object"),
            },
            ast::Expr::List(list) => {
                let (values, n) = (value.items()?, list.items.len());
                if values.len() != n {
                    let many = if values.len() > n { "too many" } else { "not enough" };
                    return error(format!("{many} values to unpack (expected {n}, got {})", values.len()));
                }
                for (target, value) in list.items.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
            _ => return error("found an expression, expected a name to assign to"),
        }
        Ok(())
    }

    /// Runs a loop over the items of a value.
    pub(super) fn for_loop(
        &self,
        definition: &'a ast::ForLoop<'a>,
        values: &Value,
        depth0: usize,
        scope: &Rc<Scope>,
        out: &mut Output,
    ) -> Result<()> {
        let mut items = values.items()?;
        if let Some(filter) = &definition.filter_expr {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::new(Some(scope));
                self.assign(&definition.target, item.clone(), &inner)?;
                if self.eval(filter, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            self.block(&definition.else_body, &Scope::new(Some(scope)), out)?;
            return Ok(());
        }
        let recursive = definition.recursive.then(|| {
            let mut loops = self.loops.borrow_mut();
            loops.push(definition);
            (loops.len() - 1, Rc::clone(scope))
        });
        let state = Rc::new(Loop::new(items.into(), depth0, recursive));
        for (index, item) in state.items.iter().enumerate() {
            self.spend()?;
            state.index0.set(index);
            let inner = Scope::new(Some(scope));
            inner.set("loop", Value::Loop(Rc::clone(&state)));
            self.assign(&definition.target, item.clone(), &inner)?;
            if self.block(&definition.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn define(&self, definition: &'a ast::Macro<'a>, scope: &Rc<Scope>) -> Value {
        self.capture(scope);
        let mut macros = self.macros.borrow_mut();
        macros.push(definition);
        let (name, scope) = (Rc::from(definition.name), Rc::clone(scope));
        Value::Callable(Rc::new(Callable::Macro(Macro { name, definition: macros.len() - 1, scope })))
    }

    /// Whether a macro reads `caller`, `kwargs` and `varargs`.
    fn extras(&self, definition: &'a ast::Macro<'a>) -> [bool; 3] {
        *self.extras.borrow_mut().entry(std::ptr::from_ref(definition)).or_insert_with(|| {
            ["caller", "kwargs", "varargs"].map(|name| {
                mentions(&definition.body, name) || definition.defaults.iter().any(|value| names_in(value, name))
            })
        })
    }

    /// Calls a macro or the body of a `call` block. Returns its text.
    pub(super) fn call_macro(&self, called: &Macro, arguments: Arguments) -> Result<Value> {
        let definition = self.macros.borrow()[called.definition];
        let Arguments { mut positional, mut named } = arguments;
        let names: Vec<&str> = definition.args.iter().map(name_of).collect();
        let [uses_caller, uses_kwargs, uses_varargs] = self.extras(definition);
        let scope = Scope::new(Some(&called.scope));
        let rest = positional.split_off(positional.len().min(names.len()));
        let n_given = positional.len();
        for (name, value) in names.iter().zip(positional) {
            scope.set(name, value);
        }
        let take = |named: &mut Vec<(Text, Value)>, wanted: &str| {
            let index = named.iter().position(|(name, _)| **name == *wanted)?;
            Some(named.remove(index).1)
        };
        let n_required = names.len() - definition.defaults.len();
        for (index, name) in names.iter().enumerate().skip(n_given) {
            self.spend()?;
            budget::made_items(named.len());
            let value = match take(&mut named, name) {
                Some(value) => value,
                None => match index.checked_sub(n_required).and_then(|index| definition.defaults.get(index)) {
                    Some(default) => self.eval(default, &scope)?,
                    None => Value::undefined(format!("parameter '{name}' was not provided")),
                },
            };
            scope.set(name, value);
        }
        if uses_caller && !names.contains(&"caller") {
            scope.set("caller", take(&mut named, "caller").unwrap_or(Value::undefined("No caller defined")));
        }
        if uses_kwargs {
            let entries: IndexMap<Key, Value> =
                named.drain(..).map(|(name, value)| (Key::named(&name), value)).collect();
            scope.set("kwargs", Value::dict(entries)?);
        }
        if let Some((name, _)) = named.first() {
            return error(match &**name {
                "caller" => format!("macro '{}' was invoked with a caller that it does not use", called.name),
                name => format!("macro '{}' takes no keyword argument '{name}'", called.name),
            });
        }
        if uses_varargs {
            scope.set("varargs", Value::tuple(rest)?);
        } else if !rest.is_empty() {
            return error(format!("macro '{}' takes not more than {} argument(s)", called.name, names.len()));
        }
        let mut out = Output::default();
        self.block(&definition.body, &scope, &mut out)?;
        Ok(Value::Text(out.into_text()))
    }
}

fn name_of<'a>(parameter: &'a ast::Expr<'a>) -> &'a str {
    match parameter {
        ast::Expr::Var(variable) => variable.id,
        _ => "",
    }
}
