//! Tests: `value is name(arguments)`.

use std::rc::Rc;

use super::arguments::Arguments;
use super::budget;
use super::compare;
use super::filters;
use super::number::{self, Operator};
use super::print;
use super::value::{Result, Value, error};

/// All tests of Jinja2.
const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// True if this interpreter has the test.
pub(super) fn has(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value is name(arguments)`.
pub(super) fn apply(name: &str, value: &Value, arguments: Arguments) -> Result<bool> {
    budget::used(value)?;
    let of_two = matches!(
        name,
        "==" | "eq"
            | "equalto"
            | "!="
            | "ne"
            | "<"
            | "lt"
            | "lessthan"
            | "<="
            | "le"
            | ">"
            | "gt"
            | "greaterthan"
            | ">="
            | "ge"
            | "in"
            | "sameas"
            | "divisibleby"
    );
    if of_two {
        return of_two_values(name, value, &arguments.one(name)?);
    }
    arguments.none(name)?;
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_text().is_some(),
        "escaped" => matches!(value, Value::Markup(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Text(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "iterable" => {
            matches!(value, Value::Iterator(_) | Value::View(_) | Value::Loop(_))
                || apply("sequence", value, Arguments::default())?
        }
        "callable" => {
            matches!(value, Value::Callable(_) | Value::Undefined(_) | Value::Loop(_))
        }
        "even" | "odd" => {
            let rest = number::binary(Operator::Modulo, value, &Value::Int(2))?;
            compare::equal(&rest, &Value::Int(i128::from(name == "odd")))
        }
        "lower" | "upper" => {
            let text = print::text(value)?;
            let mut cased = text.chars().filter(|c| c.is_lowercase() || c.is_uppercase()).peekable();
            cased.peek().is_some() && cased.all(|c| c.is_lowercase() == (name == "lower"))
        }
        "filter" => value.as_text().is_some_and(|name| filters::NAMES.contains(&name)),
        "test" => value.as_text().is_some_and(|name| NAMES.contains(&name)),
        _ => return error(format!("No test named '{name}'.")),
    })
}

fn of_two_values(name: &str, value: &Value, other: &Value) -> Result<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = |operator: &str| compare::order(value, other, operator);
    Ok(match name {
        "==" | "eq" | "equalto" => compare::equal(value, other),
        "!=" | "ne" => !compare::equal(value, other),
        "<" | "lt" | "lessthan" => order("<")? == Some(Less),
        "<=" | "le" => matches!(order("<=")?, Some(Less | Equal)),
        ">" | "gt" | "greaterthan" => order(">")? == Some(Greater),
        ">=" | "ge" => matches!(order(">=")?, Some(Greater | Equal)),
        "in" => compare::contains(other, value)?,
        "divisibleby" => compare::equal(&number::binary(Operator::Modulo, value, other)?, &Value::Int(0)),
        _ => is_same(value, other)?,
    })
}

/// `value is other` in Python.
fn is_same(value: &Value, other: &Value) -> Result<bool> {
    Ok(match (value, other) {
        (Value::None, Value::None) => true,
        (Value::Bool(value), Value::Bool(other)) => value == other,
        (Value::Int(value), Value::Int(other)) if value == other => {
            if !(-5..=256).contains(value) {
                return error("sameas of large integers depends on Python's memory");
            }
            true
        }
        (Value::Text(value), Value::Text(other)) if **value == **other => {
            if !value.is_same(other) && value.len() > 1 {
                return error("sameas of equal texts depends on Python's memory");
            }
            true
        }
        (Value::List(value), Value::List(other)) | (Value::Tuple(value), Value::Tuple(other)) => {
            Rc::ptr_eq(value, other)
        }
        (Value::Dict(value), Value::Dict(other)) => Rc::ptr_eq(value, other),
        (Value::Namespace(value), Value::Namespace(other)) => Rc::ptr_eq(value, other),
        _ => false,
    })
}
