//! Attributes of ops: how each type is written, read, and drawn for random graphs.

use std::fmt;

use super::{Activation, Selection};

/// The value of an attribute, as printed in the text form.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    Count(usize),
    Counts(Vec<usize>),
    Real(f64),
    Flag(bool),
    Word(&'static str),
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeValue::Count(n) => write!(f, "{n}"),
            AttributeValue::Counts(list) => write!(f, "{list:?}"),
            AttributeValue::Real(x) => write!(f, "{x:?}"),
            AttributeValue::Flag(flag) => write!(f, "{flag}"),
            AttributeValue::Word(word) => f.write_str(word),
        }
    }
}

/// Attributes by name, with their values.
pub(crate) type Written = Vec<(&'static str, AttributeValue)>;

/// One of n choices, 0 … n − 1.
pub(crate) type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A source of attribute values.
pub(crate) trait Reader {
    type Error;

    /// Takes the value of an attribute, or `absent` if it is not written and has a default. `parse` returns `None` for a value that is
    /// not as `expected`.
    fn take<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        absent: Option<T>,
        parse: fn(&str) -> Option<T>,
    ) -> Result<T, Self::Error>;
}

/// A type that attributes may have.
pub(crate) trait Attribute: Sized {
    /// The accepted values, in messages.
    const EXPECTED: &'static str;

    /// The default, if the attribute may be left out.
    fn absent() -> Option<Self> {
        None
    }

    fn parse(text: &str) -> Option<Self>;

    fn read<R: Reader>(name: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.take(name, Self::EXPECTED, Self::absent(), Self::parse)
    }

    fn write(&self, name: &'static str, to: &mut Written);

    /// A small value for random graphs; it may be out of range for the operands.
    fn sample(choose: Choose<'_>) -> Self;
}

impl Attribute for usize {
    const EXPECTED: &'static str = "a number";

    fn parse(text: &str) -> Option<usize> {
        text.parse().ok()
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        to.push((name, AttributeValue::Count(*self)));
    }

    fn sample(choose: Choose<'_>) -> usize {
        choose(4)
    }
}

impl Attribute for Vec<usize> {
    const EXPECTED: &'static str = "numbers in brackets";

    fn parse(text: &str) -> Option<Vec<usize>> {
        let numbers = text.strip_prefix('[')?.strip_suffix(']')?;
        numbers.split(", ").map(|number| number.parse().ok()).collect()
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        to.push((name, AttributeValue::Counts(self.clone())));
    }

    fn sample(choose: Choose<'_>) -> Vec<usize> {
        (0..1 + choose(3)).map(|_| 1 + choose(3)).collect()
    }
}

impl Attribute for f64 {
    const EXPECTED: &'static str = "a real number";

    fn parse(text: &str) -> Option<f64> {
        text.parse().ok()
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        to.push((name, AttributeValue::Real(*self)));
    }

    fn sample(choose: Choose<'_>) -> f64 {
        [1e-5, 0.5][choose(2)]
    }
}

impl Attribute for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        to.push((name, AttributeValue::Flag(*self)));
    }

    fn sample(choose: Choose<'_>) -> bool {
        choose(2) == 1
    }
}

/// `none` is not written.
impl Attribute for Activation {
    const EXPECTED: &'static str = "none, silu or softplus";

    fn absent() -> Option<Activation> {
        Some(Activation::None)
    }

    fn parse(text: &str) -> Option<Activation> {
        Activation::ALL.into_iter().find(|activation| activation.name() == text)
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        if *self != Activation::None {
            to.push((name, AttributeValue::Word(self.name())));
        }
    }

    fn sample(choose: Choose<'_>) -> Activation {
        Activation::ALL[choose(Activation::ALL.len())]
    }
}

/// `normed` has a second attribute, `eps`.
impl Attribute for Selection {
    const EXPECTED: &'static str = "given, projected or normed";

    fn parse(text: &str) -> Option<Selection> {
        let selections = [Selection::Given, Selection::Projected, Selection::Normed { eps: 0.0 }];
        selections.into_iter().find(|selection| selection.name() == text)
    }

    fn read<R: Reader>(name: &'static str, from: &mut R) -> Result<Selection, R::Error> {
        Ok(match from.take(name, Self::EXPECTED, None, Self::parse)? {
            Selection::Normed { .. } => Selection::Normed { eps: Attribute::read("eps", from)? },
            selection => selection,
        })
    }

    fn write(&self, name: &'static str, to: &mut Written) {
        to.push((name, AttributeValue::Word(self.name())));
        if let Selection::Normed { eps } = self {
            eps.write("eps", to);
        }
    }

    fn sample(choose: Choose<'_>) -> Selection {
        [Selection::Given, Selection::Projected, Selection::Normed { eps: 1e-5 }][choose(3)]
    }
}
