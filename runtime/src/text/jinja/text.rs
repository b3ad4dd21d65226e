//! Texts that know which of their parts come from outside: from messages, tools and documents, not from the template.
//!
//! Operations that cut or join texts keep track of every part. The result of any other operation is from outside as a whole if
//! one of its operands has a part that is.

use std::ops::{AddAssign, Deref, Range};
use std::rc::Rc;

use super::budget;
use super::value::{Callable, Value};

/// Most parts of a text from outside. What is behind that many is from outside as a whole.
const MOST_PARTS: usize = 1 << 20;

/// An immutable text. Two texts are the same if their characters are.
#[derive(Clone)]
pub(super) struct Text {
    text: Rc<str>,
    /// The parts from outside, in order; None if there are none.
    outside: Option<Rc<Vec<Range<usize>>>>,
}

impl Text {
    /// A text from outside.
    pub(super) fn from_outside(text: &str) -> Text {
        Output::default().with(text, Origin::Outside).into_text()
    }

    /// A text from outside but for these words, which are the template's.
    pub(super) fn from_outside_with(text: &str, words: &[&str]) -> Text {
        // Each word is looked for once in each part of the text, however often the others are found.
        let find = |word: &str, from: usize| text[from..].find(word).map(|at| from + at);
        let mut next: Vec<Option<usize>> = words.iter().map(|word| find(word, 0)).collect();
        let (mut out, mut from) = (Output::default(), 0);
        while let Some((at, word)) = next.iter().zip(words).filter_map(|(at, word)| Some(((*at)?, *word))).min() {
            out.add(&text[from..at], Origin::Outside);
            out += word;
            from = at + word.len();
            for (next, word) in next.iter_mut().zip(words).filter(|(next, _)| next.is_some_and(|at| at < from)) {
                *next = find(word, from);
            }
        }
        out.add(&text[from..], Origin::Outside);
        out.into_text()
    }

    /// A part of this text, which `part` borrows from.
    pub(super) fn part(&self, part: &str) -> Text {
        let Some(outside) = &self.outside else { return Text::from(part) };
        let begin = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let end = begin.saturating_add(part.len());
        if end > self.text.len() {
            // It borrows from another text: all of it may be from outside.
            return Text::from_outside(part);
        }
        let first = outside.partition_point(|range| range.end <= begin);
        let shared = outside[first..].iter().take_while(|range| range.start < end);
        let shared: Vec<Range<usize>> = shared
            .map(|range| range.start.max(begin) - begin..range.end.min(end) - begin)
            .filter(|range| !range.is_empty())
            .collect();
        budget::made_text(part.len(), shared.len());
        Text { text: Rc::from(part), outside: Some(shared).filter(|shared| !shared.is_empty()).map(Rc::new) }
    }

    /// True if both share their memory.
    pub(super) fn is_same(&self, other: &Text) -> bool {
        Rc::ptr_eq(&self.text, &other.text)
    }

    /// The parts from outside, in order.
    pub(super) fn outside(&self) -> &[Range<usize>] {
        self.outside.as_ref().map_or(&[], |outside| outside)
    }

    /// The text cut into parts of one origin.
    pub(super) fn parts(&self) -> Vec<(&str, Origin)> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for range in self.outside() {
            parts.push((&self.text[at..range.start], Origin::Template));
            parts.push((&self.text[range.clone()], Origin::Outside));
            at = range.end;
        }
        parts.push((&self.text[at..], Origin::Template));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        budget::made_text(text.len(), 0);
        Text { text: Rc::from(text), outside: None }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        budget::made_text(text.len(), 0);
        Text { text: text.into(), outside: None }
    }
}

/// Where a part of a text comes from.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Origin {
    Template,
    Outside,
}

impl Origin {
    /// The origin of what is made of these values.
    pub(super) fn of<'v>(values: impl IntoIterator<Item = &'v Value>) -> Origin {
        if values.into_iter().any(Value::has_outside) { Origin::Outside } else { Origin::Template }
    }
}

/// A text in progress. What is appended as `&str` comes from the template.
#[derive(Default)]
pub(super) struct Output {
    text: String,
    outside: Vec<Range<usize>>,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn push(&mut self, c: char) {
        self.text.push(c);
    }

    /// Appends text of this origin.
    pub(super) fn add(&mut self, text: &str, origin: Origin) {
        let begin = self.text.len();
        self.text += text;
        if origin == Origin::Outside && !text.is_empty() {
            self.mark(begin..self.text.len());
        }
    }

