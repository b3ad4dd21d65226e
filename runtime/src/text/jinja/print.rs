//! Values as text: `str`, `repr` and `json.dumps`.

use super::compare;
use super::text::{Output, Text};
use super::value::{Callable, Key, Result, Value, check_text, error};

/// `str(value)`.
pub(super) fn text(value: &Value) -> Result<Text> {
    if let Value::Text(text) | Value::Markup(text) = value {
        return Ok(text.clone());
    }
    let mut out = Output::default();
    write_text(value, &mut out)?;
    Ok(out.into_text())
}

/// Appends `str(value)`.
pub(super) fn write_text(value: &Value, out: &mut Output) -> Result<()> {
    match value {
        Value::Undefined(_) => {}
        Value::Text(text) | Value::Markup(text) => *out += text,
        value => write_repr(value, out)?,
    }
    check_text(out.len())
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<Text> {
    let mut out = Output::default();
    write_repr(value, &mut out)?;
    Ok(out.into_text())
}

fn write_repr(value: &Value, out: &mut Output) -> Result<()> {
    match value {
        Value::Undefined(_) => *out += "Undefined",
        Value::None => *out += "None",
        Value::Bool(value) => *out += if *value { "True" } else { "False" },
        Value::Int(value) => *out += value.to_string().as_str(),
        Value::Float(value) => *out += float(*value).as_str(),
        Value::Text(text) => quote_repr(text, out),
        Value::Markup(text) => {
            *out += "Markup(";
            quote_repr(text, out);
            out.push(')');
        }
        Value::List(sequence) => write_items("[", &sequence.items, "]", out)?,
        Value::Tuple(sequence) => {
            let end = if sequence.items.len() == 1 { ",)" } else { ")" };
            write_items("(", &sequence.items, end, out)?;
        }
        Value::Dict(dict) => write_entries(dict.entries.iter().map(|(key, value)| (key.value(), value)), out)?,
        Value::Range(range) => {
            *out += format!("range({}, {}", range.start, range.stop).as_str();
            *out += (if range.step == 1 { ")".to_owned() } else { format!(", {})", range.step) }).as_str();
        }
        Value::View(view) => write_items(&format!("{}([", view.name), &view.items, "])", out)?,
        Value::Namespace(namespace) => {
            *out += "<Namespace ";
            let attributes = namespace.attributes.borrow();
            write_entries(attributes.iter().map(|(name, value)| (name.value(), value)), out)?;
            out.push('>');
        }
        Value::Loop(state) => {
            *out += format!("<LoopContext {}/{}>", state.index0.get() + 1, state.length()).as_str();
        }
        Value::Callable(callable) if matches!(**callable, Callable::Macro(_)) => {
            if let Callable::Macro(definition) = &**callable {
                *out += "<Macro ";
                quote_repr(&Text::from(&*definition.name), out);
                out.push('>');
            }
        }
        Value::Iterator(_) | Value::Cycler(_) | Value::Callable(_) => {
            return error(format!("the text of a {} is an address in Python: print its values", value.type_name()));
        }
    }
    check_text(out.len())
}

fn write_items(begin: &str, items: &[Value], end: &str, out: &mut Output) -> Result<()> {
    *out += begin;
    for (index, item) in items.iter().enumerate() {
        *out += if index > 0 { ", " } else { "" };
        write_repr(item, out)?;
    }
    *out += end;
    Ok(())
}

fn write_entries<'a>(entries: impl Iterator<Item = (&'a Value, &'a Value)>, out: &mut Output) -> Result<()> {
    out.push('{');
    for (index, (key, value)) in entries.enumerate() {
        *out += if index > 0 { ", " } else { "" };
        write_repr(key, out)?;
        *out += ": ";
        write_repr(value, out)?;
    }
    out.push('}');
    Ok(())
}

/// `repr` of a float: the shortest digits that round-trip, with an exponent outside 10⁻⁴ … 10¹⁶.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
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

/// True unless `repr` escapes the character.
fn is_printable(c: char) -> bool {
    // The standard library escapes the same categories, except that it escapes quotes as well.
    let mut pair = String::from("a");
    pair.push(c);
    c == '"' || c == '\'' || pair.escape_debug().eq(pair.chars())
}

fn quote_repr(text: &Text, out: &mut Output) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for (part, origin) in text.parts() {
        let begin = out.len();
        escape_repr(part, quote, out);
        out.mark_from(begin, origin);
    }
    out.push(quote);
}

fn escape_repr(text: &str, quote: char, out: &mut Output) {
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '\\' => *out += "\\\\",
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            _ if code < 0x100 => *out += format!("\\x{code:02x}").as_str(),
            _ if code < 0x10000 => *out += format!("\\u{code:04x}").as_str(),
            _ => *out += format!("\\U{code:08x}").as_str(),
        }
    }
}

