//! Python's values, as far as templates have them.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use indexmap::IndexMap;

use super::scope::{Loop, Macro};
use super::text::{Origin, Text};
use super::{budget, compare};

/// Deepest nesting of values. It bounds the recursion over them.
const MAX_DEPTH: u32 = 250;

/// Longest text in bytes that a template may make.
const MAX_TEXT: usize = 16 << 20;

/// Most items of a sequence that a template may make.
pub(super) const MAX_ITEMS: usize = 1 << 20;

/// A failed evaluation.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) message: String,
    /// Line of the template, counted from 1, of the innermost expression.
    pub(super) line: Option<u32>,
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// An error without a line yet.
pub(super) fn error<T>(message: impl Into<String>) -> Result<T> {
    Err(Error { message: message.into(), line: None })
}

/// A value. All are immutable, except that namespaces, cyclers and iterators have state.
#[derive(Clone)]
pub(super) enum Value {
    /// Absent, with the message for operations that need a value.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    /// Text that `escape` or `safe` returned.
    Markup(Text),
    List(Rc<Sequence>),
    Tuple(Rc<Sequence>),
    Dict(Rc<Dict>),
    Range(Range),
    View(Rc<View>),
    Iterator(Rc<Iter>),
    Namespace(Rc<Namespace>),
    Cycler(Rc<Cycler>),
    Loop(Rc<Loop>),
    Callable(Rc<Callable>),
}

/// The items of a list or a tuple.
pub(super) struct Sequence {
    pub(super) items: Vec<Value>,
    /// True for a tuple of `groupby`, whose items have the names `grouper` and `list`.
    pub(super) is_group: bool,
    depth: u32,
}

/// A dictionary, in order of insertion.
pub(super) struct Dict {
    pub(super) entries: IndexMap<Key, Value>,
    depth: u32,
}

/// A hashable value.
#[derive(Clone)]
pub(super) struct Key(Value);

/// An arithmetic progression.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

/// The keys, values or items of a dictionary.
pub(super) struct View {
    /// `dict_keys`, `dict_values` or `dict_items`.
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
    depth: u32,
}

/// An iterator, which yields every item once.
pub(super) struct Iter {
    /// Python's type: `generator` or `list_reverseiterator`.
    pub(super) name: &'static str,
    rest: RefCell<std::vec::IntoIter<Value>>,
    depth: u32,
}

/// The result of `namespace()`.
pub(super) struct Namespace {
    pub(super) attributes: RefCell<IndexMap<Key, Value>>,
    depth: Cell<u32>,
}

/// The result of `cycler()`.
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) position: Cell<usize>,
    depth: u32,
}

