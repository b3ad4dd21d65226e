//! Signatures: element types and dims of operands and results, with letters for the dims that vary.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};

use crate::tensor::{DType, Dim, Symbol, Type};

/// One dimension of an operand or a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Term {
    /// Any number of leading dims, the same wherever it appears; always first.
    Leading,
    /// A number or a symbol.
    Known(Dim),
    /// Any dimension, the same wherever the letter appears.
    Letter(&'static str),
    Sum(Box<Term>, Box<Term>),
    Difference(Box<Term>, Box<Term>),
    Product(Box<Term>, Box<Term>),
}

impl Term {
    /// Expressions are only checked; they never bind a letter.
    pub(crate) fn is_expression(&self) -> bool {
        matches!(self, Term::Sum(..) | Term::Difference(..) | Term::Product(..))
    }
}

impl From<usize> for Term {
    fn from(n: usize) -> Term {
        Term::Known(Dim::Fixed(n))
    }
}

impl<T: Into<Term>> Add<T> for Term {
    type Output = Term;

    fn add(self, other: T) -> Term {
        Term::Sum(self.into(), Box::new(other.into()))
    }
}

impl<T: Into<Term>> Sub<T> for Term {
    type Output = Term;

    fn sub(self, other: T) -> Term {
        Term::Difference(self.into(), Box::new(other.into()))
    }
}

impl Mul for Term {
    type Output = Term;

    fn mul(self, other: Term) -> Term {
        Term::Product(self.into(), other.into())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Leading => f.write_str("…"),
            Term::Known(dim) => dim.fmt(f),
            Term::Letter(letter) => f.write_str(letter),
            Term::Sum(a, b) => write!(f, "{a}+{b}"),
            Term::Difference(a, b) => write!(f, "{a}-{b}"),
            Term::Product(a, b) => write!(f, "{a}*{b}"),
        }
    }
}

/// The element types an operand may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// f32: an activation or a recurrent state.
    F32,
    /// Any floating-point type: a parameter as the checkpoint stores it.
    Float,
    /// Any floating-point type or i8: the weight of a linear.
    Matrix,
    /// f32 or bf16: keys and values.
    Cache,
    /// i32: ids and indices.
    Index,
}

impl Kind {
    pub(crate) fn accepts(self, dtype: DType) -> bool {
        match self {
            Kind::F32 => dtype == DType::F32,
            Kind::Float => matches!(dtype, DType::F32 | DType::Bf16 | DType::F16),
            Kind::Matrix => matches!(dtype, DType::I8 | DType::I4 | DType::F8) || Kind::Float.accepts(dtype),
            Kind::Cache => matches!(dtype, DType::F32 | DType::Bf16),
            Kind::Index => dtype == DType::I32,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::F32 => "f32",
            Kind::Float => "f32|bf16|f16",
            Kind::Matrix => "f32|bf16|f16|i8",
            Kind::Cache => "f32|bf16",
            Kind::Index => "i32",
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) dims: Vec<Term>,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The type of the operand in this slot.
    Like(usize),
    /// Element type and dims.
    New(DType, Vec<Term>),
}

/// Operands and results of an op, built left to right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signature {
    pub(crate) operands: Vec<Operand>,
    pub(crate) results: Vec<Outcome>,
    /// Letters whose value is an attribute.
    pub(crate) letters: Vec<(Term, usize)>,
}

impl Signature {
    /// A letter whose value is an attribute.
    pub(crate) fn binds(mut self, letter: Term, n: usize) -> Signature {
        self.letters.push((letter, n));
        self
    }

    /// One more operand.
    pub(crate) fn takes<const N: usize>(mut self, name: &'static str, kind: Kind, dims: [Term; N]) -> Signature {
        self.operands.push(Operand { name, kind, dims: dims.into() });
        self
    }

    /// One more operand, if the condition holds.
    pub(crate) fn takes_if<const N: usize>(
        self,
        condition: bool,
        name: &'static str,
        kind: Kind,
        dims: [Term; N],
    ) -> Signature {
        if condition { self.takes(name, kind, dims) } else { self }
    }

    /// The operands that several ops share.
    pub(crate) fn and(self, then: impl FnOnce(Signature) -> Signature) -> Signature {
        then(self)
    }

    /// One more result, of the type of an operand.
    pub(crate) fn gives_like(mut self, slot: usize) -> Signature {
        self.results.push(Outcome::Like(slot));
        self
    }

    /// One more result, of f32.
    pub(crate) fn gives_f32<const N: usize>(mut self, dims: [Term; N]) -> Signature {
        self.results.push(Outcome::New(DType::F32, dims.into()));
        self
    }

    /// One more result, of i32.
    pub(crate) fn gives_i32<const N: usize>(mut self, dims: [Term; N]) -> Signature {
        self.results.push(Outcome::New(DType::I32, dims.into()));
        self
    }
}

/// The values of letters and leading dims.
#[derive(Default)]
pub(crate) struct Bindings {
    letters: BTreeMap<&'static str, Dim>,
    leading: Option<Vec<Dim>>,
}

