//! Arguments of functions, methods, filters and tests.

use super::text::Text;
use super::value::{Result, Value, error};

/// Positional and named arguments of a call.
#[derive(Default, Clone)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Text, Value)>,
}

impl Arguments {
    /// Assigns the arguments to parameters, of which the first `n_required` have no default.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        n_required: usize,
    ) -> Result<[Option<Value>; N]> {
        let n_given = self.positional.len();
        if n_given > N {
            return error(format!("{function}() takes at most {N} arguments ({n_given} given)"));
        }
        let mut values: [Option<Value>; N] = std::array::from_fn(|_| None);
        for (value, given) in values.iter_mut().zip(self.positional) {
            *value = Some(given);
        }
        for (name, given) in self.named {
            match names.iter().position(|known| **known == *name) {
                Some(index) if values[index].is_some() => {
                    return error(format!("{function}() got multiple values for argument '{}'", &*name));
                }
                Some(index) => values[index] = Some(given),
                None => return error(format!("{function}() got an unexpected keyword argument '{}'", &*name)),
            }
        }
        if let Some(index) = values[..n_required].iter().position(Option::is_none) {
            return error(format!("{function}() missing a required argument: '{}'", names[index]));
        }
        Ok(values)
    }

    /// The only argument.
    pub(super) fn one(self, function: &str) -> Result<Value> {
        let [value] = self.bind(function, ["value"], 1)?;
        Ok(value.unwrap_or(Value::None))
    }

    /// Checks that there are no arguments.
    pub(super) fn none(self, function: &str) -> Result<()> {
        let [] = self.bind(function, [], 0)?;
        Ok(())
    }
}

/// The text of an argument.
pub(super) fn text_of<'a>(value: &'a Value, function: &str) -> Result<&'a str> {
    match value.defined()?.as_text() {
        Some(text) => Ok(text),
        None => error(format!("{function}() argument must be str, not {}", value.type_name())),
    }
}

/// An optional integer: None for `None` too.
pub(super) fn optional_int(value: &Option<Value>) -> Result<Option<i128>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => value.index().map(Some),
    }
}

/// A size: negative ones are zero.
pub(super) fn size_of(value: &Value) -> Result<usize> {
    Ok(usize::try_from(value.index()?.max(0)).unwrap_or(usize::MAX))
}
