//! Expressions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use chrono::NaiveDateTime;
use minijinja::machinery::{Span, ast};
use minijinja::value::ValueKind;

use super::arguments::Arguments;
use super::number::{self, Operator};
use super::scope::{Loop, Scope};
use super::text::Output;
use super::value::{Callable, Dict, Key, Namespace, Range, Result, Value, check_items, error};
use super::{budget, checks, compare, filters, globals, literal, methods, print};
use crate::Cancel;
use crate::device::cpu::own_run_time;

/// Deepest nesting of expressions, statements and macros while they run.
const MAX_DEPTH: u32 = 1000;

/// Instructions between two looks at the clock and at the flag.
const INSTRUCTIONS: u64 = 256;

/// What ends a template before its last instruction.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    /// Most instructions.
    pub(super) fuel: u64,
    /// Time of the thread.
    pub(super) time: Duration,
    pub(super) cancel: &'a Cancel,
}

/// Renders one template.
pub(super) struct Interpreter<'a> {
    source: &'a str,
    limits: Limits<'a>,
    /// Instructions that are left.
    fuel: Cell<u64>,
    /// The time for which the thread has run, when it began.
    begun: Duration,
    depth: Cell<u32>,
    now: NaiveDateTime,
    /// Macros and recursive loops, by the index in their values.
    pub(super) macros: RefCell<Vec<&'a ast::Macro<'a>>>,
    pub(super) loops: RefCell<Vec<&'a ast::ForLoop<'a>>>,
    /// By macro: see [`Interpreter::extras`].
    pub(super) extras: RefCell<HashMap<*const ast::Macro<'a>, [bool; 3]>>,
    /// Owners of values that may refer back to them.
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(source: &'a str, limits: Limits<'a>, now: NaiveDateTime) -> Interpreter<'a> {
        Interpreter {
            source,
            limits,
            fuel: Cell::new(limits.fuel),
            begun: own_run_time(),
            depth: Cell::new(0),
            now,
            macros: RefCell::default(),
            loops: RefCell::default(),
            extras: RefCell::default(),
            scopes: RefCell::default(),
            namespaces: RefCell::default(),
        }
    }

    pub(super) fn now(&self) -> NaiveDateTime {
        self.now
    }

    /// Counts an instruction.
    pub(super) fn spend(&self) -> Result<()> {
        budget::check()?;
        if self.fuel.get().is_multiple_of(INSTRUCTIONS) {
            self.look_at_limits()?;
        }
        match self.fuel.get().checked_sub(1) {
            Some(fuel) => {
                self.fuel.set(fuel);
                Ok(())
            }
            None => error("stopped after too many instructions: does it loop forever?"),
        }
    }

    fn look_at_limits(&self) -> Result<()> {
        let Limits { time, cancel, .. } = self.limits;
        if cancel.is_cancelled() {
            return error("cancelled");
        }
        if own_run_time().saturating_sub(self.begun) >= time {
            return error(format!("stopped after {time:?}: does it loop forever?"));
        }
        Ok(())
    }

    /// Runs `work` one level deeper, and gives its errors a line.
    pub(super) fn deeper<T>(&self, span: Span, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.spend()?;
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return error(format!("stopped at {MAX_DEPTH} nested calls and blocks: does a macro call itself forever?"));
        }
        self.depth.set(depth + 1);
        let result = work();
        self.depth.set(depth);
        result.map_err(|mut error| {
            error.line.get_or_insert(span.start_line.into());
            error
        })
    }

    /// Keeps a scope that a value refers to. See [`Drop`].
    pub(super) fn capture(&self, scope: &Rc<Scope>) {
        budget::kept_scope();
        self.scopes.borrow_mut().push(Rc::clone(scope));
    }

    pub(super) fn keep(&self, namespace: Rc<Namespace>) -> Value {
        budget::kept_scope();
        self.namespaces.borrow_mut().push(Rc::clone(&namespace));
        Value::Namespace(namespace)
    }

    /// The source of a node.
    pub(super) fn text_of(&self, span: Span) -> &'a str {
        self.source.get(span.start_offset as usize..span.end_offset as usize).unwrap_or_default()
    }

    /// Evaluates an expression.
    pub(super) fn eval(&self, expression: &'a ast::Expr<'a>, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.deeper(expression.span(), || match expression {
            ast::Expr::Var(variable) => self.variable(variable.id, scope),
            ast::Expr::Const(constant) => self.constant(&constant.value, expression.span()),
            ast::Expr::List(list) => self.list(list, expression.span(), scope),
            ast::Expr::Map(map) => {
                let mut entries = indexmap::IndexMap::new();
                for (key, value) in map.keys.iter().zip(&map.values) {
                    entries.insert(Key::new(&self.eval(key, scope)?)?, self.eval(value, scope)?);
                }
                Value::dict(entries)
            }
            ast::Expr::UnaryOp(operation) => {
                let value = self.eval(&operation.expr, scope)?;
                match operation.op {
                    ast::UnaryOpKind::Not => Ok(Value::Bool(!value.is_true())),
                    ast::UnaryOpKind::Neg => number::negate(&value),
                }
            }
            ast::Expr::BinOp(operation) => self.binary(operation, scope),
            ast::Expr::Compare(chain) => self.chain(chain, scope),
            ast::Expr::IfExpr(choice) => match (self.eval(&choice.test_expr, scope)?.is_true(), &choice.false_expr) {
                (true, _) => self.eval(&choice.true_expr, scope),
                (false, Some(other)) => self.eval(other, scope),
                (false, None) => {
                    Ok(Value::undefined("the inline if-expression evaluated to false and no else section was defined."))
                }
            },
            ast::Expr::Filter(_) => self.filtered(expression, None, scope),
            ast::Expr::Test(test) => {
                let value = self.eval(&test.expr, scope)?;
                Ok(Value::Bool(checks::apply(test.name, &value, self.arguments(&test.args, scope)?)?))
            }
            ast::Expr::GetAttr(access) => self.attribute(&self.eval(&access.expr, scope)?, access.name),
            ast::Expr::GetItem(access) => {
                let value = self.eval(&access.expr, scope)?;
                self.item(&value, &self.eval(&access.subscript_expr, scope)?)
            }
            ast::Expr::Slice(slice) => self.slice(slice, scope),
            ast::Expr::Call(call) => {
                let function = self.eval(&call.expr, scope)?;
                self.call(&function, self.arguments(&call.args, scope)?)
            }
        })?;
        budget::used(&value)?;
        Ok(value)
    }

    fn variable(&self, name: &str, scope: &Rc<Scope>) -> Result<Value> {
        match scope.get(name).or_else(|| globals::find(name)) {
            Some(value) => Ok(value),
            None if name == "self" => error("self is not supported in chat templates"),
            None => Ok(Value::undefined(format!("'{name}' is undefined"))),
        }
    }

    fn constant(&self, value: &minijinja::Value, span: Span) -> Result<Value> {
        match value.kind() {
            ValueKind::None => Ok(Value::None),
            ValueKind::Bool => Ok(Value::Bool(value.is_true())),
            ValueKind::Number if value.is_integer() => match i128::try_from(value.clone()) {
                Ok(value) => Ok(Value::Int(value)),
                Err(_) => error("integers of more than 127 bits are not supported"),
            },
            ValueKind::Number => Ok(Value::Float(f64::try_from(value.clone()).unwrap_or(f64::NAN))),
            _ => literal::text(self.text_of(span)).map(Value::text),
        }
    }

    /// A list or a tuple: the parser does not tell them apart.
    fn list(&self, list: &'a ast::List<'a>, span: Span, scope: &Rc<Scope>) -> Result<Value> {
        let items = list.items.iter().map(|item| self.eval(item, scope)).collect::<Result<Vec<_>>>()?;
        let begins_inside = list.items.first().is_some_and(|item| item.span().start_offset < span.start_offset);
        if self.text_of(span).starts_with('[') && !begins_inside { Value::list(items) } else { Value::tuple(items) }
    }

    fn binary(&self, operation: &'a ast::BinOp<'a>, scope: &Rc<Scope>) -> Result<Value> {
        use ast::BinOpKind as Kind;
        let left = self.eval(&operation.left, scope)?;
        match operation.op {
            Kind::ScAnd => return if left.is_true() { self.eval(&operation.right, scope) } else { Ok(left) },
            Kind::ScOr => return if left.is_true() { Ok(left) } else { self.eval(&operation.right, scope) },
            _ => {}
        }
        let right = self.eval(&operation.right, scope)?;
        let operator = match operation.op {
            Kind::Add => Operator::Add,
            Kind::Sub => Operator::Subtract,
            Kind::Mul => Operator::Multiply,
            Kind::Div => Operator::Divide,
            Kind::FloorDiv => Operator::FloorDivide,
            Kind::Rem => Operator::Modulo,
            Kind::Pow => Operator::Power,
            Kind::Concat => {
                let mut text = Output::default();
                print::write_text(&left, &mut text)?;
                print::write_text(&right, &mut text)?;
                return Ok(Value::Text(text.into_text()));
            }
            Kind::Eq => return Ok(Value::Bool(compare::equal(&left, &right))),
            Kind::Ne => return Ok(Value::Bool(!compare::equal(&left, &right))),
            Kind::Lt => return checks::apply("<", &left, one(right)).map(Value::Bool),
            Kind::Lte => return checks::apply("<=", &left, one(right)).map(Value::Bool),
            Kind::Gt => return checks::apply(">", &left, one(right)).map(Value::Bool),
            Kind::Gte => return checks::apply(">=", &left, one(right)).map(Value::Bool),
            Kind::In => return compare::contains(&right, &left).map(Value::Bool),
            Kind::ScAnd | Kind::ScOr => return Ok(right),
        };
        number::binary(operator, &left, &right)
    }

    /// `a < b < c`.
    fn chain(&self, chain: &'a ast::Compare<'a>, scope: &Rc<Scope>) -> Result<Value> {
        use ast::CompareOpKind as Kind;
        let mut left = self.eval(&chain.expr, scope)?;
        for link in &chain.ops {
            let right = self.eval(&link.expr, scope)?;
            let holds = match link.op {
                Kind::Eq => compare::equal(&left, &right),
                Kind::Ne => !compare::equal(&left, &right),
                Kind::Lt => checks::apply("<", &left, one(right.clone()))?,
                Kind::Lte => checks::apply("<=", &left, one(right.clone()))?,
                Kind::Gt => checks::apply(">", &left, one(right.clone()))?,
                Kind::Gte => checks::apply(">=", &left, one(right.clone()))?,
                Kind::In => compare::contains(&right, &left)?,
                Kind::NotIn => !compare::contains(&right, &left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// Applies a chain of filters to its operand, or to `input` where the chain has none.
    pub(super) fn filtered(
        &self,
        expression: &'a ast::Expr<'a>,
        input: Option<&Value>,
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let ast::Expr::Filter(filter) = expression else { return self.eval(expression, scope) };
        let value = match (&filter.expr, input) {
            (Some(inner), Some(_)) => self.filtered(inner, input, scope)?,
            (Some(inner), None) => self.eval(inner, scope)?,
            (None, Some(input)) => input.clone(),
            (None, None) => return error("a filter without a value"),
        };
        filters::apply(self, filter.name, &value, self.arguments(&filter.args, scope)?)
    }

    pub(super) fn arguments(&self, given: &'a [ast::CallArg<'a>], scope: &Rc<Scope>) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        for argument in given {
            match argument {
                ast::CallArg::Pos(value) => arguments.positional.push(self.eval(value, scope)?),
                ast::CallArg::Kwarg(name, value) => {
                    arguments.named.push(((*name).into(), self.eval(value, scope)?));
                }
                ast::CallArg::PosSplat(values) => {
                    arguments.positional.extend(self.eval(values, scope)?.items()?);
                    check_items(arguments.positional.len())?;
                }
                ast::CallArg::KwargSplat(values) => match self.eval(values, scope)? {
                    Value::Dict(dict) => {
                        for (name, value) in &dict.entries {
                            arguments.named.push((print::text(name.value())?, value.clone()));
                        }
                        check_items(arguments.named.len())?;
                    }
                    other => return error(format!("argument after ** must be a mapping, not {}", other.type_name())),
                },
            }
        }
        Ok(arguments)
    }

    /// `value.name`: an attribute, otherwise an item.
    pub(super) fn attribute(&self, value: &Value, name: &str) -> Result<Value> {
        if let Some(found) = own_attribute(value.defined()?, name)? {
            return Ok(found);
        }
        match value {
            Value::Dict(dict) => Ok(dict_item(dict, &Value::text(name), value)?),
            _ => missing(value, &Value::text(name)),
        }
    }

    /// `value[key]`: an item, otherwise an attribute.
    pub(super) fn item(&self, value: &Value, key: &Value) -> Result<Value> {
        let at = |length: usize| {
            let index = key.as_int()?;
            usize::try_from(if index < 0 { index + length as i128 } else { index }).ok().filter(|&index| index < length)
        };
        let item = match value.defined()? {
            Value::Dict(dict) => dict.get(key).cloned(),
            Value::List(sequence) | Value::Tuple(sequence) => {
                at(sequence.items.len()).map(|at| sequence.items[at].clone())
            }
            Value::Text(text) | Value::Markup(text) if key.as_int().is_some() => {
                let at = at(text.chars().count());
                let found = at.and_then(|at| text.char_indices().nth(at));
                found.map(|(at, c)| Value::Text(text.part(&text[at..at + c.len_utf8()])))
            }
            Value::Range(range) => at(range.len()).map(|at| Value::Int(range.start + range.step * at as i128)),
            _ => None,
        };
        if let Some(item) = item {
            return Ok(item);
        }
        match key.as_text() {
            Some(name) => match own_attribute(value, name)? {
                Some(found) => Ok(found),
                None => missing(value, key),
            },
            None => missing(value, key),
        }
    }

    fn slice(&self, slice: &'a ast::Slice<'a>, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.eval(&slice.expr, scope)?;
        let bound = |expression: &'a Option<ast::Expr<'a>>| match expression {
            None => Ok(None),
            Some(expression) => match self.eval(expression, scope)? {
                Value::None => Ok(None),
                value => value.index().map(Some),
            },
        };
        let (start, stop, step) = (bound(&slice.start)?, bound(&slice.stop)?, bound(&slice.step)?.unwrap_or(1));
        if step == 0 {
            return error("slice step cannot be zero");
        }
        if let Value::Range(range) = value {
            let (at, stop) = slice_bounds(range.len(), start, stop, step);
            let number = |index: i128| range.start + range.step * index;
            return Ok(Value::Range(Range { start: number(at), stop: number(stop), step: range.step * step }));
        }
        if let (Value::Text(text) | Value::Markup(text), 1) = (&value, step) {
            let (at, stop) = slice_bounds(text.chars().count(), start, stop, step);
            let byte = |position: i128| text.char_indices().nth(position as usize).map_or(text.len(), |(byte, _)| byte);
            let part = if at < stop { text.part(&text[byte(at)..byte(stop)]) } else { text.part(&text[..0]) };
            return Ok(if matches!(value, Value::Text(_)) { Value::Text(part) } else { Value::Markup(part) });
        }
        let items = match value.defined()? {
            Value::Text(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_) => value.items()?,
            Value::Dict(_) => return error("unhashable type: 'slice'"),
            _ => return error(format!("'{}' object is not subscriptable", value.type_name())),
        };
        let items = sliced(&items, start, stop, step);
        match value {
            Value::Text(_) | Value::Markup(_) => {
                let mut text = Output::default();
                for item in &items {
                    print::write_text(item, &mut text)?;
                }
                let text = text.into_text();
                Ok(if matches!(value, Value::Text(_)) { Value::Text(text) } else { Value::Markup(text) })
            }
            Value::Tuple(_) => Value::tuple(items),
            _ => Value::list(items),
        }
    }

    /// `function(arguments)`.
    pub(super) fn call(&self, function: &Value, arguments: Arguments) -> Result<Value> {
        match function.defined()? {
            Value::Callable(callable) => match &**callable {
                Callable::Function(name) => globals::call(self, name, arguments),
                Callable::Method(value, name) => methods::call(self, value, name, arguments),
                Callable::Joiner(separator, is_used) => {
                    arguments.none("joiner")?;
                    Ok(if is_used.replace(true) { Value::Text(separator.clone()) } else { Value::text("") })
                }
                Callable::Macro(definition) => self.call_macro(definition, arguments),
            },
            Value::Loop(state) => self.recurse(state, &arguments.one("loop")?),
            value => error(format!("'{}' object is not callable", value.type_name())),
        }
    }

    /// `loop(items)` in a recursive loop.
    fn recurse(&self, state: &Loop, items: &Value) -> Result<Value> {
        let Some((index, scope)) = &state.recursive else {
            return error("The loop must have the 'recursive' marker to be called recursively.");
        };
        let definition = self.loops.borrow()[*index];
        let mut out = Output::default();
        self.for_loop(definition, items, state.depth0 + 1, scope, &mut out)?;
        Ok(Value::Text(out.into_text()))
    }
}

/// Scopes and namespaces may contain macros and values that refer back to them.
impl Drop for Interpreter<'_> {
    fn drop(&mut self) {
        self.scopes.borrow().iter().for_each(|scope| scope.clear());
        for namespace in self.namespaces.borrow().iter() {
            let attributes = namespace.attributes.take();
            drop(attributes);
        }
    }
}

