//! Python's methods of strings.

use std::collections::HashSet;

use super::arguments::{Arguments, optional_int, size_of, text_of};
use super::budget;
use super::eval::Interpreter;
use super::format;
use super::number::is_space;
use super::print;
use super::text::{Origin, Output, Text};
use super::value::{MAX_ITEMS, Result, Value, check_items, check_text, error};

/// The names of the methods.
pub(super) const METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Calls a method of a string.
pub(super) fn call(interpreter: &Interpreter<'_>, text: &Text, name: &str, arguments: Arguments) -> Result<Value> {
    let given = arguments.positional.iter().chain(arguments.named.iter().map(|(_, value)| value));
    let origin = if text.outside().is_empty() { Origin::of(given) } else { Origin::Outside };
    if let Some(answer) = property(text, name) {
        arguments.none(name)?;
        return Ok(Value::Bool(answer));
    }
    if let Some(changed) = changed_case(text, name) {
        arguments.none(name)?;
        return Ok(Value::text(changed).made_of(origin));
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments.bind(name, ["chars"], 0)?;
            Ok(Value::Text(text.part(strip(text, name, characters.as_ref())?)))
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"], 0)?;
            let limit = optional_int(&limit)?.and_then(|limit| usize::try_from(limit).ok());
            let side = if name == "rsplit" { Side::End } else { Side::Start };
            let parts = match separator {
                None | Some(Value::None) => split_spaces(text, limit, side),
                Some(separator) => split(text, text_of(&separator, name)?, limit, side)?,
            };
            check_items(parts.len())?;
            Value::list(parts.into_iter().map(|part| Value::Text(text.part(part))).collect())
        }
        "splitlines" => {
            let [keeps] = arguments.bind(name, ["keepends"], 0)?;
            let ends = if keeps.is_some_and(|keeps| keeps.is_true()) { Ends::Kept } else { Ends::Dropped };
            let lines = split_lines(text, ends);
            check_items(lines.len())?;
            Value::list(lines.into_iter().map(|line| Value::Text(text.part(line))).collect())
        }
        "partition" | "rpartition" => partition(text, name, &arguments.one(name)?),
        "join" => {
            let mut out = Output::default();
            for (index, item) in arguments.one(name)?.items()?.iter().enumerate() {
                let (Value::Text(part) | Value::Markup(part)) = item else {
                    let found = item.type_name();
                    return error(format!("sequence item {index}: expected str instance, {found} found"));
                };
                if index > 0 {
                    out += text;
                }
                out += part;
                check_text(out.len())?;
            }
            Ok(Value::Text(out.into_text()))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
            text_of(&new, name)?;
            replace(text, text_of(&old, name)?, &print::text(&new)?, optional_int(&count)?)
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments),
        "removeprefix" | "removesuffix" => {
            let part = arguments.one(name)?;
            let part = text_of(&part, name)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::Text(rest.map_or_else(|| text.clone(), |rest| text.part(rest))))
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(text, name, arguments).map(|made| made.made_of(origin)),
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"], 0)?;
            expand_tabs(text, size.as_ref().map_or(Ok(8), size_of)?).map(|made| made.made_of(origin))
        }
        "format" => format::braces(interpreter, text, &arguments.positional, &arguments.named).map(Value::Text),
        "format_map" => {
            let mapping = arguments.one(name)?;
            let Value::Dict(dict) = &mapping else { return error("format_map() argument must be a mapping") };
            let named = dict.entries.iter().map(|(key, value)| Ok((print::text(key.value())?, value.clone())));
            format::braces(interpreter, text, &[], &named.collect::<Result<Vec<_>>>()?).map(Value::Text)
        }
        _ => error(format!("the method {name} of strings is not supported in chat templates")),
    }
}

/// Ideographs that are numbers.
const IDEOGRAPHS: &str = "〇一二三四五六七八九十百千万亿億兆零壱弐参壹贰叁肆伍陆柒捌玖拾";

/// The value of `isalpha` and its kin.
fn property(text: &str, name: &str) -> Option<bool> {
    let all = |accepts: fn(char) -> bool| !text.is_empty() && text.chars().all(accepts);
    Some(match name {
        "isalnum" => all(|c| c.is_alphanumeric() || IDEOGRAPHS.contains(c)),
        "isalpha" => all(|c| c.is_alphabetic() && !c.is_numeric()),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(|c| c.is_ascii_digit() || c.is_numeric() && c.to_digit(10).is_none() && is_decimal(c)),
        "isdigit" => all(|c| is_decimal(c) || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)),
        "isnumeric" => all(|c| c.is_numeric() || IDEOGRAPHS.contains(c)),
        "isspace" => all(is_space),
        "islower" => has_case(text, char::is_lowercase),
        "isupper" => has_case(text, char::is_uppercase),
        "istitle" => is_title(text),
        "isidentifier" => {
            text.starts_with(|c: char| c == '_' || c.is_alphabetic()) && all(|c| c == '_' || c.is_alphanumeric())
        }
        "isprintable" => print::repr(&Value::text(text)).is_ok_and(|quoted| quoted.len() == text.len() + 2),
        _ => return None,
    })
}