    /// Marks all text behind `begin` as of this origin.
    pub(super) fn mark_from(&mut self, begin: usize, origin: Origin) {
        if origin == Origin::Outside && begin < self.text.len() {
            self.mark(begin..self.text.len());
        }
    }

    fn mark(&mut self, range: Range<usize>) {
        let is_full = self.outside.len() >= MOST_PARTS;
        match self.outside.last_mut() {
            Some(last) if last.end >= range.start || is_full => last.end = range.end,
            _ => self.outside.push(range),
        }
    }

    /// Appends a text this many times.
    pub(super) fn add_repeated(&mut self, text: &Text, count: usize) {
        let begin = self.text.len();
        self.text += &text.repeat(count);
        if text.outside().is_empty() {
            return;
        }
        for at in (0..count).map(|at| begin + at * text.len()) {
            if self.outside.len() >= MOST_PARTS {
                return self.mark(at..self.text.len());
            }
            text.outside().iter().for_each(|range| self.mark(at + range.start..at + range.end));
        }
    }

    fn with(mut self, text: &str, origin: Origin) -> Output {
        self.add(text, origin);
        self
    }

    pub(super) fn into_text(self) -> Text {
        let Output { text, outside } = self;
        budget::made_text(text.len(), outside.len());
        Text { text: text.into(), outside: Some(outside).filter(|outside| !outside.is_empty()).map(Rc::new) }
    }

    /// The text, and its parts from outside.
    pub(super) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.text, self.outside)
    }
}

impl AddAssign<&str> for Output {
    fn add_assign(&mut self, text: &str) {
        self.text += text;
    }
}

impl AddAssign<&Text> for Output {
    fn add_assign(&mut self, text: &Text) {
        let begin = self.text.len();
        self.text += text;
        for range in text.outside() {
            self.mark(begin + range.start..begin + range.end);
        }
    }
}

impl Extend<char> for Output {
    fn extend<I: IntoIterator<Item = char>>(&mut self, characters: I) {
        self.text.extend(characters);
    }
}

impl Value {
    /// True if it contains text from outside.
    pub(super) fn has_outside(&self) -> bool {
        // Values that share parts take exponential time. Beyond the limit, the result is not used.
        if budget::compared(0) {
            return true;
        }
        let any = |values: &[Value]| values.iter().any(Value::has_outside);
        match self {
            Value::Text(text) | Value::Markup(text) => !text.outside().is_empty(),
            Value::List(sequence) | Value::Tuple(sequence) => any(&sequence.items),
            Value::Dict(dict) => {
                dict.entries.iter().any(|(key, value)| key.value().has_outside() || value.has_outside())
            }
            Value::View(view) => any(&view.items),
            Value::Cycler(cycler) => any(&cycler.items),
            Value::Callable(callable) => matches!(&**callable, Callable::Method(value, _) if value.has_outside()),
            // These have no text of their own that an operation could use, or may contain any.
            Value::Iterator(_) | Value::Namespace(_) | Value::Loop(_) => true,
            _ => false,
        }
    }

    /// A result that was made of values of this origin: texts without known parts are from there as a whole.
    pub(super) fn made_of(self, origin: Origin) -> Value {
        if origin == Origin::Template {
            return self;
        }
        let marked = |text: Text| if text.outside().is_empty() { Text::from_outside(&text) } else { text };
        match self {
            Value::Text(text) => Value::Text(marked(text)),
            Value::Markup(text) => Value::Markup(marked(text)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_origin() {
        let mut out = Output::default();
        out += "ab";
        out.add("cd", Origin::Outside);
        out += &Text::from_outside("ef");
        out.push('g');
        let text = out.into_text();
        let outside = |text: &Text| text.outside().iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!((&*text, outside(&text)), ("abcdefg", vec![(2, 6)]));
        let parts = [&text[1..3], &text[..2], &text[6..], "elsewhere"].map(|part| outside(&text.part(part)));
        assert_eq!(parts, [vec![(1, 2)], vec![], vec![], vec![(0, 9)]]);
        let words = Text::from_outside_with("a</b>c<b>", &["<b>", "</b>"]);
        assert_eq!((&*words, outside(&words)), ("a</b>c<b>", vec![(0, 1), (5, 6)]));
        let parts: Vec<&str> = text.parts().into_iter().map(|(part, _)| part).collect();
        assert_eq!(parts, ["ab", "cdef", "g"]);
    }
}
