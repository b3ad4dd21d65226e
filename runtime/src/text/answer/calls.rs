//! The JSON of calls: an object with `name` and `arguments`, or a list of such objects.
//!
//! Only what finds the end of each value is checked, so that the arguments can be told while they arrive.

use super::AnswerEvent;

/// What happened to the input.
pub(super) enum Step<'i> {
    /// All of it was read.
    More,
    /// The calls ended; the rest is not theirs.
    Done(&'i str),
    /// The rest cannot go on a call. What belongs to no call is in [`Calls::into_raw`].
    Failed(&'i str),
}

/// What is expected next.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// An object or a list.
    Begin,
    /// An object of a list, or the end of the list.
    Item,
    AfterItem,
    Key,
    KeyText,
    Colon,
    Value,
    NameText,
    /// In a value: between its brackets, or in a number or a word.
    Inside,
    /// In a string within a value.
    InsideText,
    /// In arguments that are a JSON text in a string.
    ArgumentsText,
    AfterValue,
    End,
}

/// The keys of a call.
#[derive(Clone, Copy, PartialEq)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// Reads calls.
pub(super) struct Calls {
    place: Place,
    is_list: bool,
    /// True if calls came before, within the same tags.
    is_further: bool,
    /// The text that belongs to no call so far.
    raw: String,
    field: Field,
    /// The string in progress.
    text: JsonText,
    name: Option<String>,
    /// Number of open brackets in the value.
    depth: usize,
    /// True after a backslash in a string.
    is_escaped: bool,
    /// Arguments that were not told yet.
    arguments: String,
    has_arguments: bool,
    has_told: bool,
    /// True from the start of a call to its end.
    is_started: bool,
    n_started: usize,
    /// True if all of the text up to here belongs to calls.
    is_settled: bool,
    events: Vec<AnswerEvent>,
}

impl Calls {
    pub(super) fn new() -> Calls {
        Calls {
            place: Place::Begin,
            is_list: false,
            is_further: false,
            raw: String::new(),
            field: Field::Other,
            text: JsonText::default(),
            name: None,
            depth: 0,
            is_escaped: false,
            arguments: String::new(),
            has_arguments: false,
            has_told: false,
            is_started: false,
            n_started: 0,
            is_settled: false,
            events: Vec::new(),
        }
    }

    /// Reads a call that follows others without a tag between them.
    pub(super) fn further() -> Calls {
        Calls { is_further: true, ..Calls::new() }
    }

    pub(super) fn is_further(&self) -> bool {
        self.is_further
    }

    /// True if a call came before the text that cannot be read.
    pub(super) fn has_call(&self) -> bool {
        self.n_started > 0
    }

    /// The text that belongs to no call.
    pub(super) fn into_raw(self) -> String {
        self.raw
    }

    /// Moves the events that occurred to `events`.
    pub(super) fn tell(&mut self, events: &mut Vec<AnswerEvent>) {
        self.tell_arguments();
        events.append(&mut self.events);
    }

