//! Statements to a program: names and immediates become slots, opcodes become [`Op`]s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::fault::ParseError;
use crate::isa::{self, Op};
use crate::parse::{self, Entry, Operand, RegisterKind, Statement, error, number};
use crate::program::{Guard, Instruction, Program, Special};
use crate::registers::Slot;

/// First offset of shared memory in its window, so that offset 0 is out of bounds.
pub(crate) const SHARED_BASE: u32 = 1024;

/// One statement to decode.
pub(crate) struct Call<'a> {
    /// The opcode, split at its dots.
    pub parts: Vec<&'a str>,
    pub operands: &'a [Operand],
}

impl Call<'_> {
    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    /// The last part, which is the type for most instructions.
    pub fn last(&self) -> &str {
        self.parts[self.parts.len() - 1]
    }
}

/// Resolves the names of one kernel.
pub(crate) struct Decoder<'a> {
    entry: &'a Entry<'a>,
    scope: usize,
    line: u32,
    opcode: &'a str,
    symbols: HashMap<String, u32>,
    words: BTreeMap<u32, Slot>,
    doubles: BTreeMap<u64, Slot>,
    predicates: BTreeMap<bool, Slot>,
    specials: BTreeMap<Special, Slot>,
    n: [u32; 3],
}

type Decode<T> = Result<T, ParseError>;

impl<'a> Decoder<'a> {
    pub fn fail<T>(&self, what: impl Into<String>) -> Decode<T> {
        Err(error(self.line, format!("{} in `{}`", what.into(), self.opcode)))
    }

    /// Error: the instruction is not simulated.
    pub fn unknown<T>(&self) -> Decode<T> {
        Err(error(self.line, format!("`{}` is not simulated", self.opcode)))
    }

    fn register(&self, name: &str) -> Option<(RegisterKind, Slot)> {
        self.entry.find(self.scope, |scope| scope.registers.get(name).copied())
    }

    pub fn kind(&self, operand: &Operand) -> Option<RegisterKind> {
        match operand {
            Operand::Word(name) => self.register(name).map(|(kind, _)| kind),
            _ => None,
        }
    }

