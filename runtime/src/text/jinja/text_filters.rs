//! Filters of text.

use super::arguments::{Arguments, optional_int, size_of, text_of};
use super::number::{self, Operator, is_space};
use super::print;
use super::strings;
use super::text::{Origin, Output, Text};
use super::value::{Result, Value, check_items, check_text, error};

/// `value | name(arguments)`; None if the filter is not one of text.
pub(super) fn apply(name: &str, value: &Value, arguments: Arguments) -> Option<Result<Value>> {
    let origin =
        || Origin::of(arguments.positional.iter().chain(arguments.named.iter().map(|(_, value)| value)).chain([value]));
    Some(match name {
        "capitalize" | "lower" | "title" | "upper" | "wordcount" | "striptags" | "e" | "escape" | "forceescape"
        | "urlencode" => {
            let origin = origin();
            plain(name, value, arguments).map(|made| made.made_of(origin))
        }
        "string" | "safe" => {
            let text = arguments.none(name).and_then(|()| print::text(value));
            text.map(|text| if name == "safe" { Value::Markup(text) } else { like(value, text) })
        }
        "trim" => trim(value, arguments),
        "replace" => replace(value, arguments),
        "format" => formatted(value, arguments),
        "indent" => indent(value, arguments),
        "center" | "truncate" => {
            let origin = origin();
            let made = if name == "center" { center(value, arguments) } else { truncate(value, arguments) };
            made.map(|made| made.made_of(origin))
        }
        "filesizeformat" => file_size(value, arguments),
        _ => return None,
    })
}

/// Text in the form of `value`: escaped if that is.
fn like(value: &Value, text: impl Into<Text>) -> Value {
    match value {
        Value::Markup(_) => Value::Markup(text.into()),
        _ => Value::Text(text.into()),
    }
}

/// Filters without arguments.
fn plain(name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none(name)?;
    if name == "urlencode" {
        return url_encode(value);
    }
    let text = print::text(value)?;
    Ok(match name {
        "capitalize" => like(value, strings::capitalize(&text)),
        "lower" => like(value, text.to_lowercase()),
        "upper" => like(value, text.to_uppercase()),
        "title" => like(value, title(&text)),
        "wordcount" => {
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            Value::Int(words.filter(|word| !word.is_empty()).count() as i128)
        }
        "striptags" => Value::text(strip_tags(&text)?),
        "e" | "escape" if matches!(value, Value::Markup(_)) => value.clone(),
        _ => {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let escaped = escaped.replace('\'', "&#39;").replace('"', "&#34;");
            check_text(escaped.len())?;
            Value::Markup(escaped.into())
        }
    })
}

/// Upper case after white space and `-([{<`, lower case elsewhere.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::new();
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

fn trim(value: &Value, arguments: Arguments) -> Result<Value> {
    let [characters] = arguments.bind("trim", ["chars"], 0)?;
    let text = print::text(value)?;
    Ok(like(value, text.part(strings::strip(&text, "strip", characters.as_ref())?)))
}

fn center(value: &Value, arguments: Arguments) -> Result<Value> {
    let [width] = arguments.bind("center", ["width"], 0)?;
    let width = width.as_ref().map_or(Ok(80), size_of)?;
    let text = print::text(value)?;
    let n = width.saturating_sub(text.chars().count());
    check_text(text.len().saturating_add(n))?;
    let left = n / 2 + (n & width & 1);
    Ok(like(value, format!("{}{}{}", " ".repeat(left), &*text, " ".repeat(n - left))))
}

fn replace(value: &Value, arguments: Arguments) -> Result<Value> {
    let [old, new, count] = arguments.bind("replace", ["old", "new", "count"], 2)?;
    let text = |value: Option<Value>| value.as_ref().map_or(Ok("".into()), print::text);
    strings::replace(&print::text(value)?, &text(old)?, &text(new)?, optional_int(&count)?)
}

fn formatted(value: &Value, arguments: Arguments) -> Result<Value> {
    let Arguments { positional, named } = arguments;
    if !positional.is_empty() && !named.is_empty() {
        return error("can't handle positional and keyword arguments at the same time");
    }
    let values = if named.is_empty() {
        Value::tuple(positional)?
    } else {
        Value::dict(named.into_iter().map(|(name, value)| (super::value::Key::named(&name), value)).collect())?
    };
    let text = if value.as_text().is_some() { value.clone() } else { Value::Text(print::text(value)?) };
    number::binary(Operator::Modulo, &text, &values)
}

fn indent(value: &Value, arguments: Arguments) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"], 0)?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indention = match &width {
        Some(width) if width.as_text().is_some() => print::text(width)?,
        Some(width) => {
            let width = size_of(width)?;
            check_text(width)?;
            " ".repeat(width).into()
        }
        None => "    ".into(),
    };
    text_of(value, "indent")?;
    let mut text = Output::default();
    print::write_text(value, &mut text)?;
    text.push('\n');
    let text = text.into_text();
    let lines = strings::split_lines(&text, strings::Ends::Dropped);
    check_items(lines.len())?;
    check_text(text.len().saturating_add(lines.len().saturating_mul(indention.len())))?;
    let blank = is_true(blank);
    let mut out = Output::default();
    if is_true(first) {
        out += &indention;
    }
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out += &indention;
            }
        }
        out += &text.part(line);
    }
    Ok(like(value, out.into_text()))
}

