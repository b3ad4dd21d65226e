//! A JSON object read key by key, which tracks the keys that are still unread.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::remark::Remark;

/// Largest count that a key may hold: products of two of them still fit in 64 bits.
pub(crate) const MAX_COUNT: usize = i32::MAX as usize;

/// A JSON object in key order that refuses duplicate keys (`serde_json::Map` silently keeps the last one).
#[derive(Debug)]
pub(crate) struct Object(pub(crate) BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if entries.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("key {key:?} is there twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// `value` for an error message: its JSON, truncated if it is long.
pub(crate) fn show(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The unread keys of one JSON file.
#[derive(Debug)]
pub(crate) struct Keys<'a> {
    path: &'a Path,
    /// The prefix of keys in errors: the keys of the enclosing objects, each with a dot.
    prefix: String,
    unread: BTreeMap<String, Value>,
    remarks: Vec<Remark>,
}

impl<'a> Keys<'a> {
    /// Reads `text`, the content of `path`.
    pub(crate) fn parse(text: &[u8], path: &'a Path) -> Result<Self> {
        let Object(unread) = serde_json::from_slice(text).map_err(|cause| Error::Json { path: path.into(), cause })?;
        Ok(Self { path, prefix: String::new(), unread, remarks: Vec::new() })
    }

    /// The keys of an object at `key`; errors join keys by dots.
    pub(crate) fn inside(value: Value, key: &str, path: &'a Path) -> Result<Self> {
        match value {
            Value::Object(entries) => {
                let unread = entries.into_iter().collect();
                Ok(Self { path, prefix: format!("{key}."), unread, remarks: Vec::new() })
            }
            other => Err(Error::key(path, key, show(&other), "a JSON object")),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The whole name of a key.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Drops keys whose values do not affect the arithmetic.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.unread.remove(*key);
        }
    }

    /// Refuses the first unread key.
    pub(crate) fn finish(self) -> Result<()> {
        match self.unread.first_key_value() {
            None => Ok(()),
            Some((key, value)) => {
                Err(Error::UnknownKey { path: self.path.into(), key: self.name(key), found: show(value) })
            }
        }
    }

    /// The unread keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.unread.keys().map(String::as_str)
    }

    /// True if `key` is unread.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.unread.contains_key(key)
    }

    /// Takes the value of `key`.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.unread.remove(key)
    }

    /// As [`Keys::take`], with `null` as absent.
    pub(crate) fn take_non_null(&mut self, key: &str) -> Option<Value> {
        self.take(key).filter(|value| !value.is_null())
    }

    /// The unread keys in order, and the remarks.
    pub(crate) fn into_unread(self) -> (BTreeMap<String, Value>, Vec<Remark>) {
        (self.unread, self.remarks)
    }

    /// Adds a remark.
    pub(crate) fn remark(&mut self, remark: Remark) {
        self.remarks.push(remark);
    }

    /// The error for `key`.
    pub(crate) fn refuse(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::key(self.path, &self.name(key), found, expected)
    }

    /// An integer from `least` to [`MAX_COUNT`]; `None` when the key is absent.
    pub(crate) fn integer(&mut self, key: &str, least: usize) -> Result<Option<usize>> {
        self.take(key).map(|value| self.as_integer(key, &value, least)).transpose()
    }

    /// As [`Keys::integer`] from 1 upwards, for a required key.
    pub(crate) fn required_count(&mut self, key: &str) -> Result<usize> {
        match self.integer(key, 1)? {
            Some(count) => Ok(count),
            None => Err(self.refuse(key, "nothing", format!("an integer from 1 to {MAX_COUNT}"))),
        }
    }

    /// `value` of `key` as an integer from `least` to [`MAX_COUNT`].
    pub(crate) fn as_integer(&self, key: &str, value: &Value, least: usize) -> Result<usize> {
        value
            .as_u64()
            .and_then(|integer| usize::try_from(integer).ok())
            .filter(|integer| (least..=MAX_COUNT).contains(integer))
            .ok_or_else(|| self.refuse(key, show(value), format!("an integer from {least} to {MAX_COUNT}")))
    }

    /// A boolean; `None` when the key is absent.
    pub(crate) fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key)
            .map(|value| value.as_bool().ok_or_else(|| self.refuse(key, show(&value), "true or false")))
            .transpose()
    }

    /// A number greater than zero; `None` when the key is absent.
    pub(crate) fn positive_number(&mut self, key: &str) -> Result<Option<f64>> {
        self.take(key)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
                number.ok_or_else(|| self.refuse(key, show(&value), "a number greater than 0"))
            })
            .transpose()
    }

    /// Token ids of a vocabulary of `vocab`: a single id, a list, or `null` for none. Ids outside the vocabulary are left out with a
    /// warning. `None` when the key is absent.
    pub(crate) fn token_ids(&mut self, key: &str, vocab: usize) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let ids = match &value {
            Value::Null => &[],
            Value::Array(ids) => ids.as_slice(),
            single => std::slice::from_ref(single),
        };
        if ids.is_empty() && !value.is_null() {
            let text = format!(
                "{}: {}: found [], which names no token: nothing is read from it",
                self.path.display(),
                self.name(key)
            );
            self.remarks.push(Remark::Warning(text));
        }
        if !ids.iter().all(|id| id.is_i64() || id.is_u64()) {
            return Err(self.refuse(key, show(&value), "token ids: an integer, a list of integers or null"));
        }
        let in_vocabulary =
            |id: &Value| id.as_u64().filter(|id| *id < vocab as u64).and_then(|id| u32::try_from(id).ok());
        for id in ids.iter().filter(|id| in_vocabulary(id).is_none()) {
            let text = format!(
                "{}: {}: found {id}, outside the vocabulary of {vocab}: ignored",
                self.path.display(),
                self.name(key)
            );
            self.remarks.push(Remark::Warning(text));
        }
        Ok(Some(ids.iter().filter_map(in_vocabulary).collect()))
    }

    /// A single token id, or none for `null` or an id outside the vocabulary; `default` when the key is absent.
    pub(crate) fn token_id(&mut self, key: &str, vocab: usize, default: u32) -> Result<Option<u32>> {
        match self.token_ids(key, vocab)?.as_deref() {
            None => Ok(Some(default).filter(|id| (*id as usize) < vocab)),
            Some([]) => Ok(None),
            Some([id]) => Ok(Some(*id)),
            Some(ids) => Err(self.refuse(key, format!("{ids:?}"), "one token id or null")),
        }
    }
}
