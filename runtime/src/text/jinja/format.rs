//! `'%s' % values` and `'{}'.format(values)`.

use super::eval::Interpreter;
use super::number::{self};
use super::print;
use super::text::{Origin, Output, Text};
use super::value::{Result, Value, check_text, error};

/// Flags, width, precision and type of one conversion.
#[derive(Default, Clone)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+`, `-` or a space.
    sign: Option<char>,
    is_alternate: bool,
    width: usize,
    /// `,` or `_`.
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    /// Adds the sign, groups and padding to the digits of a number.
    fn number(&self, is_negative: bool, prefix: &str, digits: &str) -> Result<String> {
        let sign = match (is_negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let mut body = digits.to_owned();
        if let Some(group) = self.group {
            let size = if prefix.is_empty() { 3 } else { 4 };
            body = grouped(digits, group, size);
            // Zeros that fill the width are grouped as well.
            let length = sign.len() + prefix.len() + body.chars().count();
            if self.fill == Some('0') && self.align == Some('=') && length < self.width {
                check_text(self.width)?;
                let n_digits = digits.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(digits.len());
                let n_groups = |n: usize| n.saturating_sub(1) / size;
                let with = |n: usize| length - n_groups(n_digits) + n + n_groups(n_digits + n);
                let fewest = (self.width - length).saturating_sub(1) / (size + 1) * size;
                let n_zeros = (fewest..=self.width).find(|&n| with(n) >= self.width).unwrap_or_default();
                body = grouped(&format!("{}{digits}", "0".repeat(n_zeros)), group, size);
            }
        }
        let length = sign.len() + prefix.len() + body.chars().count();
        if self.align == Some('=') && length < self.width {
            check_text(self.width)?;
            let fill = self.fill.unwrap_or(' ').to_string().repeat(self.width - length);
            return Ok(format!("{sign}{prefix}{fill}{body}"));
        }
        self.padded(&format!("{sign}{prefix}{body}"), '>')
    }

    fn padded(&self, text: &str, default: char) -> Result<String> {
        let length = text.chars().count();
        if length >= self.width {
            return Ok(text.to_owned());
        }
        check_text(self.width)?;
        let n = self.width - length;
        let left = match self.align.unwrap_or(default) {
            '<' => 0,
            '^' => n / 2,
            _ => n,
        };
        let fill = self.fill.unwrap_or(' ').to_string();
        Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(n - left)))
    }

    fn integer(&self, value: i128, kind: char) -> Result<String> {
        let size = value.unsigned_abs();
        let (prefix, digits) = match kind {
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0o", format!("{size:o}")),
            'b' => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        let digits = match self.precision {
            Some(precision) if digits.len() < precision => {
                check_text(precision)?;
                format!("{digits:0>precision$}")
            }
            _ => digits,
        };
        self.number(value < 0, if self.is_alternate { prefix } else { "" }, &digits)
    }

    fn float(&self, value: f64, kind: char) -> Result<String> {
        let precision = self.precision.unwrap_or(6).min(1000);
        let (size, is_negative) = (value.abs(), value.is_sign_negative() && !value.is_nan());
        let text = match kind.to_ascii_lowercase() {
            _ if !value.is_finite() => if value.is_nan() { "nan" } else { "inf" }.to_owned(),
            'f' => format!("{size:.precision$}"),
            '%' => format!("{:.precision$}%", size * 100.0),
            'e' => with_exponent(&format!("{size:.precision$e}")),
            _ => general(size, precision.max(1), self.is_alternate),
        };
        let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
        self.number(is_negative, "", &text)
    }
}

