//! Equality, order and membership.

use std::cmp::Ordering;
use std::rc::Rc;

use super::budget;
use super::value::{Result, Value, error};

/// `left == right`.
pub(super) fn equal(left: &Value, right: &Value) -> bool {
    let bytes = |value: &Value| value.as_text().map_or(0, str::len);
    // Values that share parts take exponential time. Beyond the limit, the result is not used.
    if budget::compared(bytes(left).min(bytes(right))) {
        return false;
    }
    match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            all_equal(&left.items, &right.items)
        }
        (Value::Dict(left), Value::Dict(right)) => {
            left.entries.len() == right.entries.len()
                && left
                    .entries
                    .iter()
                    .all(|(key, value)| right.entries.get(key).is_some_and(|other| equal(value, other)))
        }
        (Value::Range(_), Value::Range(_)) => {
            let items = |range: &Value| range.items().unwrap_or_default();
            all_equal(&items(left), &items(right))
        }
        (Value::View(left), Value::View(right)) => {
            Rc::ptr_eq(left, right)
                || left.name == right.name
                    && left.name != "dict_values"
                    && left.items.len() == right.items.len()
                    && left.items.iter().all(|item| right.items.iter().any(|other| equal(item, other)))
        }
        (Value::Namespace(left), Value::Namespace(right)) => Rc::ptr_eq(left, right),
        (Value::Iterator(left), Value::Iterator(right)) => Rc::ptr_eq(left, right),
        (Value::Cycler(left), Value::Cycler(right)) => Rc::ptr_eq(left, right),
        (Value::Loop(left), Value::Loop(right)) => Rc::ptr_eq(left, right),
        (Value::Callable(left), Value::Callable(right)) => Rc::ptr_eq(left, right),
        _ => match (left.as_text(), right.as_text()) {
            (Some(left), Some(right)) => left == right,
            (None, None) => numbers(left, right) == Some(Ordering::Equal),
            _ => false,
        },
    }
}

pub(super) fn all_equal(left: &[Value], right: &[Value]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
}

/// The order of two numbers; None if one is none, or not a number.
fn numbers(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        (Value::Float(left), right) => int_and_float(right.as_int()?, *left).map(Ordering::reverse),
        (left, Value::Float(right)) => int_and_float(left.as_int()?, *right),
        (left, right) => Some(left.as_int()?.cmp(&right.as_int()?)),
    }
}

/// Compares without rounding the integer.
fn int_and_float(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float.abs() >= 1e38 {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let order = int.cmp(&(float.trunc() as i128));
    let rest = if float.fract() > 0.0 { Ordering::Less } else { Ordering::Greater };
    Some(if order == Ordering::Equal && float.fract() != 0.0 { rest } else { order })
}

/// `left < right`, with Python's message for `operator` if the values have no order.
pub(super) fn less(left: &Value, right: &Value, operator: &str) -> Result<bool> {
    Ok(order(left, right, operator)? == Some(Ordering::Less))
}

/// The order of two values; None if one is not a number.
pub(super) fn order(left: &Value, right: &Value, operator: &str) -> Result<Option<Ordering>> {
    let (left, right) = (left.defined()?, right.defined()?);
    match (left, right) {
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            match left.items.iter().zip(&right.items).find(|(left, right)| !equal(left, right)) {
                Some((left, right)) => order(left, right, operator),
                None => Ok(Some(left.items.len().cmp(&right.items.len()))),
            }
        }
        _ => {
            if let (Some(left), Some(right)) = (left.as_text(), right.as_text()) {
                budget::compared(left.len().min(right.len()));
                budget::check()?;
                return Ok(Some(left.cmp(right)));
            }
            if left.as_float().is_some() && right.as_float().is_some() {
                return Ok(numbers(left, right));
            }
            let (left, right) = (left.type_name(), right.type_name());
            error(format!("'{operator}' not supported between instances of '{left}' and '{right}'"))
        }
    }
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value) -> Result<bool> {
    match container {
        Value::Text(text) | Value::Markup(text) => match item.as_text() {
            Some(part) => Ok(text.contains(part)),
            None => error(format!("'in <string>' requires string as left operand, not {}", item.type_name())),
        },
        Value::Dict(dict) => {
            super::value::Key::new(item)?;
            Ok(dict.get(item).is_some())
        }
        Value::Iterator(_) => {
            while let Some(next) = container.first()? {
                if equal(&next, item) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ if container.items().is_err() => {
            error(format!("argument of type '{}' is not a container or iterable", container.type_name()))
        }
        _ => Ok(container.items()?.iter().any(|other| equal(other, item))),
    }
}

/// The direction of a sort.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    /// The direction for an argument `reverse`.
    pub(super) fn of(reverse: Option<Value>) -> Direction {
        match reverse {
            Some(reverse) if reverse.is_true() => Direction::Descending,
            _ => Direction::Ascending,
        }
    }
}

/// `sorted(items)` by keys: stable, with `<` alone.
pub(super) fn sorted(mut items: Vec<(Value, Value)>, direction: Direction) -> Result<Vec<Value>> {
    if direction == Direction::Descending {
        items.reverse();
    }
    let mut items = merge_sorted(items)?;
    if direction == Direction::Descending {
        items.reverse();
    }
    Ok(items.into_iter().map(|(_, item)| item).collect())
}

fn merge_sorted(mut items: Vec<(Value, Value)>) -> Result<Vec<(Value, Value)>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = merge_sorted(items.split_off(items.len() / 2))?;
    let left = merge_sorted(items)?;
    budget::check()?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some((first, _)), Some((second, _))) = (left.peek(), right.peek()) {
        let next = if less(second, first, "<")? { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}
