//! Python's formatting of values, which templates rely on.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

/// Formats a printed value: `str(value)`.
pub(super) fn format(out: &mut Output<'_>, _state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    out.write_str(&text(value)?).map_err(Error::from)
}

/// `str(value)`; empty for undefined values.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Ok(String::new()),
        (_, Some(text)) => Ok(text.to_owned()),
        _ => {
            let mut out = String::new();
            Writer { style: &Style::REPR, out: &mut out }.write(value, 0)?;
            Ok(out)
        }
    }
}

/// `json.dumps(value)` with the options of transformers' `tojson` filter: `ensure_ascii` (default false), `indent`,
/// `separators`, `sort_keys`.
pub(super) fn to_json(value: Value, positional: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let given = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => options.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ascii = is_true(given(0, "ensure_ascii")?);
    let indent = match given(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(80)),
        }),
    };
    let (item, key) = match given(2, "separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => (text(&pair.get_item_by_index(0)?)?, text(&pair.get_item_by_index(1)?)?),
    };
    let sort_keys = is_true(given(3, "sort_keys")?);
    options.assert_all_used()?;
    let mut out = String::new();
    let quote = if ascii { quote_ascii } else { quote_json };
    let style = Style { quote, indent, item, key, sort_keys, ..Style::JSON };
    Writer { style: &style, out: &mut out }.write(&value, 0)?;
    Ok(out)
}

/// `datetime.now().strftime(format)`.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: invalid format {format:?}")))?;
    Ok(text)
}

/// A format of values.
struct Style {
    none: &'static str,
    bools: [&'static str; 2],
    quote: fn(&str, &mut String),
    /// One level of indentation, if every item is on its own line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    is_json: bool,
}

impl Style {
    const JSON: Style = Style {
        none: "null",
        bools: ["false", "true"],
        quote: quote_json,
        indent: None,
        item: String::new(),
        key: String::new(),
        sort_keys: false,
        is_json: true,
    };
    const REPR: Style = Style {
        none: "None",
        bools: ["False", "True"],
        quote: quote_repr,
        indent: None,
        item: String::new(),
        key: String::new(),
        sort_keys: false,
        is_json: false,
    };
}

struct Writer<'a> {
    style: &'a Style,
    out: &'a mut String,
}

impl Writer<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => *self.out += self.style.none,
            ValueKind::Bool => *self.out += self.style.bools[usize::from(value.is_true())],
            ValueKind::Number if value.is_integer() => *self.out += &value.to_string(),
            ValueKind::Number => *self.out += &float(f64::try_from(value.clone())?, self.style.is_json),
            ValueKind::String => (self.style.quote)(value.as_str().unwrap_or_default(), self.out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.items(['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((Some(key.clone()), value.get_item(&key)?));
                }
                if self.style.sort_keys {
                    items.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.items(['{', '}'], items, depth)?;
            }
            ValueKind::Undefined if !self.style.is_json => *self.out += "Undefined",
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("values of kind {kind} have no JSON form"),
                ));
            }
        }
        Ok(())
    }

    fn items(&mut self, brackets: [char; 2], items: Vec<(Option<Value>, Value)>, depth: usize) -> Result<(), Error> {
        self.out.push(brackets[0]);
        let is_empty = items.is_empty();
        for (index, (key, value)) in items.into_iter().enumerate() {
            if index > 0 {
                *self.out += if self.style.is_json { &self.style.item } else { ", " };
            }
            self.line(depth + 1);
            if let Some(key) = key {
                match key.as_str() {
                    Some(text) => (self.style.quote)(text, self.out),
                    None if self.style.is_json => {
                        self.out.push('"');
                        self.write(&key, depth)?;
                        self.out.push('"');
                    }
                    None => self.write(&key, depth)?,
                }
                *self.out += if self.style.is_json { &self.style.key } else { ": " };
            }
            self.write(&value, depth + 1)?;
        }
        if !is_empty {
            self.line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    /// Starts a new line, if every item is on its own line.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            *self.out += &indent.repeat(depth);
        }
    }
}

/// `repr` of a float: the shortest digits that round-trip, with an exponent outside 10⁻⁴ … 10¹⁶.
fn float(value: f64, is_json: bool) -> String {
    if !value.is_finite() {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        return if is_json { name.to_owned() } else { name.to_lowercase().replace("infinity", "inf") };
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

fn quote_json(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => *out += "\\\"",
            '\\' => *out += "\\\\",
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            '\u{8}' => *out += "\\b",
            '\u{c}' => *out += "\\f",
            c if c < ' ' => *out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn quote_ascii(text: &str, out: &mut String) {
    let mut quoted = String::new();
    quote_json(text, &mut quoted);
    for c in quoted.chars() {
        match c {
            ' '..='~' => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| *out += &format!("\\u{unit:04x}")),
        }
    }
}

fn quote_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => *out += "\\\\",
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || ('\u{7f}'..'\u{a0}').contains(&c) => *out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_as_python_spells_them() {
        let floats = [1.0, 0.1, 1e16, 1.5e-7, 123_456_789_012_345_680.0, 0.0001, 1e15, -2.5];
        let texts = floats.map(|value| float(value, true));
        assert_eq!(
            texts,
            ["1.0", "0.1", "1e+16", "1.5e-07", "1.2345678901234568e+17", "0.0001", "1000000000000000.0", "-2.5"]
        );
        assert_eq!([float(f64::NAN, true), float(f64::NEG_INFINITY, false)], ["NaN", "-inf"]);
    }

    #[test]
    fn times_are_told_and_bad_formats_refused() {
        let text = strftime_now("%d %b %Y, 100%%").unwrap();
        assert!(text.ends_with(", 100%") && text.split(' ').count() == 4, "{text}");
        assert!(chrono::NaiveDate::parse_from_str(&text, "%d %b %Y, 100%%").is_ok(), "{text}");
        assert!(strftime_now("%!").is_err());
    }
}
