//! Filters of values and sequences. Those of text are in [`super::text_filters`].

use super::arguments::{Arguments, optional_int, size_of, text_of};
use super::compare::{self, Direction};
use super::eval::Interpreter;
use super::number::{self, Operator};
use super::print::{self, Json};
use super::text::{Output, Text};
use super::value::{Dict, Key, Result, Value, error};
use super::{budget, checks, text_filters};

/// All filters of Jinja2.
pub(super) const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Filters without a fixed result, or of no use in a prompt.
const REFUSED: [&str; 5] = ["pprint", "random", "urlize", "wordwrap", "xmlattr"];

/// True if this interpreter has the filter.
pub(super) fn has(name: &str) -> bool {
    NAMES.contains(&name) && !REFUSED.contains(&name)
}

/// `value | name(arguments)`.
pub(super) fn apply(interpreter: &Interpreter<'_>, name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    budget::used(value)?;
    if REFUSED.contains(&name) {
        return error(format!("the filter {name} is not supported in chat templates"));
    }
    if let Some(result) = text_filters::apply(name, value, arguments.clone()) {
        return result;
    }
    match name {
        "abs" => {
            arguments.none(name)?;
            number::absolute(value)
        }
        "attr" => attribute(interpreter, value, arguments),
        "count" | "length" => {
            arguments.none(name)?;
            Ok(Value::Int(value.len()? as i128))
        }
        "d" | "default" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"], 0)?;
            let is_replaced =
                value.is_undefined() || boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true();
            Ok(if is_replaced { default.unwrap_or(Value::text("")) } else { value.clone() })
        }
        "float" | "int" | "round" => number_filter(name, value, arguments),
        "tojson" => to_json(value, arguments),
        "dictsort" => dict_sort(value, arguments),
        "items" => {
            arguments.none(name)?;
            match value {
                Value::Dict(dict) => Value::iterator("generator", entries(dict)?),
                Value::Undefined(_) => Value::iterator("generator", Vec::new()),
                _ => error("Can only get item pairs from a mapping."),
            }
        }
        "map" => map(interpreter, value, arguments),
        "select" | "reject" | "selectattr" | "rejectattr" => select(interpreter, name, value, arguments),
        "groupby" | "sort" | "unique" | "min" | "max" | "sum" => keyed(interpreter, name, value, arguments),
        "batch" | "slice" | "first" | "last" | "list" | "reverse" => sequence_filter(name, value, arguments),
        "join" => join(interpreter, value, arguments),
        _ => error(format!("No filter named '{name}'.")),
    }
}

/// The items of a dictionary as tuples.
pub(super) fn entries(dict: &Dict) -> Result<Vec<Value>> {
    dict.entries.iter().map(|(key, value)| Value::tuple(vec![key.value().clone(), value.clone()])).collect()
}

fn attribute(interpreter: &Interpreter<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let name = arguments.one("attr")?;
    let name = text_of(&name, "attr")?;
    match value {
        // Unlike the dot, the filter does not look for items.
        Value::Dict(_) => match super::methods::find(value, name)? {
            Some(method) => Ok(method),
            None => Ok(Value::undefined(format!("'dict object' has no attribute '{name}'"))),
        },
        _ => interpreter.attribute(value, name),
    }
}