    pub fn at<'c>(&self, call: &'c Call, index: usize) -> Decode<&'c Operand> {
        match call.operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.fail(format!("operand {index} is missing")),
        }
    }

    pub fn count(&self, call: &Call, allowed: std::ops::RangeInclusive<usize>) -> Decode<()> {
        if !allowed.contains(&call.operands.len()) {
            return self.fail(format!("{} operands, expected {allowed:?}", call.operands.len()));
        }
        Ok(())
    }

    pub fn word(&mut self, value: u32) -> Slot {
        intern(&mut self.words, &mut self.n[0], value)
    }

    pub fn double(&mut self, value: u64) -> Slot {
        intern(&mut self.doubles, &mut self.n[1], value)
    }

    /// The slot of a register operand; an error if the register is not of one of the kinds.
    fn held(&self, operand: &Operand, kinds: &[RegisterKind], expected: &str) -> Decode<Option<Slot>> {
        let Operand::Word(name) = operand else { return Ok(None) };
        match self.register(name) {
            Some((kind, slot)) if kinds.contains(&kind) => Ok(Some(slot)),
            Some((kind, _)) => self.fail(format!("`{name}` is a {kind:?} register, expected {expected}")),
            None => Ok(None),
        }
    }

    /// A source of 32 bits or less.
    pub fn r(&mut self, operand: &Operand) -> Decode<Slot> {
        if let Some(slot) = self.held(operand, &[RegisterKind::Half, RegisterKind::Word], "32 bits")? {
            return Ok(slot);
        }
        if let Operand::Word(name) = operand {
            let bits = name.strip_prefix("0f").or(name.strip_prefix("0F"));
            if let Some(Ok(bits)) = bits.map(|bits| u32::from_str_radix(bits, 16)) {
                return Ok(self.word(bits));
            }
            if let Some(value) = number(name) {
                return Ok(self.word(value as u32));
            }
            if let Some(special) = Special::named(name) {
                return Ok(intern(&mut self.specials, &mut self.n[0], special));
            }
            if name.contains('.')
                && !name.starts_with('%')
                && let Ok(value) = name.parse::<f32>()
            {
                return Ok(self.word(value.to_bits()));
            }
        }
        self.symbol(operand).map(|value| self.word(value))
    }

    /// A source of 64 bits.
    pub fn d(&mut self, operand: &Operand) -> Decode<Slot> {
        if let Some(slot) = self.held(operand, &[RegisterKind::Double], "64 bits")? {
            return Ok(slot);
        }
        if let Operand::Word(name) = operand {
            let bits = name.strip_prefix("0d").or(name.strip_prefix("0D"));
            if let Some(Ok(bits)) = bits.map(|bits| u64::from_str_radix(bits, 16)) {
                return Ok(self.double(bits));
            }
            if let Some(value) = number(name) {
                return Ok(self.double(value as u64));
            }
        }
        self.symbol(operand).map(|value| self.double(u64::from(value)))
    }

    fn symbol(&self, operand: &Operand) -> Decode<u32> {
        let (name, offset) = match operand {
            Operand::Word(name) => (name, 0),
            Operand::Sum(name, offset) => (name, *offset),
            other => return self.fail(format!("{other:?} is no register or immediate")),
        };
        match self.symbols.get(name) {
            Some(value) => Ok((i64::from(*value) + offset) as u32),
            None => self.fail(format!("`{name}` is neither declared nor a number")),
        }
    }

    pub fn p(&mut self, operand: &Operand) -> Decode<Slot> {
        if let Some(slot) = self.held(operand, &[RegisterKind::Predicate], "a predicate")? {
            return Ok(slot);
        }
        match operand {
            Operand::Word(name) if number(name).is_some() => {
                Ok(intern(&mut self.predicates, &mut self.n[2], number(name) != Some(0)))
            }
            Operand::Word(name) => self.fail(format!("`{name}` is no predicate")),
            other => self.fail(format!("{other:?} is no predicate")),
        }
    }

    /// A predicate that may be negated.
    pub fn condition(&mut self, operand: &Operand) -> Decode<Guard> {
        match operand {
            Operand::Not(name) => Ok(Guard { slot: self.p(&Operand::Word(name.clone()))?, negated: true }),
            other => Ok(Guard { slot: self.p(other)?, negated: false }),
        }
    }

    /// A destination. `_` becomes a slot that no instruction reads.
    pub fn target(&mut self, operand: &Operand, file: RegisterKind) -> Decode<Slot> {
        let Operand::Word(name) = operand else { return self.fail(format!("{operand:?} is no destination")) };
        self.named_target(name, file)
    }

    pub fn named_target(&mut self, name: &str, file: RegisterKind) -> Decode<Slot> {
        let index = match file {
            RegisterKind::Double => 1,
            RegisterKind::Predicate => 2,
            RegisterKind::Half | RegisterKind::Word => 0,
        };
        if name == "_" {
            self.n[index] += 1;
            return Ok(self.n[index] - 1);
        }
        let small = |kind| matches!(kind, RegisterKind::Half | RegisterKind::Word);
        match self.register(name) {
            Some((kind, slot)) if kind == file || small(kind) && small(file) => Ok(slot),
            Some((kind, _)) => self.fail(format!("`{name}` is a {kind:?} register, expected a {file:?} register")),
            None => self.fail(format!("`{name}` is no register")),
        }
    }

    /// An integer immediate.
    pub fn immediate(&self, operand: &Operand) -> Decode<i64> {
        match operand {
            Operand::Word(name) if number(name).is_some() => Ok(number(name).unwrap_or(0) as i64),
            other => self.fail(format!("{other:?} is no whole number")),
        }
    }

    /// The members of `{…}`, or the operand itself.
    pub fn members<'o>(&self, operand: &'o Operand) -> Vec<&'o Operand> {
        match operand {
            Operand::Vector(items) => items.iter().collect(),
            other => vec![other],
        }
    }

    pub fn words(&mut self, operand: &Operand) -> Decode<Box<[Slot]>> {
        self.members(operand).into_iter().map(|item| self.r(item)).collect()
    }

    pub fn word_targets(&mut self, operand: &Operand) -> Decode<Box<[Slot]>> {
        self.members(operand).into_iter().map(|item| self.target(item, RegisterKind::Word)).collect()
    }

    pub fn label(&self, name: &str) -> Decode<u32> {
        match self.entry.find(self.scope, |scope| scope.labels.get(name).copied()) {
            Some(index) => Ok(index as u32),
            None => self.fail(format!("no label `{name}`")),
        }
    }

    pub fn targets(&self, name: &str) -> Decode<Vec<u32>> {
        match self.entry.find(self.scope, |scope| scope.targets.get(name).cloned()) {
            Some(labels) => labels.iter().map(|label| self.label(label)).collect(),
            None => self.fail(format!("no .branchtargets `{name}`")),
        }
    }

    /// The offset of a kernel parameter.
    pub fn parameter(&self, name: &str) -> Option<u32> {
        self.entry.parameters.iter().find(|(known, ..)| known == name).map(|(_, offset, _)| *offset)
    }

    fn statement(&mut self, statement: &'a Statement, text: &str) -> Decode<Instruction> {
        self.scope = statement.scope;
        self.line = statement.line;
        self.opcode = statement.opcode;
        let guard = match statement.guard {
            Some((negated, name)) => Some(Guard { slot: self.p(&Operand::Word(name.to_owned()))?, negated }),
            None => None,
        };
        let call = Call { parts: statement.opcode.split('.').collect(), operands: &statement.operands };
        let (class, op) = isa::decode(self, &call)?;
        let text = text[statement.span.clone()].split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Instruction {
            op,
            guard,
            line: statement.line,
            source: statement.source,
            text,
            class,
            touches: Box::default(),
        })
    }

    /// The 32-bit registers of a statement.
    fn named(&self, statement: &Statement) -> Vec<Slot> {
        let mut slots = Vec::new();
        for operand in &statement.operands {
            operand.words(&mut |name| {
                let found = self.entry.find(statement.scope, |scope| scope.registers.get(name).copied());
                if let Some((RegisterKind::Half | RegisterKind::Word, slot)) = found {
                    slots.push(slot);
                }
            });
        }
        slots
    }
}

