//! Arithmetic, and conversions from and to numbers.

use super::format;
use super::text::Output;
use super::value::{Result, Value, check_items, check_text, error};

/// A binary operator.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

impl Operator {
    fn sign(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::FloorDivide => "//",
            Operator::Modulo => "%",
            Operator::Power => "** or pow()",
        }
    }
}

/// Applies a binary operator.
pub(super) fn binary(operator: Operator, left: &Value, right: &Value) -> Result<Value> {
    if let (Operator::Modulo, Value::Text(text)) = (operator, left) {
        return format::percent(text, right).map(Value::Text);
    }
    let (left, right) = (left.defined()?, right.defined()?);
    if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
        return integers(operator, left, right);
    }
    if let (Some(left), Some(right)) = (left.as_float(), right.as_float()) {
        return floats(operator, left, right);
    }
    match (operator, left, right) {
        (_, Value::Markup(_), _) | (_, _, Value::Markup(_)) => {
            error(format!("'{}' of escaped text is not supported: escape last, or join with ~", operator.sign()))
        }
        (Operator::Add, Value::Text(left), Value::Text(right)) => {
            check_text(left.len() + right.len())?;
            let mut out = Output::default();
            out += left;
            out += right;
            Ok(Value::Text(out.into_text()))
        }
        (Operator::Add, Value::List(left), Value::List(right)) => {
            Value::list(left.items.iter().chain(&right.items).cloned().collect())
        }
        (Operator::Add, Value::Tuple(left), Value::Tuple(right)) => {
            Value::tuple(left.items.iter().chain(&right.items).cloned().collect())
        }
        (Operator::Multiply, sequence, count) if count.as_int().is_some() => repeat(sequence, count),
        (Operator::Multiply, count, sequence) if count.as_int().is_some() => repeat(sequence, count),
        _ => unsupported(operator, left, right),
    }
}

fn unsupported(operator: Operator, left: &Value, right: &Value) -> Result<Value> {
    let (sign, left_type, right_type) = (operator.sign(), left.type_name(), right.type_name());
    match (operator, left) {
        (Operator::Add, Value::Text(_)) => error(format!("can only concatenate str (not \"{right_type}\") to str")),
        (Operator::Add, Value::List(_)) => error(format!("can only concatenate list (not \"{right_type}\") to list")),
        _ => error(format!("unsupported operand type(s) for {sign}: '{left_type}' and '{right_type}'")),
    }
}

fn repeat(sequence: &Value, count: &Value) -> Result<Value> {
    let count = usize::try_from(count.as_int().unwrap_or(0).max(0)).unwrap_or(usize::MAX);
    match sequence {
        Value::Text(text) => {
            check_text(text.len().saturating_mul(count))?;
            let mut out = Output::default();
            out.add_repeated(text, count);
            Ok(Value::Text(out.into_text()))
        }
        Value::List(items) | Value::Tuple(items) => {
            check_items(items.items.len().saturating_mul(count))?;
            let repeated = items.items.iter().cycle().take(items.items.len() * count).cloned().collect();
            if matches!(sequence, Value::List(_)) { Value::list(repeated) } else { Value::tuple(repeated) }
        }
        _ => unsupported(Operator::Multiply, sequence, &Value::Int(count as i128)),
    }
}

fn integers(operator: Operator, left: i128, right: i128) -> Result<Value> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide if right == 0 => return error("division by zero"),
        Operator::Divide => return Ok(Value::Float(left as f64 / right as f64)),
        Operator::FloorDivide | Operator::Modulo if right == 0 => return error("division by zero"),
        Operator::FloorDivide => left
            .checked_div(right)
            .map(|quotient| quotient - i128::from(left % right != 0 && (left < 0) != (right < 0))),
        Operator::Modulo => {
            left.checked_rem(right).map(|rest| if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest })
        }
        Operator::Power if right < 0 => return floats(operator, left as f64, right as f64),
        Operator::Power => u32::try_from(right).ok().and_then(|right| left.checked_pow(right)),
    };
    match result {
        Some(value) => Ok(Value::Int(value)),
        None => error("integers of more than 127 bits are not supported"),
    }
}

fn floats(operator: Operator, left: f64, right: f64) -> Result<Value> {
    let is_division = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo);
    if is_division && right == 0.0 {
        return error("float division by zero");
    }
    // fmod is exact; the result has the divisor's sign.
    let modulo = || {
        let rest = left % right;
        if rest == 0.0 {
            0.0f64.copysign(right)
        } else if (rest < 0.0) != (right < 0.0) {
            rest + right
        } else {
            rest
        }
    };
    Ok(Value::Float(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::FloorDivide => {
            let quotient = (left - modulo()) / right;
            if quotient == 0.0 {
                0.0f64.copysign(left / right)
            } else {
                let floor = quotient.floor();
                if quotient - floor > 0.5 { floor + 1.0 } else { floor }
            }
        }
        Operator::Modulo => modulo(),
        Operator::Power => {
            if left == 0.0 && right < 0.0 {
                return error("zero to a negative power");
            }
            let power = left.powf(right);
            if power.is_nan() && !left.is_nan() && !right.is_nan() {
                return error("complex numbers are not supported");
            }
            if power.is_infinite() && left.is_finite() && right.is_finite() {
                return error("the result of a power is too large");
            }
            power
        }
    }))
}