fn truncate(value: &Value, arguments: Arguments) -> Result<Value> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, kill_words, end, leeway] = arguments.bind("truncate", names, 0)?;
    let size = |value: &Option<Value>, default: usize| value.as_ref().map_or(Ok(default), size_of);
    let length = size(&length, 255)?;
    let leeway = if matches!(leeway, Some(Value::None)) { 5 } else { size(&leeway, 5)? };
    let end = end.as_ref().map_or(Ok("..."), |end| text_of(end, "truncate"))?;
    let n_end = end.chars().count();
    if length < n_end {
        return error(format!("expected length >= {n_end}, got {length}"));
    }
    if value.is_undefined() {
        return Ok(value.clone());
    }
    let text = text_of(value, "truncate")?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let cut: String = text.chars().take(length - n_end).collect();
    let kept = match cut.rsplit_once(' ') {
        Some((words, _)) if !kill_words.is_some_and(|kill| kill.is_true()) => words,
        _ => &cut,
    };
    Ok(like(value, format!("{kept}{end}")))
}

fn file_size(value: &Value, arguments: Arguments) -> Result<Value> {
    let [binary] = arguments.bind("filesizeformat", ["binary"], 0)?;
    let is_binary = binary.is_some_and(|binary| binary.is_true());
    let Some(bytes) = number::to_float(value.defined()?) else {
        return error(format!("filesizeformat: found {}, expected a number", value.type_name()));
    };
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::text("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::text(format!("{} Bytes", number::truncated(bytes)?.unwrap_or(0))));
    }
    let prefixes = if is_binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    let unit = |index: usize| base.powi(index as i32 + 2);
    let index = (0..prefixes.len()).find(|&index| bytes < unit(index)).unwrap_or(prefixes.len() - 1);
    Ok(Value::text(format!("{:.1} {}", base * bytes / unit(index), prefixes[index])))
}

/// Removes comments and tags, replaces entities, and joins words by single spaces.
fn strip_tags(text: &str) -> Result<String> {
    let text = without(&without(text, "<!--", "-->"), "<", ">");
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    unescape(&words.join(" "))
}

/// Removes what is between `begin` and `end`, and these, until there is none. Removing one can bring the halves of another `begin` together.
fn without(text: &str, begin: &str, end: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let last = begin.chars().next_back().unwrap_or_default();
    while let Some(at) = rest.find(last) {
        let (before, after) = rest.split_at(at + last.len_utf8());
        out += before;
        rest = after;
        if !out.ends_with(begin) {
            continue;
        }
        // `end` may share characters with `begin`, as in `<!-->`.
        let shared = (1..begin.len().min(end.len())).rev();
        let shared = shared.filter(|&n| begin.ends_with(&end[..n])).find(|&n| rest.starts_with(&end[n..]));
        let Some(skipped) = shared.map(|n| end.len() - n).or_else(|| Some(rest.find(end)? + end.len())) else { break };
        out.truncate(out.len() - begin.len());
        rest = &rest[skipped..];
    }
    out + rest
}

fn unescape(text: &str) -> Result<String> {
    let named = [("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"), ("nbsp", "\u{a0}")];
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out += &rest[..at];
        rest = &rest[at..];
        let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '#').map(|end| 1 + end);
        let Some(end) = end.filter(|&end| end > 1 && rest[end..].starts_with(';')) else {
            out.push('&');
            rest = &rest[1..];
            continue;
        };
        let name = &rest[1..end];
        let code = name.strip_prefix('#').and_then(|code| match code.strip_prefix(['x', 'X']) {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
            None => code.parse().ok(),
        });
        match (named.iter().find(|(known, _)| *known == name), code.and_then(char::from_u32)) {
            (Some((_, character)), _) => out += character,
            (None, Some(character)) => out.push(character),
            (None, None) => return error(format!("striptags: the entity &{name}; is not supported")),
        }
        rest = &rest[end + 1..];
    }
    Ok(out + rest)
}

fn url_encode(value: &Value) -> Result<Value> {
    let pairs = match value {
        Value::Dict(dict) => super::filters::entries(dict)?,
        Value::List(_) | Value::Tuple(_) | Value::View(_) | Value::Iterator(_) | Value::Range(_) => value.items()?,
        value => return Ok(Value::text(quoted(&print::text(value)?, Part::Path))),
    };
    let mut out = String::new();
    for (index, pair) in pairs.iter().enumerate() {
        let [key, value] = &pair.items()?[..] else { return error("urlencode: expected pairs of keys and values") };
        out += if index > 0 { "&" } else { "" };
        out += &format!("{}={}", quoted(&print::text(key)?, Part::Query), quoted(&print::text(value)?, Part::Query));
        check_text(out.len())?;
    }
    Ok(Value::text(out))
}

/// The part of a URL.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Query,
}

/// `urllib.parse.quote`; in a query, spaces are `+` and slashes are quoted.
fn quoted(text: &str, part: Part) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if part == Part::Path => out.push('/'),
            b' ' if part == Part::Query => out.push('+'),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}