/// Rust's `1e5` as Python's `1e+05`.
fn with_exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g`: significant digits, with an exponent where it is shorter.
fn general(value: f64, precision: usize, keeps_zeros: bool) -> String {
    let text = format!("{value:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') && !keeps_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (digits, _) = text.split_once('e').unwrap_or((&text, ""));
        return with_exponent(&format!("{}e{exponent}", trimmed(digits)));
    }
    let places = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{value:.places$}"))
}

/// Separates groups of digits before the point.
fn grouped(digits: &str, group: char, size: usize) -> String {
    let end = digits.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(digits.len());
    let mut out = String::new();
    for (index, c) in digits[..end].chars().enumerate() {
        if index > 0 && (end - index) % size == 0 {
            out.push(group);
        }
        out.push(c);
    }
    out + &digits[end..]
}

/// The values of `%`: a tuple, a mapping for `%(name)s`, or one value.
struct Operands<'a> {
    values: &'a Value,
    next: usize,
}

impl Operands<'_> {
    fn take(&mut self) -> Result<Value> {
        let index = self.next;
        self.next += 1;
        let value = match self.values {
            Value::Tuple(values) => values.items.get(index),
            value => Some(value).filter(|_| index == 0),
        };
        value.cloned().map_or_else(|| error("not enough arguments for format string"), Ok)
    }

    fn is_used_up(&self) -> bool {
        match self.values {
            Value::Tuple(values) => self.next >= values.items.len(),
            Value::Dict(_) | Value::List(_) => true,
            _ => self.next > 0,
        }
    }
}

/// `text % values`.
pub(super) fn percent(text: &Text, values: &Value) -> Result<Text> {
    let (mut out, mut operands) = (Output::default(), Operands { values, next: 0 });
    let mut rest = &**text;
    while let Some(at) = rest.find('%') {
        out += &text.part(&rest[..at]);
        rest = &rest[at + 1..];
        rest = one_conversion(rest, &mut operands, &mut out)?;
        check_text(out.len())?;
    }
    out += &text.part(rest);
    if operands.is_used_up() {
        Ok(out.into_text())
    } else {
        error("not all arguments converted during string formatting")
    }
}

/// Converts after a `%` sign. Returns the text after the conversion.
fn one_conversion<'t>(text: &'t str, operands: &mut Operands<'_>, out: &mut Output) -> Result<&'t str> {
    let mut rest = text;
    let mut named = None;
    if let Some(after) = rest.strip_prefix('(') {
        let Some((name, after)) = after.split_once(')') else { return error("incomplete format key") };
        let Value::Dict(dict) = operands.values else { return error("format requires a mapping") };
        let Some(value) = dict.get(&Value::text(name)) else { return error(format!("KeyError: '{name}'")) };
        named = Some(value.clone());
        rest = after;
    }
    let mut spec = Spec { align: Some('>'), ..Spec::default() };
    while let Some(c) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
        match c {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' if spec.sign.is_none() => spec.sign = Some(' '),
            '0' if spec.align != Some('<') => (spec.align, spec.fill) = (Some('='), Some('0')),
            '#' => spec.is_alternate = true,
            _ => {}
        }
        rest = &rest[1..];
    }
    spec.width = size(&mut rest, operands)?.unwrap_or(0);
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(size(&mut rest, operands)?.unwrap_or(0));
    }
    rest = rest.trim_start_matches(['h', 'l', 'L']);
    let Some(kind) = rest.chars().next() else { return error("incomplete format") };
    rest = &rest[kind.len_utf8()..];
    if kind == '%' {
        out.push('%');
        return Ok(rest);
    }
    let value = match named {
        Some(value) => value,
        None => operands.take()?,
    };
    match kind {
        // Without a width or precision, every part of the text has its origin.
        's' if spec.width == 0 && spec.precision.is_none() => print::write_text(&value, out)?,
        _ => out.add(&converted(&spec, &value, kind)?, Origin::of([&value])),
    }
    Ok(rest)
}

/// A width or precision: digits, or `*` for an operand.
fn size(rest: &mut &str, operands: &mut Operands<'_>) -> Result<Option<usize>> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        return Ok(usize::try_from(operands.take()?.index()?).ok());
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    match digits.parse() {
        Ok(size) => Ok(Some(size)),
        Err(_) => error("width or precision of a format is too large"),
    }
}

fn converted(spec: &Spec, value: &Value, kind: char) -> Result<String> {
    match kind {
        's' | 'r' | 'a' => {
            let text = if kind == 's' { print::text(value)? } else { print::repr(value)? };
            if kind == 'a' && !text.is_ascii() {
                return error("%a of text that is not ASCII is not supported");
            }
            let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
            let align = if spec.align == Some('<') { '<' } else { '>' };
            Spec { align: Some(align), fill: None, ..spec.clone() }.padded(&text, '>')
        }
        'c' => match value.defined()? {
            value if value.as_text().is_some_and(|text| text.chars().count() == 1) => {
                spec.padded(&print::text(value)?, '>')
            }
            value => match value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32) {
                Some(c) => spec.padded(&c.to_string(), '>'),
                None => error("%c requires an int or a unicode character"),
            },
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match value.defined()? {
                Value::Float(value) if "diu".contains(kind) => number::truncated(*value)?,
                value => value.as_int(),
            };
            match number {
                Some(number) => spec.integer(number, kind),
                None => error(format!("%{kind} format: a real number is required, not {}", value.type_name())),
            }
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.defined()?.as_float() {
            Some(number) => spec.float(number, kind),
            None => error(format!("must be real number, not {}", value.type_name())),
        },
        _ => error(format!("unsupported format character '{kind}'")),
    }
}

/// `format(value, spec)`.
fn formatted(value: &Value, text: &str) -> Result<String> {
    let spec = parse_spec(text)?;
    let kind = spec.kind;
    match value {
        Value::Text(_) | Value::Markup(_) => {
            if !matches!(kind, None | Some('s')) || spec.sign.is_some() || spec.align == Some('=') {
                return error(format!("invalid format specifier '{text}' for a str"));
            }
            let text: String = print::text(value)?.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
            spec.padded(&text, '<')
        }
        Value::Float(number) => match kind {
            None if spec.precision.is_none() => {
                let is_negative = number.is_sign_negative();
                spec.number(is_negative, "", print::float(*number).trim_start_matches('-'))
            }
            None => {
                let text = general(number.abs(), spec.precision.unwrap_or(6).max(1), false);
                let text = if text.contains(['.', 'e', 'n']) { text } else { text + ".0" };
                spec.number(number.is_sign_negative(), "", &text)
            }
            Some(kind) if "eEfFgG%".contains(kind) => spec.float(*number, kind),
            Some(kind) => error(format!("Unknown format code '{kind}' for object of type 'float'")),
        },
        Value::Int(_) | Value::Bool(_) => {
            let number = value.as_int().unwrap_or(0);
            match kind {
                Some('c') => match u32::try_from(number).ok().and_then(char::from_u32) {
                    Some(c) => spec.padded(&c.to_string(), '<'),
                    None => error("%c arg not in range(0x110000)"),
                },
                None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X') => spec.integer(number, kind.unwrap_or('d')),
                Some(kind) if "eEfFgG%".contains(kind) => spec.float(number as f64, kind),
                Some(kind) => error(format!("Unknown format code '{kind}' for object of type 'int'")),
            }
        }
        _ => error(format!("unsupported format string passed to {}.__format__", value.defined()?.type_name())),
    }
}

fn parse_spec(text: &str) -> Result<Spec> {
    let invalid = || error(format!("Invalid format specifier '{text}'"));
    let mut spec = Spec::default();
    let chars: Vec<char> = text.chars().collect();
    let is_align = |index: usize| chars.get(index).is_some_and(|c| "<>=^".contains(*c));
    let mut at = 0;
    if is_align(1) {
        (spec.fill, spec.align, at) = (Some(chars[0]), Some(chars[1]), 2);
    } else if is_align(0) {
        (spec.align, at) = (Some(chars[0]), 1);
    }
    let mut rest: String = chars[at..].iter().collect();
    let mut take = |of: &str| {
        let found = rest.chars().next().filter(|c| of.contains(*c));
        if found.is_some() {
            rest.remove(0);
        }
        found
    };
    spec.sign = take("+- ");
    spec.is_alternate = take("#").is_some();
    if take("0").is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    let mut digits = String::new();
    while let Some(digit) = take("0123456789") {
        digits.push(digit);
    }
    spec.group = take(",_");
    if take(".").is_some() {
        let mut precision = String::new();
        while let Some(digit) = take("0123456789") {
            precision.push(digit);
        }
        match precision.parse() {
            Ok(precision) => spec.precision = Some(precision),
            Err(_) => return invalid(),
        }
    }
    spec.kind = take("bcdeEfFgGnosxX%");
    spec.width = match digits.parse() {
        Ok(width) => width,
        Err(_) if digits.is_empty() => 0,
        Err(_) => return invalid(),
    };
    if rest.is_empty() { Ok(spec) } else { invalid() }
}

/// `text.format(*values, **named)`.
pub(super) fn braces(
    interpreter: &Interpreter<'_>,
    text: &Text,
    values: &[Value],
    named: &[(Text, Value)],
) -> Result<Text> {
    let (mut out, mut fields) = (Output::default(), Fields { values, named, next: 0, has_positions: false });
    let mut rest = &**text;
    while let Some(at) = rest.find(['{', '}']) {
        out += &text.part(&rest[..at]);
        let brace = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        if rest.as_bytes().first() == Some(&brace) {
            out.push(char::from(brace));
            rest = &rest[1..];
            continue;
        }
        if brace == b'}' {
            return error("Single '}' encountered in format string");
        }
        let Some(end) = rest.find('}') else { return error("expected '}' before end of string") };
        let field = &rest[..end];
        if field.contains('{') {
            return error("fields inside of format specifiers are not supported");
        }
        rest = &rest[end + 1..];
        let (path, spec) = field.split_once(':').unwrap_or((field, ""));
        let (path, conversion) = path.split_once('!').map_or((path, None), |(path, kind)| (path, Some(kind)));
        let value = fields.value(interpreter, path)?;
        let value = match conversion {
            None => value,
            Some("s") => Value::Text(print::text(&value)?),
            Some("r") => Value::Text(print::repr(&value)?),
            Some(other) => return error(format!("Unknown conversion specifier '{other}'")),
        };
        match spec {
            "" => print::write_text(&value, &mut out)?,
            spec => out.add(&formatted(&value, spec)?, Origin::of([&value])),
        }
        check_text(out.len())?;
    }
    out += &text.part(rest);
    Ok(out.into_text())
}

/// The arguments of `format`.
struct Fields<'a> {
    values: &'a [Value],
    named: &'a [(Text, Value)],
    /// Number of fields without a position or name.
    next: usize,
    /// True after a field with a position.
    has_positions: bool,
}

impl Fields<'_> {
    /// The value of a field: a position or a name, then attributes and items.
    fn value(&mut self, interpreter: &Interpreter<'_>, path: &str) -> Result<Value> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (first, mut rest) = path.split_at(end);
        let position = if first.is_empty() { Some(self.next) } else { first.parse().ok() };
        self.next += usize::from(first.is_empty());
        self.has_positions |= position.is_some() && !first.is_empty();
        if self.has_positions && self.next > 0 {
            return error("cannot switch between manual and automatic field numbering");
        }
        let value = match position {
            Some(index) => self.values.get(index),
            None => self.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value),
        };
        let Some(value) = value else { return error(format!("format: found no argument for '{{{path}}}'")) };
        let mut value = value.clone();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = interpreter.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let Some((key, after)) = rest[1..].split_once(']') else {
                    return error("Missing ']' in format string");
                };
                let key = key.parse().map_or_else(|_| Value::text(key), Value::Int);
                value = interpreter.item(&value, &key)?;
                rest = after;
            }
        }
        Ok(value)
    }
}
