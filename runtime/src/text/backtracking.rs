//! Regular expressions of a tokenizer whose search would not end: refused before the tokenizer is built.
//!
//! The library searches with automata, in linear time, except for lookarounds, word boundaries, back references and what stands before them: there
//! it tries one way after the other. The number of ways from one place of a text of `n` characters is at most `many · n^degree`:
//!
//! | expression | ways |
//! |---|---|
//! | a character, an assertion, all that automata search | 1 |
//! | `a\|b` | the sum |
//! | `ab` | the product |
//! | `a{2,5}` where `a` has one way | 4 |
//! | `a*` where `a` has one way | n |
//! | `a*` where `a` has several | without bound |
//! | a back reference; a lookaround of any length | n, the time of one look |
//!
//! `\s+(?!\S)` of GPT-2's expression and its successors has degree 1.

use fancy_regex::{Assertion, Expr};

/// Most ways of an expression, times the length of the text.
const MOST_WAYS: f64 = 1000.0;

/// An upper bound on the number of ways to match.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ways {
    many: f64,
    degree: usize,
}

const ONE: Ways = Ways { many: 1.0, degree: 0 };
const ANY_LENGTH: Ways = Ways { many: 1.0, degree: 1 };

impl Ways {
    fn or(self, other: Ways) -> Ways {
        Ways { many: self.many + other.many, degree: self.degree.max(other.degree) }
    }

    fn then(self, other: Ways) -> Ways {
        Ways { many: self.many * other.many, degree: self.degree.saturating_add(other.degree) }
    }

    /// Of `lo` to `hi` repetitions; `usize::MAX` is no end.
    fn repeated(self, lo: usize, hi: usize) -> Option<Ways> {
        match (hi, self) {
            (usize::MAX, ONE) => Some(ANY_LENGTH),
            (usize::MAX, _) => None,
            (_, ONE) => Some(Ways { many: hi.saturating_sub(lo) as f64 + 1.0, degree: 0 }),
            _ => {
                // Two or more ways each: the longest repetition has more than half of all.
                let many = 2.0 * self.many.max(2.0).powi(i32::try_from(hi).unwrap_or(i32::MAX));
                Some(Ways { many, degree: self.degree.saturating_mul(hi) })
            }
        }
    }
}

/// Refuses an expression with too many ways. One that cannot be parsed is left to the library, which says why.
pub(super) fn check(expression: &str) -> Result<(), String> {
    let Ok(tree) = Expr::parse_tree(expression) else { return Ok(()) };
    match ways(&tree.expr, false) {
        Some(Ways { many, degree: 0 | 1 }) if many <= MOST_WAYS => Ok(()),
        _ => Err(format!(
            "found {expression:?}, whose search would not end on some texts; expected an expression with at most one repetition \
             without an end before a lookaround, a word boundary or a back reference, and no repetition in another"
        )),
    }
}

/// The ways of an expression; `is_retried` if what follows may have to try another one. None if there is no bound.
fn ways(expression: &Expr, is_retried: bool) -> Option<Ways> {
    if !is_retried && !backtracks(expression) {
        return Some(ONE);
    }
    match expression {
        Expr::Concat(parts) => {
            // What follows the last part that backtracks is left to an automaton.
            let last = parts.iter().rposition(backtracks).map_or(0, |last| last + 1);
            let tried = if is_retried { parts.len() } else { last };
            let end = |index| is_retried || index + 1 < parts.len();
            let tried = parts[..tried].iter().enumerate().map(|(index, part)| ways(part, end(index)));
            tried.into_iter().try_fold(ONE, |all, part| Some(all.then(part?)))
        }
        Expr::Alt(parts) => {
            let none = Ways { many: 0.0, degree: 0 };
            parts.iter().try_fold(none, |all, part| Some(all.or(ways(part, is_retried)?)))
        }
        Expr::Group(inner) => ways(inner, is_retried),
        Expr::AtomicGroup(inner) => ways(inner, false),
        Expr::LookAround(inner, _) if backtracks(inner) => ways(inner, false),
        Expr::LookAround(inner, _) => Some(if is_bounded(inner) { ONE } else { ANY_LENGTH }),
        Expr::Repeat { child, lo, hi, .. } => ways(child, true)?.repeated(*lo, *hi),
        Expr::Conditional { condition, true_branch, false_branch } => {
            let branches = ways(true_branch, is_retried)?.or(ways(false_branch, is_retried)?);
            Some(ways(condition, true)?.then(branches))
        }
        Expr::Backref(_) => Some(ANY_LENGTH),
        _ => Some(ONE),
    }
}

/// True if no automaton searches the expression.
fn backtracks(expression: &Expr) -> bool {
    match expression {
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().any(backtracks),
        Expr::Group(inner) | Expr::Repeat { child: inner, .. } => backtracks(inner),
        Expr::Assertion(assertion) => matches!(
            assertion,
            Assertion::LeftWordBoundary
                | Assertion::RightWordBoundary
                | Assertion::WordBoundary
                | Assertion::NotWordBoundary
        ),
        Expr::LookAround(..)
        | Expr::AtomicGroup(_)
        | Expr::Backref(_)
        | Expr::BackrefExistsCondition(_)
        | Expr::Conditional { .. }
        | Expr::KeepOut
        | Expr::ContinueFromPreviousMatchEnd => true,
        _ => false,
    }
}

/// True if the matches of an expression have a greatest length.
fn is_bounded(expression: &Expr) -> bool {
    match expression {
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().all(is_bounded),
        Expr::Group(inner) => is_bounded(inner),
        Expr::Repeat { child, hi, .. } => *hi != usize::MAX && is_bounded(child),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_known_tokenizers_are_taken() {
        for expression in [
            // GPT-2, Llama 3, o200k, DeepSeek 3, Command R, Bloom.
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"(?<=\d)(?=\d)|\p{N}{1,3}(?!\p{N})|\s++(?!\S)",
            "(a+)+b", // an automaton's
        ] {
            assert_eq!(check(expression), Ok(()), "{expression}");
        }
    }

    #[test]
    fn expressions_that_try_too_many_ways_are_refused() {
        for expression in [
            r"(a+)+(?!b)",
            r"(?:a|a)*(?=b)",
            r"(?:a|a){30}(?!b)",
            r"a*a*a*(?!b)",
            r"(?:(?!x)a*)*",
            r"(a*)\1",
            r"x+(?=.*y)",
            r"(?>(?:a|a)*(?!b))c",
            r"(?=(a+)+(?!b))",
        ] {
            assert!(check(expression).is_err_and(|reason| reason.contains("would not end")), "{expression}");
        }
        assert_eq!(check("("), Ok(()), "the library says what is wrong");
    }
}
