//! Functions of templates.

use std::fmt::Write;
use std::rc::Rc;

use chrono::NaiveDateTime;
use indexmap::IndexMap;

use super::arguments::{Arguments, text_of};
use super::eval::Interpreter;
use super::methods;
use super::print;
use super::text::Origin;
use super::value::{Callable, Key, Namespace, Range, Result, Value, error};

const NAMES: [&str; 8] =
    ["cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"];

/// Longest range that Jinja2's sandbox allows.
const MAX_RANGE: usize = 100_000;

/// Functions without a fixed result.
const REFUSED: &str = "lipsum";

/// True if this interpreter has the function.
pub(super) fn has(name: &str) -> bool {
    NAMES.contains(&name) && name != REFUSED
}

/// The function with this name.
pub(super) fn find(name: &str) -> Option<Value> {
    NAMES.iter().find(|known| **known == name).map(|known| Value::Callable(Rc::new(Callable::Function(known))))
}

/// Calls a function.
pub(super) fn call(interpreter: &Interpreter<'_>, name: &str, arguments: Arguments) -> Result<Value> {
    match name {
        "range" => range(arguments),
        "dict" => Value::dict(entries(name, arguments)?),
        "namespace" => {
            let mut attributes = IndexMap::new();
            for (key, value) in entries(name, arguments)? {
                text_of(key.value(), name)?;
                attributes.insert(key, value);
            }
            Ok(interpreter.keep(Rc::new(Namespace::new(attributes)?)))
        }
        "cycler" => {
            if arguments.positional.is_empty() {
                return error("at least one item has to be provided");
            }
            Value::cycler(arguments.positional)
        }
        "joiner" => {
            let [separator] = arguments.bind(name, ["sep"], 0)?;
            let separator = separator.unwrap_or(Value::text(", "));
            text_of(&separator, name)?;
            Ok(methods::joiner(print::text(&separator)?))
        }
        "raise_exception" => error(&*print::text(&arguments.one(name)?)?),
        "strftime_now" => {
            let format = arguments.one(name)?;
            let time = strftime(interpreter.now(), text_of(&format, name)?)?;
            Ok(Value::text(time).made_of(Origin::of([&format])))
        }
        _ => error(format!("the function {name} is not supported in chat templates")),
    }
}

fn range(arguments: Arguments) -> Result<Value> {
    let numbers: Vec<i128> = arguments.positional.iter().map(Value::index).collect::<Result<_>>()?;
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return error(format!("range expected 1 to 3 arguments, got {}", numbers.len())),
    };
    if step == 0 {
        return error("range() arg 3 must not be zero");
    }
    if [start, stop, step].iter().any(|number| number.unsigned_abs() > 1 << 64) {
        return error("range() of integers beyond 64 bits is not supported");
    }
    let range = Range { start, stop, step };
    if range.len() > MAX_RANGE {
        return error(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
    }
    Ok(Value::Range(range))
}

/// `dict(mapping or pairs, **named)`.
fn entries(name: &str, arguments: Arguments) -> Result<IndexMap<Key, Value>> {
    let mut entries = IndexMap::new();
    match &arguments.positional[..] {
        [] => {}
        [Value::Dict(dict)] => entries = dict.entries.clone(),
        [pairs] => {
            for pair in pairs.items()? {
                let [key, value] = &pair.items()?[..] else {
                    return error(format!("{name}: expected pairs of keys and values"));
                };
                entries.insert(Key::new(key)?, value.clone());
            }
        }
        more => return error(format!("{name} expected at most 1 argument, got {}", more.len())),
    }
    entries.extend(arguments.named.into_iter().map(|(name, value)| (Key::named(&name), value)));
    Ok(entries)
}

/// `now.strftime(format)` of a time without a zone, as glibc formats it in the C locale.
pub(super) fn strftime(now: NaiveDateTime, format: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        let flag = rest.chars().next().filter(|c| "-_0".contains(*c));
        rest = &rest[flag.map_or(0, char::len_utf8)..];
        let Some(kind) = rest.chars().next() else { return error("strftime_now: the format ends after %") };
        rest = &rest[kind.len_utf8()..];
        let directive: String = flag.into_iter().chain([kind]).collect();
        match kind {
            '%' => out.push('%'),
            'z' | 'Z' => {}
            'f' => out += &format!("{:06}", now.and_utc().timestamp_subsec_micros()),
            'a' | 'A' | 'b' | 'B' | 'c' | 'C' | 'd' | 'D' | 'e' | 'F' | 'g' | 'G' | 'h' | 'H' | 'I' | 'j' | 'k'
            | 'l' | 'm' | 'M' | 'n' | 'p' | 'P' | 'r' | 'R' | 'S' | 't' | 'T' | 'u' | 'U' | 'V' | 'w' | 'W' | 'x'
            | 'X' | 'y' | 'Y' => {
                let written = write!(out, "{}", now.format(&format!("%{directive}")));
                if written.is_err() {
                    return error(format!("strftime_now: %{directive} is not supported"));
                }
            }
            _ => return error(format!("strftime_now: %{directive} is not supported")),
        }
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    #[test]
    fn times_are_formatted_as_python_formats_them() {
        let now = NaiveDate::from_ymd_opt(2026, 3, 5).and_then(|day| day.and_hms_micro_opt(9, 7, 3, 42)).unwrap();
        let table = [
            ("%d %b %Y", "05 Mar 2026"),
            ("%Y-%m-%d %H:%M:%S.%f", "2026-03-05 09:07:03.000042"),
            ("%A, %B %-d, %-I:%M %p", "Thursday, March 5, 9:07 AM"),
            ("%a %e|%j|%U|%w|%y|%%|%Z|%z|", "Thu  5|064|09|4|26|%|||"),
            ("%c|%x|%X|%D|%F|%T|%R", "Thu Mar  5 09:07:03 2026|03/05/26|09:07:03|03/05/26|2026-03-05|09:07:03|09:07"),
            ("plain", "plain"),
        ];
        for (format, expected) in table {
            assert_eq!(strftime(now, format).unwrap(), expected, "{format}");
        }
        assert!(strftime(now, "%!").is_err() && strftime(now, "%").is_err());
    }
}