fn number_filter(name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    match name {
        "round" => {
            let [precision, method] = arguments.bind(name, ["precision", "method"], 0)?;
            let digits = precision.as_ref().map_or(Ok(0), Value::index)?;
            let method = method.unwrap_or(Value::text("common"));
            let method = text_of(&method, name)?;
            if method == "common" {
                return number::round(value, digits);
            }
            let unit = number::binary(Operator::Power, &Value::Int(10), &Value::Int(digits))?;
            let scaled = number::binary(Operator::Multiply, value, &unit)?;
            let scaled = match (method, scaled) {
                ("ceil", Value::Float(value)) => number::truncated(value.ceil())?.map(Value::Int),
                ("floor", Value::Float(value)) => number::truncated(value.floor())?.map(Value::Int),
                ("ceil" | "floor", value) => value.as_int().map(Value::Int),
                _ => return error("method must be common, ceil or floor"),
            };
            match scaled {
                Some(scaled) => number::binary(Operator::Divide, &scaled, &unit),
                None => error("round: found a value that is not a finite number"),
            }
        }
        "float" => {
            let [default] = arguments.bind(name, ["default"], 0)?;
            let value = value.defined()?;
            Ok(number::to_float(value).map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
        }
        _ => {
            let [default, base] = arguments.bind(name, ["default", "base"], 0)?;
            let base = base.as_ref().map_or(Ok(10), Value::index)?;
            let value = value.defined()?;
            let int = match value.as_text() {
                Some(text) => number::parse_int(text, u32::try_from(base).unwrap_or(1)),
                None => value.as_int(),
            };
            let int = match int.or(number::to_float(value).map(number::truncated).transpose()?.flatten()) {
                Some(int) => Value::Int(int),
                None if matches!(value, Value::Float(_)) && value.as_float().is_some_and(f64::is_infinite) => {
                    default.unwrap_or(Value::Int(0))
                }
                None => default.unwrap_or(Value::Int(0)),
            };
            Ok(int)
        }
    }
}

fn to_json(value: &Value, arguments: Arguments) -> Result<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort_keys] = arguments.bind("tojson", names, 0)?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(indent) => Some(match indent.as_text() {
            Some(_) => print::text(&indent)?,
            None => " ".repeat(size_of(&indent)?.min(1000)).into(),
        }),
    };
    let [item_separator, key_separator]: [Text; 2] = match separators {
        None | Some(Value::None) => [if indent.is_some() { "," } else { ", " }.into(), ": ".into()],
        Some(pair) => match &pair.items()?[..] {
            [item, key] => {
                text_of(item, "tojson")?;
                text_of(key, "tojson")?;
                [print::text(item)?, print::text(key)?]
            }
            _ => return error("tojson: separators has two texts: one for items, one for keys"),
        },
    };
    let json =
        Json { is_ascii: is_true(ascii), indent, item_separator, key_separator, has_sorted_keys: is_true(sort_keys) };
    let mut out = Output::default();
    json.write(value, 0, &mut out)?;
    Ok(Value::Text(out.into_text()))
}

/// Reads an attribute path: `a.0.b`.
fn by_path(interpreter: &Interpreter<'_>, item: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
    let mut item = item.clone();
    let Some(path) = path.as_text() else {
        return if matches!(path, Value::None) { Ok(item) } else { interpreter.item(&item, path) };
    };
    for part in path.split('.') {
        interpreter.spend()?;
        let key = if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            Value::Int(part.parse().unwrap_or(i128::MAX))
        } else {
            Value::text(part)
        };
        item = interpreter.item(&item, &key)?;
        if let (true, Some(default)) = (item.is_undefined(), default) {
            item = default.clone();
        }
    }
    Ok(item)
}

fn ignoring_case(value: Value, is_case_sensitive: bool) -> Value {
    match value.as_text() {
        Some(text) if !is_case_sensitive => Value::text(text.to_lowercase()),
        _ => value,
    }
}

