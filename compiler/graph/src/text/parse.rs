//! Text → graph: a lexer, then a parser that reads one statement at a time.

use std::collections::BTreeMap;
use std::fmt;

use super::is_word;
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::{Op, Reader};
use crate::tensor::{DType, Dim, Symbol, Type};

/// Text that is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: found {found}, expected {expected}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    pub found: String,
    pub expected: String,
}

/// Builds the graph that a text describes, with the types as written; [`verify`](fn@crate::verify::verify) checks them.
///
/// # Errors
/// The first syntax error, undefined value, or second definition of a value or an output.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser { tokens: lex(text)?, next: 0 };
    parser.graph()
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Value(String),
    Text(String),
    Mark(char),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "`{word}`"),
            Token::Value(name) => write!(f, "`%{name}`"),
            Token::Text(text) => write!(f, "{}", super::quote(text)),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => f.write_str("the end"),
        }
    }
}

/// Line and column, from 1.
type Place = (usize, usize);

fn error(place: Place, found: impl fmt::Display, expected: impl fmt::Display) -> ParseError {
    // A file of another kind can be one word.
    const LONGEST: usize = 60;
    let found = found.to_string();
    let found = match found.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &found[..end]),
        None => found,
    };
    ParseError { line: place.0, column: place.1, found, expected: expected.to_string() }
}

fn lex(text: &str) -> Result<Vec<(Token, Place)>, ParseError> {
    let mut tokens = Vec::new();
    let mut place = (1, 1);
    for (line, content) in text.lines().enumerate() {
        let chars: Vec<char> = content.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            place = (line + 1, at + 1);
            let word = |from: usize| chars[from..].iter().take_while(|&&c| is_word(c)).collect::<String>();
            let token = match chars[at] {
                c if c.is_whitespace() => {
                    at += 1;
                    continue;
                }
                '/' if chars.get(at + 1) == Some(&'/') => break,
                '"' => {
                    let (string, len) = lex_string(&chars[at + 1..]).ok_or_else(|| {
                        error(place, "a string without its end", "`\"` and only the escapes \\\" \\\\ \\n \\r \\t")
                    })?;
                    at += len + 1;
                    tokens.push((Token::Text(string), place));
                    continue;
                }
                '%' => Token::Value(word(at + 1)),
                c if is_word(c) => Token::Word(word(at)),
                c if "@{}=,:[]".contains(c) => Token::Mark(c),
                c => {
                    return Err(error(
                        place,
                        format!("`{c}`"),
                        "a name, a number, a string or one of @ { } = , : [ ] %",
                    ));
                }
            };
            at += match &token {
                Token::Value(name) => name.len() + 1,
                Token::Word(word) => word.len(),
                _ => 1,
            };
            tokens.push((token, place));
        }
        place = (line + 1, chars.len() + 1);
    }
    tokens.push((Token::End, place));
    Ok(tokens)
}

/// A string's value and its length in characters, closing quote included; `None` if it is not closed.
fn lex_string(chars: &[char]) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut at = 0;
    loop {
        match chars.get(at)? {
            '"' => return Some((value, at + 1)),
            '\\' => {
                at += 1;
                value.push(match chars.get(at)? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    c @ ('"' | '\\') => *c,
                    _ => return None,
                });
            }
            c => value.push(*c),
        }
        at += 1;
    }
}

struct Parser {
    tokens: Vec<(Token, Place)>,
    next: usize,
}

