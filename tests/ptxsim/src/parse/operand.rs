//! Operands: registers, immediates, vectors, addresses.

use super::token::{Token, error};
use crate::fault::ParseError;

/// A parsed operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A register, symbol, label or immediate.
    Word(String),
    /// `!p`
    Not(String),
    /// `a|b`
    Pair(String, String),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `symbol+8`
    Sum(String, i64),
    /// `[base+offset]`, with `{x, y}` for tensors.
    Address { base: String, offset: i64, coordinates: Vec<Operand> },
}

impl Operand {
    /// Visits every word.
    pub fn words(&self, f: &mut impl FnMut(&str)) {
        match self {
            Operand::Word(word) | Operand::Not(word) | Operand::Sum(word, _) => f(word),
            Operand::Pair(a, b) => {
                f(a);
                f(b);
            }
            Operand::Vector(items) => items.iter().for_each(|item| item.words(f)),
            Operand::Address { base, coordinates, .. } => {
                f(base);
                coordinates.iter().for_each(|item| item.words(f));
            }
        }
    }
}

/// An integer: decimal, `0x…` or `0b…`, with an optional `U` and an optional sign.
pub(crate) fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        i128::from_str_radix(hex, 16).ok()?
    } else if let Some(bits) = digits.strip_prefix("0b") {
        i128::from_str_radix(bits, 2).ok()?
    } else {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?
    };
    Some(if negative { -value } else { value })
}

/// Parses operands separated by commas.
pub(super) fn operands(tokens: &[Token]) -> Result<Vec<Operand>, ParseError> {
    split(tokens).into_iter().map(operand).collect()
}

fn split<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let (mut parts, mut first, mut depth) = (Vec::new(), 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[first..i]);
                first = i + 1;
            }
            _ => {}
        }
    }
    if first < tokens.len() {
        parts.push(&tokens[first..]);
    }
    parts
}

fn operand(tokens: &[Token]) -> Result<Operand, ParseError> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text).collect();
    let line = tokens.first().map_or(0, |token| token.line);
    let unreadable = || error(line, format!("cannot read the operand `{}`", texts.join(" ")));
    match texts[..] {
        [word] if tokens[0].is_word() => Ok(Operand::Word(word.to_owned())),
        ["-", word] => Ok(Operand::Word(format!("-{word}"))),
        ["!", word] => Ok(Operand::Not(word.to_owned())),
        [a, "|", b] => Ok(Operand::Pair(a.to_owned(), b.to_owned())),
        ["{", .., "}"] => Ok(Operand::Vector(operands(&tokens[1..tokens.len() - 1])?)),
        ["[", .., "]"] => address(&tokens[1..tokens.len() - 1]).ok_or_else(unreadable),
        [base, "+", ..] | [base, "-", ..] => {
            Ok(Operand::Sum(base.to_owned(), offset(&texts[1..]).ok_or_else(unreadable)?))
        }
        _ => Err(unreadable()),
    }
}

fn address(tokens: &[Token]) -> Option<Operand> {
    let parts = split(tokens);
    let (first, coordinates) = match parts[..] {
        [first] => (first, Vec::new()),
        [first, coordinates] => match operand(coordinates).ok()? {
            Operand::Vector(items) => (first, items),
            _ => return None,
        },
        _ => return None,
    };
    let texts: Vec<&str> = first.iter().map(|token| token.text).collect();
    let (base, rest) = texts.split_first()?;
    Some(Operand::Address { base: (*base).to_owned(), offset: offset(rest)?, coordinates })
}

/// An optional offset: `+8`, `-8`, `+-8`.
fn offset(texts: &[&str]) -> Option<i64> {
    match texts {
        [] => Some(0),
        ["+", value] => number(value).map(|value| value as i64),
        ["-", value] | ["+", "-", value] => number(value).map(|value| -(value as i64)),
        _ => None,
    }
}