fn dict_sort(value: &Value, arguments: Arguments) -> Result<Value> {
    let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let by = by.unwrap_or(Value::text("key"));
    let position = match text_of(&by, "dictsort")? {
        "key" => 0,
        "value" => 1,
        _ => return error("You can only sort by either \"key\" or \"value\""),
    };
    let Value::Dict(dict) = value.defined()? else {
        return error(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let is_case_sensitive = case.is_some_and(|case| case.is_true());
    let mut keyed = Vec::new();
    for entry in entries(dict)? {
        let key = entry.items()?.swap_remove(position);
        keyed.push((ignoring_case(key, is_case_sensitive), entry));
    }
    Value::list(compare::sorted(keyed, Direction::of(reverse))?)
}

fn map(interpreter: &Interpreter<'_>, value: &Value, mut arguments: Arguments) -> Result<Value> {
    if !value.is_true() {
        return Value::iterator("generator", Vec::new());
    }
    let mut mapped = Vec::new();
    if arguments.positional.is_empty() && arguments.named.iter().any(|(name, _)| &**name == "attribute") {
        let [path, default] = arguments.bind("map", ["attribute", "default"], 0)?;
        let (path, default) = (path.unwrap_or(Value::None), default.filter(|default| !matches!(default, Value::None)));
        for item in value.items()? {
            interpreter.spend()?;
            mapped.push(by_path(interpreter, &item, &path, default.as_ref())?);
        }
        return Value::iterator("generator", mapped);
    }
    if arguments.positional.is_empty() {
        return error("map requires a filter argument");
    }
    let name = arguments.positional.remove(0);
    let name = text_of(&name, "map")?;
    for item in value.items()? {
        interpreter.spend()?;
        mapped.push(apply(interpreter, name, &item, arguments.clone())?);
    }
    Value::iterator("generator", mapped)
}

fn select(interpreter: &Interpreter<'_>, name: &str, value: &Value, mut arguments: Arguments) -> Result<Value> {
    if !value.is_true() {
        return Value::iterator("generator", Vec::new());
    }
    let mut path = Value::None;
    if name.ends_with("attr") {
        if arguments.positional.is_empty() {
            return error("Missing parameter for attribute name");
        }
        path = arguments.positional.remove(0);
    }
    let test = if arguments.positional.is_empty() { None } else { Some(arguments.positional.remove(0)) };
    let mut selected = Vec::new();
    for item in value.items()? {
        interpreter.spend()?;
        let subject = by_path(interpreter, &item, &path, None)?;
        let passes = match &test {
            Some(test) => checks::apply(text_of(test, name)?, &subject, arguments.clone())?,
            None => subject.is_true(),
        };
        if passes == name.starts_with("select") {
            selected.push(item);
        }
    }
    Value::iterator("generator", selected)
}

/// Filters that order or compare items by an attribute.
fn keyed(interpreter: &Interpreter<'_>, name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    let key = |item: &Value, path: &Value, default: Option<&Value>, is_case_sensitive: bool| -> Result<Value> {
        interpreter.spend()?;
        Ok(ignoring_case(by_path(interpreter, item, path, default)?, is_case_sensitive))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    match name {
        "sort" => {
            let [reverse, case, path] = arguments.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let (path, case) = (path.unwrap_or(Value::None), is_true(case));
            let paths: Vec<Value> = match path.as_text() {
                Some(text) => {
                    super::value::check_items(text.len())?;
                    text.split(',').map(Value::text).collect()
                }
                None => vec![path.clone()],
            };
            let mut items = Vec::new();
            for item in value.items()? {
                let keys: Vec<Value> = paths.iter().map(|path| key(&item, path, None, case)).collect::<Result<_>>()?;
                items.push((Value::list(keys)?, item));
            }
            Value::list(compare::sorted(items, Direction::of(reverse))?)
        }
        "unique" => {
            let [case, path] = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let (path, case) = (path.unwrap_or(Value::None), is_true(case));
            let (mut seen, mut unique) = (std::collections::HashSet::new(), Vec::new());
            for item in value.items()? {
                budget::check()?;
                if seen.insert(Key::new(&key(&item, &path, None, case)?)?) {
                    unique.push(item);
                }
            }
            Value::iterator("generator", unique)
        }
        "groupby" => {
            let [path, default, case] = arguments.bind(name, ["attribute", "default", "case_sensitive"], 1)?;
            let (path, case) = (path.unwrap_or(Value::None), is_true(case));
            let default = default.filter(|default| !matches!(default, Value::None));
            let keys = value.items()?.into_iter().map(|item| Ok((key(&item, &path, default.as_ref(), case)?, item)));
            let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
            for item in compare::sorted(keys.collect::<Result<_>>()?, Direction::Ascending)? {
                let same = key(&item, &path, default.as_ref(), case)?;
                match groups.last_mut() {
                    Some((key, items)) if compare::equal(key, &same) => items.push(item),
                    _ => groups.push((same, vec![item])),
                }
            }
            let groups = groups.into_iter().map(|(_, items)| {
                let real = by_path(interpreter, &items[0], &path, default.as_ref())?;
                Value::group(real, items)
            });
            Value::list(groups.collect::<Result<_>>()?)
        }
        "sum" => {
            let [path, start] = arguments.bind(name, ["attribute", "start"], 0)?;
            let (path, mut sum) = (path.unwrap_or(Value::None), start.unwrap_or(Value::Int(0)));
            if sum.as_text().is_some() {
                return error("sum() can't sum strings [use ''.join(seq) instead]");
            }
            for item in value.items()? {
                interpreter.spend()?;
                sum = number::binary(Operator::Add, &sum, &by_path(interpreter, &item, &path, None)?)?;
            }
            Ok(sum)
        }
        _ => {
            let [case, path] = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let (path, case) = (path.unwrap_or(Value::None), is_true(case));
            let mut best: Option<(Value, Value)> = None;
            for item in value.items()? {
                let key = key(&item, &path, None, case)?;
                let is_better = match &best {
                    None => true,
                    Some((best, _)) if name == "min" => compare::less(&key, best, "<")?,
                    Some((best, _)) => compare::less(best, &key, ">")?,
                };
                if is_better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or(Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
        }
    }
}

fn sequence_filter(name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    match name {
        "first" => {
            arguments.none(name)?;
            Ok(value.first()?.unwrap_or(Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            arguments.none(name)?;
            if matches!(value, Value::Iterator(_)) {
                return error(format!("'{}' object is not reversible", value.type_name()));
            }
            if let Value::Text(text) | Value::Markup(text) = value {
                let last = text.char_indices().next_back().map(|(at, _)| Value::Text(text.part(&text[at..])));
                return Ok(last.unwrap_or(Value::undefined("No last item, sequence was empty.")));
            }
            Ok(value.items()?.pop().unwrap_or(Value::undefined("No last item, sequence was empty.")))
        }
        "list" => {
            arguments.none(name)?;
            Value::list(value.items()?)
        }
        "reverse" => {
            arguments.none(name)?;
            let mut items = value.items()?;
            items.reverse();
            if value.as_text().is_some() {
                let mut out = Output::default();
                for item in &items {
                    print::write_text(item, &mut out)?;
                }
                return Ok(Value::Text(out.into_text()));
            }
            if matches!(value, Value::Iterator(_)) {
                Value::list(items)
            } else {
                Value::iterator("list_reverseiterator", items)
            }
        }
        "batch" => {
            let [size, fill] = arguments.bind(name, ["linecount", "fill_with"], 1)?;
            let size = optional_int(&size)?.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
            let Some(size) = size else { return error("batch: expected a size of 1 or more") };
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            let batches = value.items()?;
            let batches = batches.chunks(size).map(|chunk| {
                let mut items = chunk.to_vec();
                if let Some(fill) = &fill {
                    super::value::check_items(size)?;
                    items.resize(size, fill.clone());
                }
                Value::list(items)
            });
            Value::iterator("generator", batches.collect::<Result<_>>()?)
        }
        _ => {
            let [slices, fill] = arguments.bind(name, ["slices", "fill_with"], 1)?;
            let n = optional_int(&slices)?.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
            let Some(n) = n else { return error("slice: expected a number of 1 or more") };
            super::value::check_items(n)?;
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            let items = value.items()?;
            let (size, n_longer) = (items.len() / n, items.len() % n);
            let mut rest = items.into_iter();
            let slices = (0..n).map(|index| {
                let mut slice: Vec<Value> = rest.by_ref().take(size + usize::from(index < n_longer)).collect();
                slice.extend(fill.clone().filter(|_| index >= n_longer));
                Value::list(slice)
            });
            Value::iterator("generator", slices.collect::<Result<_>>()?)
        }
    }
}

fn join(interpreter: &Interpreter<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [separator, path] = arguments.bind("join", ["d", "attribute"], 0)?;
    let separator = separator.as_ref().map_or(Ok("".into()), print::text)?;
    let path = path.unwrap_or(Value::None);
    let mut out = Output::default();
    for (index, item) in value.items()?.iter().enumerate() {
        if index > 0 {
            out += &separator;
        }
        print::write_text(&by_path(interpreter, item, &path, None)?, &mut out)?;
    }
    Ok(Value::Text(out.into_text()))
}
