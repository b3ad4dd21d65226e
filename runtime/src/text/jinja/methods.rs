//! Methods of values that are no strings.

use std::cell::Cell;
use std::rc::Rc;

use super::arguments::{Arguments, optional_int};
use super::compare;
use super::eval::Interpreter;
use super::strings;
use super::text::Text;
use super::value::{Callable, Key, Result, Value, error};

const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const LOOP: [&str; 2] = ["changed", "cycle"];
const CYCLER: [&str; 2] = ["next", "reset"];
const NUMBER: [&str; 2] = ["bit_length", "is_integer"];

/// Methods that change a list or a dictionary. The sandbox refuses them.
const CHANGING_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const CHANGING_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// True if a value of some kind has this method.
pub(super) fn has(name: &str) -> bool {
    let all: [&[&str]; 6] = [&strings::METHODS, &LIST, &DICT, &LOOP, &CYCLER, &NUMBER];
    all.iter().any(|methods| methods.contains(&name))
}

/// The method with this name. Undefined, with the reason, if the sandbox refuses it.
pub(super) fn find(value: &Value, name: &str) -> Result<Option<Value>> {
    let (methods, changing): (&[&'static str], &[&str]) = match value {
        Value::Text(_) | Value::Markup(_) => (&strings::METHODS, &[]),
        Value::List(_) => (&LIST, &CHANGING_LIST),
        Value::Tuple(_) | Value::Range(_) => (&TUPLE, &[]),
        Value::Dict(_) => (&DICT, &CHANGING_DICT),
        Value::Loop(_) => (&LOOP, &[]),
        Value::Cycler(_) => (&CYCLER, &[]),
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => (&NUMBER, &[]),
        Value::Callable(callable) if matches!(**callable, Callable::Function("dict")) => (&["fromkeys"], &[]),
        _ => (&[], &[]),
    };
    if changing.contains(&name) || name.starts_with("__") && name.ends_with("__") {
        let reason = format!("access to attribute '{name}' of '{}' object is unsafe.", value.type_name());
        return Ok(Some(Value::undefined(reason)));
    }
    methods.iter().find(|known| **known == name).map(|known| Value::method(value, known)).transpose()
}

/// Calls a method.
pub(super) fn call(interpreter: &Interpreter<'_>, value: &Value, name: &str, arguments: Arguments) -> Result<Value> {
    match value {
        Value::Text(text) => strings::call(interpreter, text, name, arguments),
        Value::Markup(_) => error(format!("the method {name} of escaped text is not supported: escape last")),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = arguments.bind(name, ["key", "default"], 1)?;
                let key = key.unwrap_or(Value::None);
                Key::new(&key)?;
                Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
            }
            "fromkeys" => from_keys(arguments),
            _ => {
                arguments.none(name)?;
                let keys = || dict.entries.keys().map(|key| key.value().clone());
                match name {
                    "keys" => Value::view("dict_keys", keys().collect()),
                    "values" => Value::view("dict_values", dict.entries.values().cloned().collect()),
                    "items" => Value::view("dict_items", super::filters::entries(dict)?),
                    _ => Ok(value.clone()),
                }
            }
        },
        Value::Callable(_) => from_keys(arguments),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => sequence(value, name, arguments),
        Value::Loop(state) => match name {
            "cycle" => state.cycle(&arguments.positional),
            _ => Ok(Value::Bool(state.changed(arguments.positional))),
        },
        Value::Cycler(cycler) => {
            arguments.none(name)?;
            let current = cycler.current();
            let next = if name == "next" { (cycler.position.get() + 1) % cycler.items.len() } else { 0 };
            cycler.position.set(next);
            Ok(if name == "next" { current } else { Value::None })
        }
        value => {
            arguments.none(name)?;
            match (name, value) {
                ("is_integer", Value::Float(value)) => Ok(Value::Bool(value.fract() == 0.0)),
                ("is_integer", _) => Ok(Value::Bool(true)),
                (_, value) => match value.as_int() {
                    Some(value) => Ok(Value::Int((128 - value.unsigned_abs().leading_zeros()).into())),
                    None => error(format!("'{}' object has no attribute '{name}'", value.type_name())),
                },
            }
        }
    }
}

fn sequence(value: &Value, name: &str, arguments: Arguments) -> Result<Value> {
    if name == "copy" {
        arguments.none(name)?;
        return Ok(value.clone());
    }
    let [item, start, end] = arguments.bind(name, ["value", "start", "stop"], 1)?;
    let (item, items) = (item.unwrap_or(Value::None), value.items()?);
    let is_same = |other: &Value| compare::equal(other, &item);
    if name == "count" {
        return Ok(Value::Int(items.iter().filter(|other| is_same(other)).count() as i128));
    }
    let clip = |position: Option<i128>, default: usize| match position {
        Some(position) if position < 0 => (items.len() as i128 + position).max(0) as usize,
        Some(position) => position.min(items.len() as i128) as usize,
        None => default,
    };
    let (start, end) = (clip(optional_int(&start)?, 0), clip(optional_int(&end)?, items.len()));
    match items.iter().enumerate().position(|(index, other)| (start..end).contains(&index) && is_same(other)) {
        Some(index) => Ok(Value::Int(index as i128)),
        None => error(format!("{} is not in {}", &*super::print::repr(&item)?, value.type_name())),
    }
}

/// `dict.fromkeys(keys, value)`.
fn from_keys(arguments: Arguments) -> Result<Value> {
    let [keys, value] = arguments.bind("fromkeys", ["iterable", "value"], 1)?;
    let value = value.unwrap_or(Value::None);
    let keys = keys.unwrap_or(Value::None).items()?;
    let entries = keys.iter().map(|key| Ok((Key::new(key)?, value.clone())));
    Value::dict(entries.collect::<Result<_>>()?)
}

/// `joiner(separator)`.
pub(super) fn joiner(separator: Text) -> Value {
    Value::Callable(Rc::new(Callable::Joiner(separator, Cell::new(false))))
}
