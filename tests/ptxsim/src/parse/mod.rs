//! PTX text to entries with declarations, scopes and statements. [`crate::decode`] decodes the statements.

mod entry;
mod operand;
mod token;

use std::collections::BTreeMap;
use std::ops::Range;

pub(crate) use entry::{Entry, RegisterKind, Shared};
pub(crate) use operand::{Operand, number};
pub(crate) use token::{error, tokenize};

use crate::fault::ParseError;
use token::Token;

/// A parsed instruction.
#[derive(Debug, Clone)]
pub(crate) struct Statement<'a> {
    /// Position in the text, including the semicolon.
    pub span: Range<usize>,
    /// Counted from one.
    pub line: u32,
    /// File number and line of the source, from the last `.loc`.
    pub source: Option<(u32, u32)>,
    /// Index of its scope.
    pub scope: usize,
    /// `@p` or `@!p`: negation and name.
    pub guard: Option<(bool, &'a str)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand>,
}

/// A parsed module.
#[derive(Debug, Default)]
pub(crate) struct File<'a> {
    /// Names of `.file` by number.
    pub names: BTreeMap<u32, String>,
    /// `.extern .shared`: name and alignment.
    pub dynamic_shared: Option<(String, u32)>,
    /// Shared variables of the whole module.
    pub shared: Vec<Shared>,
    pub entries: Vec<Entry<'a>>,
}

pub(crate) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

/// Largest count or size that a declaration may have.
pub const MOST_SIZE: u32 = 1 << 20;

impl<'a> Cursor<'a> {
    pub fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    pub fn peek_after(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next + 1).copied()
    }

    pub fn line(&self) -> u32 {
        self.peek().or(self.tokens.last().copied()).map_or(1, |token| token.line)
    }

    pub fn take(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek().ok_or_else(|| error(self.line(), "the text ends too early"))?;
        self.next += 1;
        Ok(token)
    }

    pub fn take_if(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.text == text);
        self.next += usize::from(found);
        found
    }

    pub fn expect(&mut self, text: &str) -> Result<Token<'a>, ParseError> {
        let token = self.take()?;
        if token.text != text {
            return Err(error(token.line, format!("found `{}`, expected `{text}`", token.text)));
        }
        Ok(token)
    }

    pub fn integer(&mut self) -> Result<u64, ParseError> {
        let token = self.take()?;
        number(token.text)
            .map(|value| value as u64)
            .ok_or_else(|| error(token.line, format!("found `{}`, expected a number", token.text)))
    }

    /// A count or a size in bytes: a number far below what overflows a sum.
    pub fn size(&mut self) -> Result<u32, ParseError> {
        let line = self.line();
        match self.integer()? {
            size if size <= u64::from(MOST_SIZE) => Ok(size as u32),
            size => Err(error(line, format!("found `{size}`, expected at most {MOST_SIZE}"))),
        }
    }

    /// The tokens before `sign`, which is consumed as well.
    pub fn until(&mut self, sign: &str) -> Result<&[Token<'a>], ParseError> {
        let first = self.next;
        while self.take()?.text != sign {}
        Ok(&self.tokens[first..self.next - 1])
    }

    /// `.file number "name"`
    pub fn file(&mut self) -> Result<(u32, String), ParseError> {
        let line = self.expect(".file")?.line;
        let number = self.integer()? as u32;
        let name = self.take()?.text.trim_matches('"').to_owned();
        self.skip_line(line);
        Ok((number, name))
    }

    /// `.loc file line …`
    pub fn source(&mut self) -> Result<(u32, u32), ParseError> {
        let line = self.expect(".loc")?.line;
        let at = (self.integer()? as u32, self.integer()? as u32);
        self.skip_line(line);
        Ok(at)
    }

    pub fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|token| token.line == line) {
            self.next += 1;
        }
    }

    /// Skips a balanced `{ … }`.
    fn skip_braces(&mut self) -> Result<(), ParseError> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match self.take()?.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn parse(text: &str) -> Result<File<'_>, ParseError> {
    let mut cursor = Cursor { tokens: tokenize(text)?, next: 0 };
    let mut file = File::default();
    while let Some(token) = cursor.peek() {
        match token.text {
            ".version" | ".target" | ".address_size" => cursor.skip_line(token.line),
            ".file" => {
                let (number, name) = cursor.file()?;
                file.names.insert(number, name);
            }
            ".section" => {
                cursor.take()?;
                cursor.take()?;
                cursor.skip_braces()?;
            }
            ".visible" | ".weak" => {
                cursor.take()?;
            }
            ".extern" => {
                cursor.take()?;
                let variable = entry::shared_variable(&mut cursor)?;
                if file.dynamic_shared.is_some() {
                    return Err(error(token.line, "a second .extern .shared variable"));
                }
                file.dynamic_shared = Some((variable.name, variable.align));
            }
            ".shared" => file.shared.push(entry::shared_variable(&mut cursor)?),
            ".entry" => file.entries.push(entry::entry(&mut cursor, &mut file.names)?),
            other => return Err(error(token.line, format!("`{other}` at the module's level is not simulated"))),
        }
    }
    Ok(file)
}