/// A value's name and where it is written.
type Named = (String, Place);

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    fn place(&self) -> Place {
        self.tokens[self.next].1
    }

    /// Steps over a token; the last one, the end, is never left.
    fn bump(&mut self) -> (Token, Place) {
        let token = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn expected(&self, expected: impl fmt::Display) -> ParseError {
        error(self.place(), self.peek(), expected)
    }

    fn accept(&mut self, token: &Token) -> bool {
        let accepted = self.peek() == token;
        if accepted {
            self.bump();
        }
        accepted
    }

    fn mark(&mut self, mark: char) -> Result<(), ParseError> {
        if self.accept(&Token::Mark(mark)) { Ok(()) } else { Err(self.expected(format!("`{mark}`"))) }
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        self.accept(&Token::Word(keyword.into()))
    }

    fn text(&mut self, what: &str) -> Result<String, ParseError> {
        match self.peek() {
            Token::Text(_) => match self.bump().0 {
                Token::Text(text) => Ok(text),
                _ => unreachable!("peeked a string"),
            },
            _ => Err(self.expected(what)),
        }
    }

    fn word(&mut self, what: &str) -> Result<Named, ParseError> {
        match self.peek().clone() {
            Token::Word(word) => Ok((word, self.bump().1)),
            _ => Err(self.expected(what)),
        }
    }

    fn value(&mut self) -> Result<Named, ParseError> {
        match self.peek().clone() {
            Token::Value(name) if !name.is_empty() => Ok((name, self.bump().1)),
            _ => Err(self.expected("a value like `%0`")),
        }
    }

    /// Items separated by commas, at least one.
    fn list<T>(&mut self, item: fn(&mut Self) -> Result<T, ParseError>) -> Result<Vec<T>, ParseError> {
        let mut items = vec![item(self)?];
        while self.accept(&Token::Mark(',')) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn graph(&mut self) -> Result<Graph, ParseError> {
        if !self.keyword("graph") {
            return Err(self.expected("`graph`"));
        }
        self.mark('@')?;
        let name = match self.peek() {
            Token::Text(_) => self.text("a name")?,
            _ => self.word("the graph's name")?.0,
        };
        let mut graph = Graph::new(name);
        graph.one_token = self.keyword("one_token");
        self.mark('{')?;

        let mut values: BTreeMap<String, ValueId> = BTreeMap::new();
        let mut reads: Vec<(NodeId, Vec<Named>)> = Vec::new();
        let mut outputs: BTreeMap<String, Named> = BTreeMap::new();
        while !self.accept(&Token::Mark('}')) {
            if self.keyword("output") {
                let place = self.place();
                let name = self.text("the output's name in quotes")?;
                self.mark('=')?;
                let value = self.value()?;
                if outputs.contains_key(&name) {
                    return Err(error(place, format!("output {} again", super::quote(&name)), "a name of its own"));
                }
                outputs.insert(name, value);
                continue;
            }
            if !matches!(self.peek(), Token::Value(_)) {
                return Err(self.expected("a node, an output or `}`"));
            }
            let (node, results, operands) = self.node(&mut graph)?;
            for (result, (name, place)) in results.into_iter().enumerate() {
                if values.contains_key(&name) {
                    return Err(error(place, format!("`%{name}` again"), "a name of its own"));
                }
                values.insert(name, ValueId { node, result });
            }
            reads.push((node, operands));
        }
        if *self.peek() != Token::End {
            return Err(self.expected("the end"));
        }

        let resolve = |(name, place): &Named| {
            values.get(name).copied().ok_or_else(|| error(*place, format!("`%{name}`"), "a value that a node makes"))
        };
        for (node, operands) in &reads {
            for (slot, operand) in operands.iter().enumerate() {
                graph.connect(resolve(operand)?, *node, slot);
            }
        }
        for (name, value) in &outputs {
            graph.set_output(name, resolve(value)?);
        }
        Ok(graph)
    }

    /// `%a, %b = op "name" %x, %y {key = value} : type, type loc "source"`: the node, its results' names, its operands' names.
    fn node(&mut self, graph: &mut Graph) -> Result<(NodeId, Vec<Named>, Vec<Named>), ParseError> {
        let results = self.list(Self::value)?;
        self.mark('=')?;
        let (op_name, op_place) = self.word("an op")?;
        let source_name = if Op::is_source_name(&op_name) { self.text("its name in quotes")? } else { String::new() };
        let operands = if matches!(self.peek(), Token::Value(_)) { self.list(Self::value)? } else { vec![] };
        let mut attributes = Attributes { op: op_name.clone(), place: op_place, given: vec![] };
        if self.accept(&Token::Mark('{')) {
            attributes.given = self.list(Self::attribute)?;
            self.mark('}')?;
        }
        let types_place = self.place();
        self.mark(':')?;
        let types = self.list(Self::ty)?;
        if types.len() != results.len() {
            return Err(error(
                types_place,
                format!("{} types", types.len()),
                format!("{}, one per result", results.len()),
            ));
        }
        let source = if self.keyword("loc") { self.text("a source in quotes")? } else { String::new() };
        let op = match Op::source(&op_name, source_name, types[0].clone()) {
            Some(source) => source,
            None => {
                Op::read(&op_name, &mut attributes)?.ok_or_else(|| error(op_place, format!("`{op_name}`"), "an op"))?
            }
        };
        attributes.finish()?;
        Ok((graph.add_unchecked(op, types, source), results, operands))
    }

    fn attribute(&mut self) -> Result<(Named, Named), ParseError> {
        let name = self.word("an attribute")?;
        self.mark('=')?;
        let place = self.place();
        if !self.accept(&Token::Mark('[')) {
            return Ok((name, self.word("its value")?));
        }
        let words = self.list(|parser| parser.word("a value of the list"))?;
        self.mark(']')?;
        let words: Vec<String> = words.into_iter().map(|(word, _)| word).collect();
        Ok((name, (format!("[{}]", words.join(", ")), place)))
    }

    fn ty(&mut self) -> Result<Type, ParseError> {
        let (word, place) = self.word("a type")?;
        let dtype = DType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == word)
            .ok_or_else(|| error(place, format!("`{word}`"), "f32, bf16, f16 or i32"))?;
        self.mark('[')?;
        let shape = if *self.peek() == Token::Mark(']') { vec![] } else { self.list(Self::dim)? };
        self.mark(']')?;
        Ok(Type { dtype, shape })
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        let (word, place) = self.word("a dimension")?;
        if let Some(symbol) = Symbol::ALL.into_iter().find(|symbol| symbol.name() == word) {
            return Ok(symbol.into());
        }
        let expected = "a number, tokens, sequences, outputs or context";
        word.parse().map(Dim::Fixed).map_err(|_| error(place, format!("`{word}`"), expected))
    }
}

/// The attributes written at a node; each is taken once.
struct Attributes {
    op: String,
    place: Place,
    given: Vec<(Named, Named)>,
}

impl Attributes {
    fn finish(&self) -> Result<(), ParseError> {
        match self.given.first() {
            None => Ok(()),
            Some(((name, place), _)) => {
                Err(error(*place, format!("`{name}`"), format!("no such attribute at `{}`", self.op)))
            }
        }
    }
}

impl Reader for Attributes {
    type Error = ParseError;

    fn take<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        absent: Option<T>,
        parse: fn(&str) -> Option<T>,
    ) -> Result<T, ParseError> {
        let Some(at) = self.given.iter().position(|((given, _), _)| given == name) else {
            return absent.ok_or_else(|| error(self.place, format!("`{}` without `{name}`", self.op), expected));
        };
        let (_, (value, place)) = self.given.remove(at);
        parse(&value).ok_or_else(|| error(place, format!("`{value}`"), expected))
    }
}
