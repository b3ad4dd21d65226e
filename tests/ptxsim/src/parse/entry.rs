//! One `.entry`: parameters, launch bounds, scopes, statements.

use std::collections::{BTreeMap, HashMap};

use super::operand::operands;
use super::token::error;
use super::{Cursor, MOST_SIZE, Statement};
use crate::fault::ParseError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterKind {
    Predicate,
    /// 16 bits, zero-extended to 32.
    Half,
    Word,
    Double,
}

/// The names declared in a pair of braces.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub parent: Option<usize>,
    /// Kind and slot by name.
    pub registers: HashMap<String, (RegisterKind, u32)>,
    /// Index of the next statement by label.
    pub labels: HashMap<String, usize>,
    /// `.branchtargets` by name.
    pub targets: HashMap<String, Vec<String>>,
}

/// A variable in shared memory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub name: String,
    pub align: u32,
    pub bytes: u32,
}

/// A parsed kernel.
#[derive(Debug, Default)]
pub(crate) struct Entry<'a> {
    pub name: String,
    /// Line of its `.entry`, counted from one.
    pub line: u32,
    /// Name, offset and bytes.
    pub parameters: Vec<(String, u32, u32)>,
    /// `.reqntid`
    pub threads: Option<[u32; 3]>,
    /// `.maxntid`
    pub max_threads: Option<u32>,
    pub shared: Vec<Shared>,
    pub scopes: Vec<Scope>,
    pub statements: Vec<Statement<'a>>,
    /// Number of registers of 32 bits or less, of 64 bits, and of predicates.
    pub n_registers: [u32; 3],
}

impl Entry<'_> {
    /// Looks up a name in a scope and its parents.
    pub fn find<T>(&self, scope: usize, f: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        let mut at = Some(scope);
        while let Some(index) = at {
            if let Some(found) = f(&self.scopes[index]) {
                return Some(found);
            }
            at = self.scopes[index].parent;
        }
        None
    }
}

/// `.entry name( … ) bounds { … }`
pub(super) fn entry<'a>(cursor: &mut Cursor<'a>, names: &mut BTreeMap<u32, String>) -> Result<Entry<'a>, ParseError> {
    let line = cursor.expect(".entry")?.line;
    let mut entry = Entry { name: cursor.take()?.text.to_owned(), line, ..Entry::default() };
    if cursor.take_if("(") {
        parameters(cursor, &mut entry)?;
    }
    loop {
        let token = cursor.take()?;
        match token.text {
            "{" => break,
            ".reqntid" => entry.threads = Some(three(cursor)?),
            ".maxntid" => {
                entry.max_threads = Some(three(cursor)?.iter().fold(1, |product, n| u32::saturating_mul(product, *n)));
            }
            ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                cursor.integer()?;
            }
            other => return Err(error(token.line, format!("`{other}` before a kernel's body is not simulated"))),
        }
    }
    body(cursor, &mut entry, names)?;
    Ok(entry)
}

fn three(cursor: &mut Cursor) -> Result<[u32; 3], ParseError> {
    let mut dims = [cursor.size()?, 1, 1];
    for dim in &mut dims[1..] {
        if cursor.take_if(",") {
            *dim = cursor.size()?;
        }
    }
    Ok(dims)
}

fn parameters(cursor: &mut Cursor, entry: &mut Entry) -> Result<(), ParseError> {
    let mut end = 0;
    while !cursor.take_if(")") {
        cursor.expect(".param")?;
        let (name, align, bytes) = variable(cursor)?;
        let offset = u32::next_multiple_of(end, align);
        entry.parameters.push((name, offset, bytes));
        end = offset + bytes;
        if end > MOST_SIZE {
            return Err(error(cursor.line(), format!("found parameters of {end} bytes, expected at most {MOST_SIZE}")));
        }
        cursor.take_if(",");
    }
    Ok(())
}

/// Name, alignment and bytes of a variable such as `.align 16 .b8 name[64]`.
fn variable(cursor: &mut Cursor) -> Result<(String, u32, u32), ParseError> {
    let mut align = None;
    let mut element = None;
    loop {
        let token = cursor.take()?;
        match token.text {
            ".align" => align = Some(cursor.size()?),
            ".ptr" | ".global" => {}
            text if text.starts_with('.') => {
                let bits: u32 = text
                    .trim_start_matches(|c: char| !c.is_ascii_digit())
                    .parse()
                    .ok()
                    .filter(|bits| *bits <= 128)
                    .ok_or_else(|| error(token.line, format!("`{text}` is no type of a variable")))?;
                element = Some(bits / 8);
            }
            name => {
                let element = element.ok_or_else(|| error(token.line, format!("`{name}` has no type")))?;
                let mut count = 1;
                if cursor.take_if("[") {
                    count = if cursor.take_if("]") { 0 } else { cursor.size()? };
                    if count > 0 {
                        cursor.expect("]")?;
                    }
                }
                return Ok((name.to_owned(), align.unwrap_or(element).max(1), element * count));
            }
        }
    }
}