fn is_decimal(c: char) -> bool {
    c.is_ascii_digit()
        || c.is_numeric() && matches!(u32::from(c), 0x660..=0x669 | 0x6f0..=0x6f9 | 0x966..=0x96f | 0xff10..=0xff19)
}

/// True if there are cased characters, all of this case.
fn has_case(text: &str, is_case: fn(char) -> bool) -> bool {
    let mut cased = text.chars().filter(|c| c.is_lowercase() || c.is_uppercase()).peekable();
    cased.peek().is_some() && cased.all(is_case)
}

fn is_title(text: &str) -> bool {
    let (mut follows, mut found) = (false, false);
    for c in text.chars() {
        let is_cased = c.is_lowercase() || c.is_uppercase();
        if is_cased && c.is_uppercase() == follows {
            return false;
        }
        found |= is_cased;
        follows = is_cased;
    }
    found
}

fn changed_case(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => text.chars().map(fold).collect(),
        "capitalize" => capitalize(text),
        "swapcase" => text
            .chars()
            .map(|c| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() })
            .collect(),
        "title" => title(text),
        _ => return None,
    })
}

/// Case folding of a character: the lower case of its upper case, with few exceptions.
fn fold(c: char) -> String {
    match c {
        'ı' => c.to_string(),
        'ẞ' => "ss".to_owned(),
        // Cherokee folds to upper case.
        '\u{ab70}'..='\u{abbf}' | '\u{13f8}'..='\u{13fd}' => c.to_uppercase().to_string(),
        '\u{13a0}'..='\u{13f5}' => c.to_string(),
        'İ' => c.to_lowercase().to_string(),
        c => c.to_uppercase().flat_map(char::to_lowercase).collect(),
    }
}

/// The first character in title case.
fn title_case(c: char) -> String {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".to_owned(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".to_owned(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".to_owned(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".to_owned(),
        'ŉ' => "ʼN".to_owned(),
        c => {
            let mut upper = c.to_uppercase();
            let first: String = upper.next().into_iter().collect();
            first + &upper.flat_map(char::to_lowercase).collect::<String>()
        }
    }
}

/// `text.capitalize()`.
pub(super) fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| title_case(first) + &rest.as_str().to_lowercase())
}

fn title(text: &str) -> String {
    let mut follows = false;
    let mut out = String::new();
    for c in text.chars() {
        out += &if follows { c.to_lowercase().to_string() } else { title_case(c) };
        follows = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// `text.strip(characters)`, or one side of it.
pub(super) fn strip<'t>(text: &'t str, name: &str, characters: Option<&Value>) -> Result<&'t str> {
    let characters = match characters {
        None | Some(Value::None) => None,
        Some(characters) => Some(text_of(characters, name)?),
    };
    let characters: Option<HashSet<char>> = characters.map(|characters| characters.chars().collect());
    let is_removed = |c: char| characters.as_ref().map_or_else(|| is_space(c), |characters| characters.contains(&c));
    Ok(match name {
        "lstrip" => text.trim_start_matches(is_removed),
        "rstrip" => text.trim_end_matches(is_removed),
        _ => text.trim_matches(is_removed),
    })
}

/// More parts than a list may have: they are refused, and no more are looked for.
const TOO_MANY: usize = MAX_ITEMS + 1;

/// The side from which a text is split.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Start,
    End,
}

/// `text.split()`: the words, at most `limit` + 1 parts.
fn split_spaces(text: &str, limit: Option<usize>, side: Side) -> Vec<&str> {
    let is_all = limit.is_none();
    let limit = limit.unwrap_or(usize::MAX).min(TOO_MANY);
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    if side == Side::End {
        rest = text.trim_end_matches(is_space);
        while let Some((at, c)) = rest.char_indices().rev().find(|(_, c)| is_space(*c)).filter(|_| parts.len() < limit)
        {
            parts.push(&rest[at + c.len_utf8()..]);
            rest = rest[..at].trim_end_matches(is_space);
        }
        parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
        parts.reverse();
        return parts;
    }
    if !is_all {
        rest = text.trim_start_matches(is_space);
    }
    while let Some((at, _)) = rest.char_indices().find(|(_, c)| is_space(*c)).filter(|_| parts.len() < limit) {
        parts.push(&rest[..at]);
        rest = rest[at..].trim_start_matches(is_space);
    }
    parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
    parts
}