/// `-value`.
pub(super) fn negate(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(value) => Ok(Value::Float(-value)),
        value => match value.as_int() {
            Some(value) => Ok(Value::Int(-value)),
            None => error(format!("bad operand type for unary -: '{}'", value.type_name())),
        },
    }
}

/// `abs(value)`.
pub(super) fn absolute(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(value) => Ok(Value::Float(value.abs())),
        value => match value.as_int() {
            Some(value) => Ok(Value::Int(value.abs())),
            None => error(format!("bad operand type for abs(): '{}'", value.type_name())),
        },
    }
}

/// White space in the sense of Python's texts.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Removes underscores between digits; None if there are others.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit =
        |index: Option<usize>| index.and_then(|index| bytes.get(index)).is_some_and(u8::is_ascii_alphanumeric);
    let is_valid =
        |(index, &byte): (usize, &u8)| byte != b'_' || is_digit(index.checked_sub(1)) && is_digit(Some(index + 1));
    bytes.iter().enumerate().all(is_valid).then(|| text.replace('_', ""))
}

/// `int(text, base)`; None if the text is no integer.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefix = prefixes.into_iter().find(|(prefix, of)| lower.starts_with(prefix) && (base == *of || base == 0));
    let (digits, base) = match prefix {
        Some((_, of)) => (lower[2..].strip_prefix('_').unwrap_or(&lower[2..]), of),
        None if base == 0
            && lower.len() > 1
            && lower.starts_with('0')
            && !lower.trim_matches(['0', '_']).is_empty() =>
        {
            return None;
        }
        None => (&*lower, if base == 0 { 10 } else { base }),
    };
    let digits: Option<String> = digits.chars().map(|c| decimal_digit(c).unwrap_or(Some(c))).collect();
    let digits = without_underscores(&digits?)?;
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) || !(2..=36).contains(&base) {
        return None;
    }
    Some(sign * i128::from_str_radix(&digits, base).ok()?)
}

/// ASCII's digit for a decimal digit of another script; the inner None if it is not known.
fn decimal_digit(c: char) -> Option<Option<char>> {
    let zeros = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{ff10}'];
    let zero =
        zeros.into_iter().find(|&zero| (zero..=char::from_u32(u32::from(zero) + 9).unwrap_or(zero)).contains(&c))?;
    Some(char::from_digit(u32::from(c) - u32::from(zero), 10))
}

/// `float(text)`; None if the text is no number.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(text.trim_matches(is_space))?;
    text.parse().ok()
}

/// `float(value)`, None if that raises `TypeError` or `ValueError`.
pub(super) fn to_float(value: &Value) -> Option<f64> {
    match value.as_text() {
        Some(text) => parse_float(text),
        None => value.as_float(),
    }
}

/// `int(value)` of a float; None if it has none.
pub(super) fn truncated(value: f64) -> Result<Option<i128>> {
    match value {
        value if !value.is_finite() => Ok(None),
        value if value.abs() < 1e38 => Ok(Some(value.trunc() as i128)),
        _ => error("integers of more than 127 bits are not supported"),
    }
}

/// `round(value, digits)`.
pub(super) fn round(value: &Value, digits: i128) -> Result<Value> {
    let places = digits.unsigned_abs().min(400) as usize;
    match value.defined()? {
        Value::Float(value) if !value.is_finite() => Ok(Value::Float(*value)),
        Value::Float(value) if digits >= 0 => Ok(Value::Float(format!("{value:.places$}").parse().unwrap_or(*value))),
        Value::Float(value) => {
            let unit = 10f64.powi(places as i32);
            let (scaled, sign) = ((value / unit).abs(), 1f64.copysign(*value));
            let (floor, rest) = (scaled.floor(), scaled.fract());
            let is_up = rest > 0.5 || rest == 0.5 && floor % 2.0 == 1.0;
            Ok(Value::Float(sign * (floor + f64::from(u8::from(is_up))) * unit))
        }
        value => match value.as_int() {
            Some(value) if digits >= 0 => Ok(Value::Int(value)),
            Some(value) => {
                let Some(unit) = 10i128.checked_pow(places as u32) else { return Ok(Value::Int(0)) };
                let (quotient, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
                let is_up = rest * 2 > unit || rest * 2 == unit && quotient % 2 != 0;
                Ok(Value::Int((quotient + i128::from(is_up)) * unit))
            }
            None => error(format!("type {} doesn't define __round__ method", value.type_name())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_numbers_are_read_as_python_reads_them() {
        let ints = [" 42 ", "-7", "+1", "1_000", "4_", "_4", "4.2", "", "٣", "0x1f"].map(|text| parse_int(text, 10));
        let expected = [Some(42), Some(-7), Some(1), Some(1000), None, None, None, None, Some(3), None];
        assert_eq!(ints, expected);
        assert_eq!([parse_int("0x1f", 16), parse_int("ff", 16), parse_int("0b11", 0)], [Some(31), Some(255), Some(3)]);
        assert_eq!([parse_float(" 1e3"), parse_float("1_0.5"), parse_float("x")], [Some(1000.0), Some(10.5), None]);
    }
}