/// The options of `json.dumps`.
pub(super) struct Json {
    pub(super) is_ascii: bool,
    /// One level of indentation, if every item is on its own line.
    pub(super) indent: Option<Text>,
    pub(super) item_separator: Text,
    pub(super) key_separator: Text,
    pub(super) has_sorted_keys: bool,
}

impl Json {
    /// `json.dumps(value)`.
    pub(super) fn write(&self, value: &Value, depth: usize, out: &mut Output) -> Result<()> {
        match value {
            Value::None => *out += "null",
            Value::Bool(value) => *out += if *value { "true" } else { "false" },
            Value::Int(value) => *out += value.to_string().as_str(),
            Value::Float(value) => *out += json_float(*value).as_str(),
            Value::Text(text) | Value::Markup(text) => self.quote(text, out),
            Value::List(sequence) | Value::Tuple(sequence) => {
                self.block(['[', ']'], sequence.items.len(), depth, out, |index, out| {
                    self.write(&sequence.items[index], depth + 1, out)
                })?;
            }
            Value::Dict(dict) => {
                let mut entries: Vec<(&Key, &Value)> = dict.entries.iter().collect();
                if self.has_sorted_keys {
                    let keys = dict.entries.keys().enumerate();
                    let keys = keys.map(|(index, key)| (key.value().clone(), Value::Int(index as i128))).collect();
                    let order = compare::sorted(keys, compare::Direction::Ascending)?;
                    let order = order.iter().filter_map(Value::as_int);
                    entries = order.filter_map(|index| dict.entries.get_index(index as usize)).collect();
                }
                self.block(['{', '}'], entries.len(), depth, out, |index, out| {
                    let (key, value) = entries[index];
                    self.quote(&json_key(key.value())?, out);
                    *out += &self.key_separator;
                    self.write(value, depth + 1, out)
                })?;
            }
            _ => return error(format!("Object of type {} is not JSON serializable", value.type_name())),
        }
        check_text(out.len())
    }

    fn block(
        &self,
        brackets: [char; 2],
        n: usize,
        depth: usize,
        out: &mut Output,
        mut item: impl FnMut(usize, &mut Output) -> Result<()>,
    ) -> Result<()> {
        out.push(brackets[0]);
        for index in 0..n {
            if index > 0 {
                *out += &self.item_separator;
            }
            self.line(depth + 1, out);
            item(index, out)?;
        }
        if n > 0 {
            self.line(depth, out);
        }
        out.push(brackets[1]);
        Ok(())
    }

    /// Starts a new line, if every item is on its own line.
    fn line(&self, depth: usize, out: &mut Output) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| *out += indent);
        }
    }

    fn quote(&self, text: &Text, out: &mut Output) {
        out.push('"');
        for (part, origin) in text.parts() {
            let begin = out.len();
            self.escape(part, out);
            out.mark_from(begin, origin);
        }
        out.push('"');
    }

    fn escape(&self, text: &str, out: &mut Output) {
        for c in text.chars() {
            match c {
                '"' => *out += "\\\"",
                '\\' => *out += "\\\\",
                '\n' => *out += "\\n",
                '\r' => *out += "\\r",
                '\t' => *out += "\\t",
                '\u{8}' => *out += "\\b",
                '\u{c}' => *out += "\\f",
                c if c < ' ' => *out += format!("\\u{:04x}", u32::from(c)).as_str(),
                ' '..='~' => out.push(c),
                c if self.is_ascii => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                        *out += format!("\\u{unit:04x}").as_str();
                    });
                }
                c => out.push(c),
            }
        }
    }
}

fn json_float(value: f64) -> String {
    match float(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    }
}

fn json_key(key: &Value) -> Result<Text> {
    match key {
        Value::Text(text) | Value::Markup(text) => Ok(text.clone()),
        Value::None => Ok("null".into()),
        Value::Bool(value) => Ok(value.to_string().into()),
        Value::Int(value) => Ok(value.to_string().into()),
        Value::Float(value) => Ok(json_float(*value).into()),
        _ => error(format!("keys must be str, int, float, bool or None, not {}", key.type_name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_as_python_spells_them() {
        let floats = [1.0, 0.1, 1e16, 1.5e-7, 123_456_789_012_345_680.0, 0.0001, 1e15, -2.5];
        let texts = floats.map(float);
        assert_eq!(
            texts,
            ["1.0", "0.1", "1e+16", "1.5e-07", "1.2345678901234568e+17", "0.0001", "1000000000000000.0", "-2.5"]
        );
        assert_eq!([json_float(f64::NAN), float(f64::NEG_INFINITY)], ["NaN", "-inf"]);
    }
}