/// Values that can be called.
pub(super) enum Callable {
    /// A function of the environment, such as `range`.
    Function(&'static str),
    /// A method and its value.
    Method(Value, &'static str),
    /// The result of `joiner()`: its separator, and whether it was called.
    Joiner(Text, Cell<bool>),
    Macro(Macro),
}

/// One more than the largest depth.
fn nested<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<u32> {
    let (n, deepest) = values.into_iter().fold((0, 0), |(n, depth), value| (n + 1, value.depth().max(depth)));
    budget::made_items(n);
    let depth = 1 + deepest;
    if depth > MAX_DEPTH { error(format!("values are nested more than {MAX_DEPTH} levels deep")) } else { Ok(depth) }
}

/// Refuses sequences that would fill the memory.
pub(super) fn check_items(n: usize) -> Result<()> {
    if n > MAX_ITEMS { error(format!("a sequence of {n} items, more than {MAX_ITEMS}")) } else { Ok(()) }
}

/// Refuses texts that would fill the memory.
pub(super) fn check_text(n: usize) -> Result<()> {
    if n > MAX_TEXT { error(format!("a text of {n} bytes, more than {MAX_TEXT}")) } else { Ok(()) }
}

impl Value {
    /// A text of the template.
    pub(super) fn text(text: impl AsRef<str>) -> Value {
        Value::Text(Text::from(text.as_ref()))
    }

    pub(super) fn undefined(message: impl AsRef<str>) -> Value {
        Value::Undefined(Rc::from(message.as_ref()))
    }

    pub(super) fn list(items: Vec<Value>) -> Result<Value> {
        check_items(items.len())?;
        let depth = nested(&items)?;
        Ok(Value::List(Rc::new(Sequence { items, is_group: false, depth })))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Value> {
        check_items(items.len())?;
        let depth = nested(&items)?;
        Ok(Value::Tuple(Rc::new(Sequence { items, is_group: false, depth })))
    }

    /// A tuple of `groupby`.
    pub(super) fn group(key: Value, items: Vec<Value>) -> Result<Value> {
        let items = vec![key, Value::list(items)?];
        let depth = nested(&items)?;
        Ok(Value::Tuple(Rc::new(Sequence { items, is_group: true, depth })))
    }

    pub(super) fn dict(entries: IndexMap<Key, Value>) -> Result<Value> {
        check_items(entries.len())?;
        let depth = nested(entries.values())?;
        Ok(Value::Dict(Rc::new(Dict { entries, depth })))
    }

    pub(super) fn view(name: &'static str, items: Vec<Value>) -> Result<Value> {
        let depth = nested(&items)?;
        Ok(Value::View(Rc::new(View { name, items, depth })))
    }

    pub(super) fn iterator(name: &'static str, items: Vec<Value>) -> Result<Value> {
        let depth = nested(&items)?;
        Ok(Value::Iterator(Rc::new(Iter { name, rest: RefCell::new(items.into_iter()), depth })))
    }

    pub(super) fn cycler(items: Vec<Value>) -> Result<Value> {
        let depth = nested(&items)?;
        Ok(Value::Cycler(Rc::new(Cycler { items, position: Cell::new(0), depth })))
    }

    pub(super) fn method(value: &Value, name: &'static str) -> Result<Value> {
        nested([value])?;
        Ok(Value::Callable(Rc::new(Callable::Method(value.clone(), name))))
    }

    fn depth(&self) -> u32 {
        match self {
            Value::List(sequence) | Value::Tuple(sequence) => sequence.depth,
            Value::Dict(dict) => dict.depth,
            Value::View(view) => view.depth,
            Value::Iterator(iterator) => iterator.depth,
            Value::Namespace(namespace) => namespace.depth.get(),
            Value::Cycler(cycler) => cycler.depth,
            Value::Callable(callable) => match &**callable {
                Callable::Method(value, _) => value.depth() + 1,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// The text of a text or markup.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// `bool(value)`.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(sequence) | Value::Tuple(sequence) => !sequence.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(range) => range.len() > 0,
            Value::View(view) => !view.items.is_empty(),
            Value::Loop(state) => state.length() > 0,
            Value::Iterator(_) | Value::Namespace(_) | Value::Cycler(_) | Value::Callable(_) => true,
        }
    }

    /// `type(value).__name__`.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(_) => "range",
            Value::View(view) => view.name,
            Value::Iterator(iterator) => iterator.name,
            Value::Namespace(_) => "Namespace",
            Value::Cycler(_) => "Cycler",
            Value::Loop(_) => "LoopContext",
            Value::Callable(callable) => match &**callable {
                Callable::Function(_) => "function",
                Callable::Method(..) => "builtin_function_or_method",
                Callable::Joiner(..) => "Joiner",
                Callable::Macro(_) => "Macro",
            },
        }
    }

    /// `iter(value)`: the items that are left. An iterator has none afterwards.
    pub(super) fn items(&self) -> Result<Vec<Value>> {
        let n = match self {
            Value::Iterator(iterator) => iterator.rest.borrow().len(),
            value => value.len().unwrap_or_default(),
        };
        check_items(n)?;
        budget::made_items(n);
        budget::check()?;
        Ok(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Text(text) | Value::Markup(text) => {
                let part = |(at, c): (usize, char)| Value::Text(text.part(&text[at..at + c.len_utf8()]));
                text.char_indices().map(part).collect()
            }
            Value::List(sequence) | Value::Tuple(sequence) => sequence.items.clone(),
            Value::Dict(dict) => dict.entries.keys().map(|key| key.0.clone()).collect(),
            Value::Range(range) => {
                (0..range.len()).map(|index| Value::Int(range.start + range.step * index as i128)).collect()
            }
            Value::View(view) => view.items.clone(),
            Value::Iterator(iterator) => iterator.rest.take().collect(),
            _ => return error(format!("'{}' object is not iterable", self.type_name())),
        })
    }

    /// `next(value)` of an iterator, the first item of others.
    pub(super) fn first(&self) -> Result<Option<Value>> {
        match self {
            Value::Iterator(iterator) => Ok(iterator.rest.borrow_mut().next()),
            Value::Text(text) | Value::Markup(text) => {
                Ok(text.chars().next().map(|c| Value::Text(text.part(&text[..c.len_utf8()]))))
            }
            _ => Ok(self.items()?.into_iter().next()),
        }
    }

    /// `len(value)`.
    pub(super) fn len(&self) -> Result<usize> {
        Ok(match self {
            Value::Undefined(_) => 0,
            Value::Text(text) | Value::Markup(text) => text.chars().count(),
            Value::List(sequence) | Value::Tuple(sequence) => sequence.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Range(range) => range.len(),
            Value::View(view) => view.items.len(),
            Value::Loop(state) => state.length(),
            _ => return error(format!("object of type '{}' has no len()", self.type_name())),
        })
    }

    /// The operand of an operation that absent values do not have.
    pub(super) fn defined(&self) -> Result<&Value> {
        match self {
            Value::Undefined(message) => error(&**message),
            value => Ok(value),
        }
    }

    /// An integer or a boolean as an integer.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(value) => Some(i128::from(*value)),
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A number as a float.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            value => value.as_int().map(|value| value as f64),
        }
    }

    /// `value.__index__()`.
    pub(super) fn index(&self) -> Result<i128> {
        match self.defined()?.as_int() {
            Some(value) => Ok(value),
            None => error(format!("'{}' object cannot be interpreted as an integer", self.type_name())),
        }
    }
}