fn one(value: Value) -> Arguments {
    Arguments { positional: vec![value], ..Arguments::default() }
}

/// The attribute of a value that is not one of its items.
fn own_attribute(value: &Value, name: &str) -> Result<Option<Value>> {
    let found = match value {
        Value::Namespace(namespace) => namespace.attributes.borrow().get(&Key::text(name)).cloned(),
        Value::Loop(state) => state.attribute(name),
        Value::Cycler(cycler) if name == "current" => Some(cycler.current()),
        Value::Tuple(sequence) if sequence.is_group => match name {
            "grouper" => sequence.items.first().cloned(),
            "list" => sequence.items.get(1).cloned(),
            _ => None,
        },
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => match (name, value.as_int()) {
            ("real", Some(int)) | ("numerator", Some(int)) => Some(Value::Int(int)),
            ("real", None) => Some(value.clone()),
            ("imag", int) => Some(int.map_or(Value::Float(0.0), |_| Value::Int(0))),
            ("denominator", Some(_)) => Some(Value::Int(1)),
            _ => None,
        },
        Value::Callable(callable) => match &**callable {
            Callable::Macro(definition) if name == "name" => Some(Value::text(&definition.name)),
            Callable::Macro(_) if matches!(name, "arguments" | "catch_kwargs" | "catch_varargs" | "caller") => {
                return error(format!("the attribute {name} of macros is not supported in chat templates"));
            }
            _ => None,
        },
        _ => None,
    };
    match found {
        Some(found) => Ok(Some(found)),
        None => methods::find(value, name),
    }
}