impl Bindings {
    pub(crate) fn of(letters: &[(Term, usize)]) -> Bindings {
        let mut bound = Bindings::default();
        for (letter, n) in letters {
            bound.bind(letter, Dim::Fixed(*n));
        }
        bound
    }

    /// Gives a letter its value; other terms have theirs.
    pub(crate) fn bind(&mut self, term: &Term, dim: Dim) {
        if let Term::Letter(letter) = term {
            self.letters.insert(letter, dim);
        }
    }

    /// The value of a term, if it is known.
    pub(crate) fn eval(&self, term: &Term) -> Option<Dim> {
        let number = |a: &Term, b: &Term, f: fn(usize, usize) -> Option<usize>| {
            Some(Dim::Fixed(f(self.fixed(a)?, self.fixed(b)?)?))
        };
        match term {
            Term::Leading => None,
            Term::Known(dim) => Some(*dim),
            Term::Letter(letter) => self.letters.get(letter).copied(),
            Term::Sum(a, b) => number(a, b, usize::checked_add),
            Term::Difference(a, b) => number(a, b, usize::checked_sub),
            Term::Product(a, b) => number(a, b, usize::checked_mul),
        }
    }

    /// The value of a term, if it is a known number.
    pub(crate) fn fixed(&self, term: &Term) -> Option<usize> {
        self.eval(term)?.fixed()
    }

    /// Makes the terms equal to the dims; false when they cannot be.
    pub(crate) fn unify(&mut self, terms: &[Term], dims: &[Dim]) -> bool {
        let (terms, dims) = match terms.split_first() {
            Some((Term::Leading, rest)) => {
                let Some(n_leading) = dims.len().checked_sub(rest.len()) else { return false };
                let (leading, dims) = dims.split_at(n_leading);
                if *self.leading.get_or_insert_with(|| leading.to_vec()) != leading {
                    return false;
                }
                (rest, dims)
            }
            _ => (terms, dims),
        };
        terms.len() == dims.len()
            && terms.iter().zip(dims).all(|(term, &dim)| match self.eval(term) {
                Some(known) => known == dim,
                None => {
                    self.bind(term, dim);
                    !term.is_expression()
                }
            })
    }

    /// Known dims as values, the others as terms: `tokens, 8, K-1`.
    pub(crate) fn describe(&self, terms: &[Term]) -> String {
        let mut described = Vec::new();
        for term in terms {
            match (&self.leading, self.eval(term)) {
                (Some(leading), _) if *term == Term::Leading => described.extend(leading.iter().map(Dim::to_string)),
                (_, Some(dim)) => described.push(dim.to_string()),
                (_, None) => described.push(term.to_string()),
            }
        }
        described.join(", ")
    }

    /// The type of a result; every term is known once the operands are accepted.
    pub(crate) fn result(&self, outcome: &Outcome, operands: &[&Type]) -> Type {
        match outcome {
            Outcome::Like(slot) => operands[*slot].clone(),
            Outcome::New(dtype, terms) => {
                let dims = terms.iter().flat_map(|term| match (term, &self.leading) {
                    (Term::Leading, Some(leading)) => leading.clone(),
                    _ => self.eval(term).into_iter().collect(),
                });
                Type { dtype: *dtype, shape: dims.collect() }
            }
        }
    }
}

/// Letters and symbols that signatures are written with.
pub(crate) mod dims {
    use super::{Dim, Symbol, Term};
    use crate::op::MAX_PARTS;

    pub(crate) const LEADING: Term = Term::Leading;
    pub(crate) const TOKENS: Term = Term::Known(Dim::Symbol(Symbol::Tokens));
    pub(crate) const SEQUENCES: Term = Term::Known(Dim::Symbol(Symbol::Sequences));
    pub(crate) const CONTEXT: Term = Term::Known(Dim::Symbol(Symbol::Context));

    pub(crate) const C: Term = Term::Letter("C");
    pub(crate) const D: Term = Term::Letter("D");
    pub(crate) const E: Term = Term::Letter("E");
    pub(crate) const G: Term = Term::Letter("G");
    pub(crate) const H: Term = Term::Letter("H");
    pub(crate) const I: Term = Term::Letter("I");
    pub(crate) const K: Term = Term::Letter("K");
    pub(crate) const L: Term = Term::Letter("L");
    pub(crate) const N: Term = Term::Letter("N");
    pub(crate) const O: Term = Term::Letter("O");
    pub(crate) const R: Term = Term::Letter("R");
    pub(crate) const T: Term = Term::Letter("T");
    pub(crate) const V: Term = Term::Letter("V");

    /// Columns of the parts of a value.
    pub(crate) const L_OF: [Term; MAX_PARTS] =
        [Term::Letter("L0"), Term::Letter("L1"), Term::Letter("L2"), Term::Letter("L3")];
    /// Rows of several weights.
    pub(crate) const N_OF: [Term; MAX_PARTS] =
        [Term::Letter("N0"), Term::Letter("N1"), Term::Letter("N2"), Term::Letter("N3")];
}