impl Value {
    /// A JSON value whose texts have this origin.
    pub(super) fn from_json(value: &serde_json::Value, origin: Origin) -> Value {
        use serde_json::Value as Json;
        let text = |text: &str| Value::text(text).made_of(origin);
        match value {
            Json::Null => Value::None,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value.into()),
                (None, Some(value)) => Value::Int(value.into()),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(string) => text(string),
            Json::Array(items) => {
                let items: Vec<Value> = items.iter().map(|item| Value::from_json(item, origin)).collect();
                let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
                Value::List(Rc::new(Sequence { items, is_group: false, depth }))
            }
            Json::Object(fields) => {
                let entries: IndexMap<Key, Value> =
                    fields.iter().map(|(name, value)| (Key(text(name)), Value::from_json(value, origin))).collect();
                let depth = 1 + entries.values().map(Value::depth).max().unwrap_or(0);
                Value::Dict(Rc::new(Dict { entries, depth }))
            }
        }
    }
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.get(&Key::new(key).ok()?)
    }

    /// The dictionary with another value of a key, which has no values inside.
    pub(super) fn with(&self, key: Key, value: Value) -> Value {
        let mut entries = self.entries.clone();
        entries.insert(key, value);
        Value::Dict(Rc::new(Dict { entries, depth: self.depth }))
    }
}

impl Key {
    /// A key. Fails for values that Python cannot hash.
    pub(super) fn new(value: &Value) -> Result<Key> {
        let is_hashable = match value {
            Value::List(_) | Value::Dict(_) => false,
            Value::Tuple(sequence) => !budget::compared(0) && sequence.items.iter().all(|item| Key::new(item).is_ok()),
            _ => true,
        };
        budget::check()?;
        if is_hashable { Ok(Key(value.clone())) } else { error(format!("unhashable type: '{}'", value.type_name())) }
    }

    pub(super) fn text(text: &str) -> Key {
        Key(Value::text(text))
    }

    /// The key of a named argument.
    pub(super) fn named(name: &Text) -> Key {
        Key(Value::Text(name.clone()))
    }

    pub(super) fn value(&self) -> &Value {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        compare::equal(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Beyond the limit, nothing that is found or not is used.
        if budget::compared(self.0.as_text().map_or(0, |text| text.len().saturating_mul(8))) {
            return;
        }
        match &self.0 {
            Value::Text(text) | Value::Markup(text) => text.hash(state),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => Some(*value as i128).hash(state),
            Value::Float(value) => value.to_bits().hash(state),
            Value::Tuple(sequence) => sequence.items.iter().for_each(|item| Key(item.clone()).hash(state)),
            value => value.as_int().hash(state),
        }
    }
}

impl Range {
    pub(super) fn len(&self) -> usize {
        let (span, step) =
            if self.step > 0 { (self.stop - self.start, self.step) } else { (self.start - self.stop, -self.step) };
        if span <= 0 { 0 } else { ((span + step - 1) / step) as usize }
    }
}

impl Namespace {
    pub(super) fn new(attributes: IndexMap<Key, Value>) -> Result<Namespace> {
        let depth = nested(attributes.values())?;
        let mut names = attributes.keys().filter_map(|name| name.value().as_text());
        if let Some(name) = names.find(|name| name.starts_with('_')) {
            return error(underscore(name));
        }
        Ok(Namespace { attributes: RefCell::new(attributes), depth: Cell::new(depth) })
    }

    /// Sets an attribute.
    pub(super) fn set(&self, name: &str, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return error(underscore(name));
        }
        self.depth.set(self.depth.get().max(nested([&value])?));
        self.attributes.borrow_mut().insert(Key::text(name), value);
        Ok(())
    }
}

fn underscore(name: &str) -> String {
    format!("a namespace has no attributes that start with an underscore: found '{name}'")
}

impl Cycler {
    pub(super) fn current(&self) -> Value {
        self.items[self.position.get()].clone()
    }
}