fn dict_item(dict: &Dict, key: &Value, value: &Value) -> Result<Value> {
    match dict.get(key) {
        Some(item) => Ok(item.clone()),
        None => missing(value, key),
    }
}

/// The absent value of a missing attribute or item.
fn missing(value: &Value, key: &Value) -> Result<Value> {
    let owner = match value {
        Value::None => "None".to_owned(),
        value => format!("{} object", value.type_name()),
    };
    Ok(Value::undefined(match key.as_text() {
        Some(name) => format!("'{owner}' has no attribute '{name}'"),
        None => format!("{owner} has no element {}", print::repr(key).as_deref().unwrap_or_default()),
    }))
}

/// The first index of a slice, and the one at which it stops.
fn slice_bounds(length: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> (i128, i128) {
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clip = |position: Option<i128>, default: i128| match position {
        Some(position) if position < 0 => (position + length).clamp(low, high),
        Some(position) => position.clamp(low, high),
        None => default,
    };
    if step > 0 { (clip(start, low), clip(stop, high)) } else { (clip(start, high), clip(stop, low)) }
}

fn sliced(items: &[Value], start: Option<i128>, stop: Option<i128>, step: i128) -> Vec<Value> {
    let (mut at, stop) = slice_bounds(items.len(), start, stop, step);
    let mut slice = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        slice.extend(items.get(at as usize).cloned());
        at = at.saturating_add(step);
    }
    slice
}