fn split<'t>(text: &'t str, separator: &str, limit: Option<usize>, side: Side) -> Result<Vec<&'t str>> {
    if separator.is_empty() {
        return error("empty separator");
    }
    let n = limit.unwrap_or(usize::MAX).min(TOO_MANY) + 1;
    if side == Side::End {
        let mut parts: Vec<&str> = text.rsplitn(n, separator).collect();
        parts.reverse();
        return Ok(parts);
    }
    Ok(text.splitn(n, separator).collect())
}

/// Whether lines have their line ends.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ends {
    Kept,
    Dropped,
}

/// `text.splitlines(keepends)`.
pub(super) fn split_lines(text: &str, ends: Ends) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() && lines.len() <= TOO_MANY {
        let Some(at) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if ends == Ends::Kept { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    lines
}

fn partition(text: &Text, name: &str, separator: &Value) -> Result<Value> {
    let separator = text_of(separator, name)?;
    if separator.is_empty() {
        return error("empty separator");
    }
    let found = if name == "partition" { text.find(separator) } else { text.rfind(separator) };
    let (before, after) = match found {
        Some(at) => (at, at + separator.len()),
        None if name == "partition" => (text.len(), text.len()),
        None => (0, 0),
    };
    let parts = [&text[..before], &text[before..after], &text[after..]];
    Value::tuple(parts.map(|part| Value::Text(text.part(part))).to_vec())
}

/// `text.replace(old, new, count)`.
pub(super) fn replace(text: &Text, old: &str, new: &Text, count: Option<i128>) -> Result<Value> {
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let n_found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    check_text(text.len().saturating_add(n_found.min(count).saturating_mul(new.len())))?;
    let (mut out, mut at) = (Output::default(), 0);
    for (found, old) in text.match_indices(old).take(count) {
        out += &text.part(&text[at..found]);
        out += new;
        at = found + old.len();
    }
    out += &text.part(&text[at..]);
    Ok(Value::Text(out.into_text()))
}

/// Methods that look for a part of the text between two positions.
fn search(text: &str, name: &str, arguments: Arguments) -> Result<Value> {
    let [part, start, end] = arguments.bind(name, ["sub", "start", "end"], 1)?;
    let length = text.chars().count() as i128;
    let clip = |position: Option<i128>, default: i128| match position {
        Some(position) if position < 0 => (position + length).max(0),
        Some(position) => position,
        None => default,
    };
    let (start, end) = (clip(optional_int(&start)?, 0), clip(optional_int(&end)?, length).min(length));
    let part = part.unwrap_or(Value::None);
    let is_out = start > end;
    let byte = |position: i128| text.char_indices().nth(position as usize).map_or(text.len(), |(byte, _)| byte);
    let section = if is_out { "" } else { &text[byte(start)..byte(end)] };
    if name == "startswith" || name == "endswith" {
        let parts = match &part {
            Value::Tuple(parts) => parts.items.clone(),
            part => vec![part.clone()],
        };
        for part in &parts {
            let part = text_of(part, name)?;
            budget::compared(part.len());
            budget::check()?;
            if !is_out && if name == "startswith" { section.starts_with(part) } else { section.ends_with(part) } {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    let part = text_of(&part, name)?;
    if name == "count" {
        let n = if part.is_empty() { section.chars().count() + 1 } else { section.matches(part).count() };
        return Ok(Value::Int(if is_out { 0 } else { n as i128 }));
    }
    let found = if name.starts_with('r') { section.rfind(part) } else { section.find(part) };
    match found.filter(|_| !is_out) {
        Some(at) => Ok(Value::Int(start + section[..at].chars().count() as i128)),
        None if name.ends_with("index") => error("substring not found"),
        None => Ok(Value::Int(-1)),
    }
}

fn pad(text: &str, name: &str, arguments: Arguments) -> Result<Value> {
    let [width, fill] = arguments.bind(name, ["width", "fillchar"], 1)?;
    let width = size_of(&width.unwrap_or(Value::None))?;
    let fill = match &fill {
        Some(fill) => text_of(fill, name)?,
        None if name == "zfill" => "0",
        None => " ",
    };
    if fill.chars().count() != 1 {
        return error("The fill character must be exactly one character long");
    }
    let n = width.saturating_sub(text.chars().count());
    check_text(text.len().saturating_add(n.saturating_mul(fill.len())))?;
    Ok(Value::text(match name {
        "ljust" => format!("{text}{}", fill.repeat(n)),
        "rjust" => format!("{}{text}", fill.repeat(n)),
        "zfill" => {
            let sign = text.len() - text.strip_prefix(['+', '-']).unwrap_or(text).len();
            format!("{}{}{}", &text[..sign], fill.repeat(n), &text[sign..])
        }
        _ => {
            // An odd rest goes to the left if the width is odd.
            let left = n / 2 + (n & width & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(n - left))
        }
    }))
}

fn expand_tabs(text: &str, size: usize) -> Result<Value> {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let n = if size == 0 { 0 } else { size - column % size };
                check_text(out.len().saturating_add(n))?;
                out += &" ".repeat(n);
                column += n;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::text(out))
}