/// The slot of a constant or special register; `n` counts the slots of the file.
fn intern<K: Ord>(slots: &mut BTreeMap<K, Slot>, n: &mut u32, key: K) -> Slot {
    *slots.entry(key).or_insert_with(|| {
        *n += 1;
        *n - 1
    })
}

/// Decodes every entry of a module.
pub(crate) fn decode(text: &str) -> Result<BTreeMap<String, Program>, ParseError> {
    let file = parse::parse(text)?;
    let files = Arc::new(file.names.clone());
    let mut programs = BTreeMap::new();
    for entry in &file.entries {
        programs.insert(entry.name.clone(), Program { files: files.clone(), ..program(&file, entry, text)? });
    }
    Ok(programs)
}

fn program(file: &parse::File, entry: &Entry, text: &str) -> Decode<Program> {
    let mut symbols = HashMap::new();
    let mut end = SHARED_BASE;
    for variable in file.shared.iter().chain(&entry.shared) {
        end = end.next_multiple_of(variable.align);
        symbols.insert(variable.name.clone(), end);
        end += variable.bytes;
    }
    let mut dynamic = end;
    if let Some((name, align)) = &file.dynamic_shared {
        dynamic = end.next_multiple_of(*align);
        symbols.insert(name.clone(), dynamic);
    }
    for (name, offset, _) in &entry.parameters {
        symbols.insert(name.clone(), *offset);
    }
    let mut decoder = Decoder {
        entry,
        scope: 0,
        line: 0,
        opcode: "",
        symbols,
        words: BTreeMap::new(),
        doubles: BTreeMap::new(),
        predicates: BTreeMap::new(),
        specials: BTreeMap::new(),
        n: entry.n_registers,
    };
    let mut code = Vec::with_capacity(entry.statements.len());
    for statement in &entry.statements {
        code.push(decoder.statement(statement, text)?);
    }
    let has_products = mark_wgmma_registers(&decoder, entry, &mut code);
    Ok(Program {
        has_products,
        files: Arc::default(),
        name: entry.name.clone(),
        line: entry.line,
        shares_global: code.iter().any(|instruction| instruction.op.shares_global()),
        code,
        n: decoder.n.map(|n| n as usize),
        words: decoder.words.into_iter().collect(),
        doubles: decoder.doubles.into_iter().collect(),
        predicates: decoder.predicates.into_iter().collect(),
        specials: decoder.specials.into_iter().collect(),
        parameters: entry.parameters.iter().map(|(_, offset, bytes)| (*offset, *bytes)).collect(),
        threads: entry.threads,
        max_threads: entry.max_threads,
        shared_end: end,
        dynamic_shared: dynamic,
    })
}

/// Records the registers that instructions share with a `wgmma`, for the checks of [`crate::isa::wgmma`].
/// True if there is a `wgmma`.
fn mark_wgmma_registers(decoder: &Decoder, entry: &Entry, code: &mut [Instruction]) -> bool {
    let mut tensor = vec![false; decoder.n[0] as usize];
    let mut any = false;
    for instruction in code.iter() {
        if let Op::Wgmma(wgmma) = &instruction.op {
            for slot in wgmma.registers() {
                tensor[slot as usize] = true;
                any = true;
            }
        }
    }
    if !any {
        return false;
    }
    for (instruction, statement) in code.iter_mut().zip(&entry.statements) {
        if !matches!(instruction.op, Op::Wgmma(_)) {
            let named = decoder.named(statement).into_iter();
            instruction.touches = named.filter(|slot| tensor[*slot as usize]).collect();
        }
    }
    true
}