    /// Reads as much of the input as belongs to calls.
    pub(super) fn push<'i>(&mut self, input: &'i str) -> Step<'i> {
        for (at, c) in input.char_indices() {
            let Some(place) = self.next(c) else {
                self.end_call();
                return Step::Failed(&input[at..]);
            };
            self.place = place;
            self.raw.push(c);
            if std::mem::take(&mut self.is_settled) {
                self.raw.clear();
            }
            if place == Place::End {
                return Step::Done(&input[at + c.len_utf8()..]);
            }
        }
        Step::More
    }

    /// Ends the answer. Returns true if all of the text belongs to calls.
    pub(super) fn finish(&mut self) -> bool {
        self.end_call();
        self.has_call() && self.raw.trim().is_empty()
    }

    /// The place after a character; None if the character cannot follow.
    fn next(&mut self, c: char) -> Option<Place> {
        match self.place {
            Place::KeyText => {
                if !self.text.push(c) {
                    return Some(Place::KeyText);
                }
                self.field = match self.text.take().as_str() {
                    "name" if self.name.is_none() => Field::Name,
                    "arguments" if !self.has_arguments => Field::Arguments,
                    _ => Field::Other,
                };
                Some(Place::Colon)
            }
            Place::NameText => {
                if !self.text.push(c) {
                    return Some(Place::NameText);
                }
                self.name = Some(self.text.take()).filter(|name| !name.is_empty());
                self.name.as_ref()?;
                if self.has_arguments {
                    self.start_call();
                }
                Some(Place::AfterValue)
            }
            Place::ArgumentsText => {
                let is_end = self.text.push(c);
                self.arguments += &self.text.take();
                self.is_settled = self.is_started;
                Some(if is_end { Place::AfterValue } else { Place::ArgumentsText })
            }
            Place::InsideText => {
                self.keep(c);
                let is_end = c == '"' && !self.is_escaped;
                self.is_escaped = c == '\\' && !self.is_escaped;
                Some(match (is_end, self.depth) {
                    (true, 0) => Place::AfterValue,
                    (true, _) => Place::Inside,
                    (false, _) => Place::InsideText,
                })
            }
            Place::Inside if self.depth > 0 => self.inside(c),
            Place::Inside if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => {
                self.keep(c);
                Some(Place::Inside)
            }
            Place::Inside => {
                self.end_word();
                self.after_value(c)
            }
            place if matches!(c, ' ' | '\n' | '\r' | '\t') && place != Place::End => Some(place),
            Place::Begin if c == '[' => {
                self.is_list = true;
                Some(Place::Item)
            }
            Place::Begin | Place::Item if c == '{' => Some(Place::Key),
            Place::Item | Place::AfterItem if c == ']' => Some(Place::End),
            Place::AfterItem if c == ',' => Some(Place::Item),
            Place::Key if c == '"' => Some(Place::KeyText),
            Place::Key if c == '}' => self.end_object(),
            Place::Colon if c == ':' => Some(Place::Value),
            Place::Value => self.value(c),
            Place::AfterValue => self.after_value(c),
            _ => None,
        }
    }

    /// The first character of a value.
    fn value(&mut self, c: char) -> Option<Place> {
        let is_arguments = self.field == Field::Arguments;
        match c {
            _ if self.field == Field::Name => (c == '"').then_some(Place::NameText),
            '"' if is_arguments => {
                self.begin_arguments();
                Some(Place::ArgumentsText)
            }
            '{' | '[' => {
                if is_arguments {
                    self.begin_arguments();
                }
                self.depth = 1;
                self.keep(c);
                Some(Place::Inside)
            }
            '"' => Some(Place::InsideText),
            '0'..='9' | 'a'..='z' | 'A'..='Z' | '-' => {
                self.keep(c);
                Some(Place::Inside)
            }
            _ => None,
        }
    }

    /// A character between the brackets of a value.
    fn inside(&mut self, c: char) -> Option<Place> {
        match c {
            '"' => {
                self.keep(c);
                return Some(Place::InsideText);
            }
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            ' ' | '\n' | '\r' | '\t' | ',' | ':' | '+' | '-' | '.' => {}
            c if c.is_ascii_alphanumeric() => {}
            _ => return None,
        }
        self.keep(c);
        Some(if self.depth == 0 { Place::AfterValue } else { Place::Inside })
    }

    fn after_value(&mut self, c: char) -> Option<Place> {
        match c {
            ' ' | '\n' | '\r' | '\t' => Some(Place::AfterValue),
            ',' => Some(Place::Key),
            '}' => self.end_object(),
            _ => None,
        }
    }

    /// Appends a character of the value to the arguments, if it is theirs.
    fn keep(&mut self, c: char) {
        if self.field == Field::Arguments {
            self.arguments.push(c);
            self.is_settled = self.is_started;
        }
    }

    fn begin_arguments(&mut self) {
        self.has_arguments = true;
        if self.name.is_some() {
            self.start_call();
        }
    }

    /// The end of a number or a word. Arguments that are null are absent.
    fn end_word(&mut self) {
        if self.field != Field::Arguments {
            return;
        }
        if self.arguments == "null" {
            self.arguments.clear();
        } else {
            self.begin_arguments();
        }
    }

    fn end_object(&mut self) -> Option<Place> {
        if !self.is_started {
            self.name.as_ref()?;
            self.start_call();
        }
        self.end_call();
        self.is_settled = true;
        Some(if self.is_list { Place::AfterItem } else { Place::End })
    }

    fn start_call(&mut self) {
        let name = self.name.clone().unwrap_or_default();
        self.events.push(AnswerEvent::CallStarted { index: 0, id: String::new(), name });
        self.is_started = true;
        self.is_settled = true;
        self.n_started += 1;
    }

    /// Ends the call, if one started. Absent arguments are an empty object: clients parse them.
    fn end_call(&mut self) {
        if self.is_started {
            self.tell_arguments();
            if !self.has_told {
                self.events.push(AnswerEvent::Arguments("{}".to_owned()));
            }
            self.events.push(AnswerEvent::CallEnded);
        }
        self.arguments.clear();
        self.text = JsonText::default();
        self.name = None;
        (self.is_started, self.has_arguments, self.has_told) = (false, false, false);
    }

    fn tell_arguments(&mut self) {
        if self.is_started && !self.arguments.is_empty() {
            self.has_told = true;
            self.events.push(AnswerEvent::Arguments(std::mem::take(&mut self.arguments)));
        }
    }
}

/// The text of a JSON string, read one character at a time.
#[derive(Default)]
struct JsonText {
    text: String,
    /// The characters of an escape, from its backslash.
    escape: String,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

impl JsonText {
    /// Appends a character of the source. Returns true at the closing quote.
    fn push(&mut self, c: char) -> bool {
        if self.escape.is_empty() {
            match c {
                '\\' => self.escape.push(c),
                '"' => {
                    self.end_pair();
                    return true;
                }
                c => self.add(c),
            }
            return false;
        }
        self.escape.push(c);
        match self.escape[1..].strip_prefix('u') {
            Some(digits) if digits.len() < 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => return false,
            Some(digits) => match u32::from_str_radix(digits, 16) {
                Ok(unit) => self.unit(unit),
                Err(_) => self.verbatim(),
            },
            None => match c {
                'n' => self.add('\n'),
                't' => self.add('\t'),
                'r' => self.add('\r'),
                'b' => self.add('\u{8}'),
                'f' => self.add('\u{c}'),
                '"' | '\\' | '/' => self.add(c),
                _ => self.verbatim(),
            },
        }
        self.escape.clear();
        false
    }

    /// The text so far.
    fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn add(&mut self, c: char) {
        self.end_pair();
        self.text.push(c);
    }

    /// Keeps what is no escape as it was written.
    fn verbatim(&mut self) {
        self.end_pair();
        self.text += &self.escape;
    }

    /// A half of a pair without the other half is no character.
    fn end_pair(&mut self) {
        if self.high.take().is_some() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Adds a unit of UTF-16.
    fn unit(&mut self, unit: u32) {
        match (unit, self.high.take()) {
            (0xdc00..=0xdfff, Some(high)) => {
                let code = 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
                self.text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (0xd800..=0xdbff, before) => {
                self.high = before;
                self.end_pair();
                self.high = Some(unit);
            }
            (unit, before) => {
                self.high = before;
                self.add(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }
}