/// `.shared …;`
pub(super) fn shared_variable(cursor: &mut Cursor) -> Result<Shared, ParseError> {
    cursor.expect(".shared")?;
    let (name, align, bytes) = variable(cursor)?;
    cursor.expect(";")?;
    Ok(Shared { name, align, bytes })
}

fn body<'a>(
    cursor: &mut Cursor<'a>,
    entry: &mut Entry<'a>,
    names: &mut BTreeMap<u32, String>,
) -> Result<(), ParseError> {
    let mut scope = 0;
    let mut source = None;
    entry.scopes.push(Scope::default());
    loop {
        let token = cursor.peek().ok_or_else(|| error(cursor.line(), "a kernel's body does not end"))?;
        match token.text {
            "{" => {
                cursor.take()?;
                entry.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                scope = entry.scopes.len() - 1;
            }
            "}" => {
                cursor.take()?;
                match entry.scopes[scope].parent {
                    Some(parent) => scope = parent,
                    None => return Ok(()),
                }
            }
            ";" => {
                cursor.take()?;
            }
            ".reg" => registers(cursor, entry, scope)?,
            ".shared" => entry.shared.push(shared_variable(cursor)?),
            ".loc" => source = Some(cursor.source()?),
            ".file" => {
                let (number, name) = cursor.file()?;
                names.insert(number, name);
            }
            ".pragma" => {
                cursor.until(";")?;
            }
            _ if token.is_word() && cursor.peek_after().is_some_and(|after| after.text == ":") => {
                cursor.take()?;
                cursor.take()?;
                if cursor.peek().is_some_and(|next| next.text == ".branchtargets") {
                    cursor.take()?;
                    let labels = cursor.until(";")?.iter().filter(|t| t.is_word()).map(|t| t.text.to_owned()).collect();
                    entry.scopes[scope].targets.insert(token.text.to_owned(), labels);
                    continue;
                }
                let index = entry.statements.len();
                if entry.scopes[scope].labels.insert(token.text.to_owned(), index).is_some() {
                    return Err(error(token.line, format!("label `{}` stands twice", token.text)));
                }
            }
            _ => {
                statement(cursor, entry, scope)?;
                if let Some(last) = entry.statements.last_mut() {
                    last.source = source;
                }
            }
        }
    }
}

/// `.reg .b32 %r<8>;` or `.reg .pred p, q;`
fn registers(cursor: &mut Cursor, entry: &mut Entry, scope: usize) -> Result<(), ParseError> {
    cursor.expect(".reg")?;
    let token = cursor.take()?;
    let (kind, file) = match token.text {
        ".pred" => (RegisterKind::Predicate, 2),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => (RegisterKind::Half, 0),
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => (RegisterKind::Word, 0),
        ".b64" | ".u64" | ".s64" | ".f64" => (RegisterKind::Double, 1),
        other => return Err(error(token.line, format!("registers of `{other}` are not simulated"))),
    };
    loop {
        let name = cursor.take()?;
        let names = if cursor.take_if("<") {
            let count = cursor.size()?;
            cursor.expect(">")?;
            if entry.n_registers[file].saturating_add(count) > MOST_SIZE {
                return Err(error(token.line, format!("found more than {MOST_SIZE} registers, expected fewer")));
            }
            (0..count).map(|i| format!("{}{i}", name.text)).collect()
        } else {
            vec![name.text.to_owned()]
        };
        for name in names {
            let index = entry.n_registers[file];
            entry.n_registers[file] += 1;
            entry.scopes[scope].registers.insert(name, (kind, index));
        }
        if !cursor.take_if(",") {
            cursor.expect(";")?;
            return Ok(());
        }
    }
}

fn statement<'a>(cursor: &mut Cursor<'a>, entry: &mut Entry<'a>, scope: usize) -> Result<(), ParseError> {
    let first = cursor.take()?;
    let mut opcode = first;
    let mut guard = None;
    if first.text == "@" {
        let negated = cursor.take_if("!");
        guard = Some((negated, cursor.take()?.text));
        opcode = cursor.take()?;
    }
    if !opcode.is_word() || opcode.text.starts_with(['.', '%']) {
        return Err(error(opcode.line, format!("found `{}`, expected an instruction", opcode.text)));
    }
    let operands = operands(cursor.until(";")?)?;
    let end = cursor.tokens[cursor.next - 1].end();
    entry.statements.push(Statement {
        span: first.at..end,
        line: opcode.line,
        source: None,
        scope,
        guard,
        opcode: opcode.text,
        operands,
    });
    Ok(())
}
