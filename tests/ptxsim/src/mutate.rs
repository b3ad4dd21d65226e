//! Mutants of PTX text: one synchronising instruction removed, or one number changed.
//!
//! Every mutant of a kernel should fault or give a wrong result under some seed. [`sites`] lists the possible mutations,
//! [`Site::apply`] returns the text of the mutant. Line numbers do not change.
//!
//! ```text
//! for site in mutate::sites(ptx)? {
//!     let module = Module::parse(&site.apply(ptx))?;
//!     assert!((0..8).any(|seed| !answer_is_right(&module, seed)), "{site} is not caught");
//! }
//! ```
use std::fmt;
use std::ops::Range;

use crate::fault::ParseError;
use crate::parse::{self, Operand, Statement, number};

/// Kind of mutation. "Drop" removes the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// `bar.sync`, `barrier.sync`.
    DropBarrier,
    /// `bar.warp.sync`. Only [`Options::split_lanes`](crate::Options::split_lanes) can expose it.
    DropWarpBarrier,
    /// A wait for an mbarrier, which passes immediately.
    DropMbarrierWait,
    /// `mbarrier.arrive` without bytes.
    DropArrive,
    /// `expect_tx` announces 0 bytes.
    DropExpectTx,
    /// `expect_tx` announces 16 bytes more.
    MoreBytes,
    /// `expect_tx` announces 16 bytes less.
    FewerBytes,
    /// `mbarrier.init` expects one arrival more.
    MoreArrivals,
    /// `wgmma.fence`.
    DropProductFence,
    /// `wgmma.commit_group`.
    DropProductCommit,
    /// `wgmma.wait_group`.
    DropProductWait,
    /// `fence.proxy.async`.
    DropProxyFence,
    /// `fence.proxy.tensormap`.
    DropMapFence,
    /// `fence.mbarrier_init`.
    DropInitFence,
    /// `cp.async.commit_group`.
    DropCopyCommit,
    /// `cp.async.wait_group`, `wait_all`.
    DropCopyWait,
    /// `cp.async.mbarrier.arrive`.
    DropCopyArrive,
    /// `cp.async.bulk.commit_group`.
    DropStoreCommit,
    /// `cp.async.bulk.wait_group`.
    DropStoreWait,
    /// `shfl.sync` returns the lane's own value.
    DropShuffle,
}

/// A possible mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub kind: Kind,
    /// Name of the kernel.
    pub entry: String,
    /// Line of the instruction, counted from one.
    pub line: u32,
    pub instruction: String,
    span: Range<usize>,
    replacement: String,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} in {} line {} `{}`", self.kind, self.entry, self.line, self.instruction)
    }
}

impl Site {
    /// The text of the mutant.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        out.push_str(&text[..self.span.start]);
        out.push_str(&self.replacement);
        // Keep the line breaks inside the instruction: later lines keep their numbers.
        out.extend(text[self.span.clone()].chars().filter(|c| *c == '\n'));
        out.push_str(&text[self.span.end..]);
        out
    }
}

/// All possible mutations, in the order of the text.
pub fn sites(text: &str) -> Result<Vec<Site>, ParseError> {
    let file = parse::parse(text)?;
    let mut sites = Vec::new();
    for entry in &file.entries {
        for statement in &entry.statements {
            for (kind, replacement) in mutations(statement, text) {
                sites.push(Site {
                    kind,
                    entry: entry.name.clone(),
                    line: statement.line,
                    instruction: written(statement, text),
                    span: statement.span.clone(),
                    replacement,
                });
            }
        }
    }
    Ok(sites)
}

fn written(statement: &Statement, text: &str) -> String {
    text[statement.span.clone()].split_whitespace().collect::<Vec<_>>().join(" ")
}

fn mutations(statement: &Statement, text: &str) -> Vec<(Kind, String)> {
    let gone = |kind| vec![(kind, String::new())];
    let parts: Vec<&str> = statement.opcode.split('.').collect();
    match parts[..] {
        ["bar", "warp", "sync"] => gone(Kind::DropWarpBarrier),
        ["bar" | "barrier", "sync", ..] | ["bar" | "barrier", "cta", "sync", ..] => gone(Kind::DropBarrier),
        ["mbarrier", "try_wait" | "test_wait", ..] => match &statement.operands[..] {
            // The predicate becomes true.
            [Operand::Word(p), ..] => {
                vec![(Kind::DropMbarrierWait, format!("setp.eq.u32 {p}, 0, 0;"))]
            }
            _ => Vec::new(),
        },
        ["mbarrier", "arrive", "expect_tx", ..] | ["mbarrier", "expect_tx", ..] => bytes(statement, text),
        ["mbarrier", "arrive", ..] => gone(Kind::DropArrive),
        ["mbarrier", "init", ..] => match &statement.operands[..] {
            [_, Operand::Word(count)] => count_more(statement, text, count),
            _ => Vec::new(),
        },
        ["shfl", "sync", ..] => match &statement.operands[..] {
            [Operand::Word(to) | Operand::Pair(to, _), Operand::Word(own), ..] => {
                vec![(Kind::DropShuffle, format!("mov.b32 {to}, {own};"))]
            }
            _ => Vec::new(),
        },
        ["wgmma", "fence", ..] => gone(Kind::DropProductFence),
        ["wgmma", "commit_group", ..] => gone(Kind::DropProductCommit),
        ["wgmma", "wait_group", ..] => gone(Kind::DropProductWait),
        ["fence", "proxy", "async", ..] => gone(Kind::DropProxyFence),
        ["fence", "proxy", "tensormap::generic", ..] => gone(Kind::DropMapFence),
        ["fence", "mbarrier_init", ..] => gone(Kind::DropInitFence),
        ["cp", "async", "commit_group"] => gone(Kind::DropCopyCommit),
        ["cp", "async", "wait_group" | "wait_all"] => gone(Kind::DropCopyWait),
        ["cp", "async", "mbarrier", "arrive", ..] => gone(Kind::DropCopyArrive),
        ["cp", "async", "bulk", "commit_group"] => gone(Kind::DropStoreCommit),
        ["cp", "async", "bulk", "wait_group", ..] => gone(Kind::DropStoreWait),
        _ => Vec::new(),
    }
}

/// The statement with its last operand replaced. `setup` may compute the operand into a register `m`.
fn with_last(statement: &Statement, text: &str, setup: &str, last: &str) -> String {
    let source = &text[statement.span.clone()];
    let at = source.rfind(',').map_or(0, |at| at + 1);
    let (guard, call) = match source.find(statement.opcode) {
        Some(at) => source.split_at(at),
        None => ("", source),
    };
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let call = flat(&call[..at - guard.len()]);
    format!("{{ {setup} {} {call} {last}; }}", flat(guard))
}

fn bytes(statement: &Statement, text: &str) -> Vec<(Kind, String)> {
    let Some(Operand::Word(bytes)) = statement.operands.last() else { return Vec::new() };
    let changed = |by: i64| match number(bytes) {
        Some(value) => with_last(statement, text, "", &(value as i64 + by).to_string()),
        None => with_last(statement, text, &format!(".reg .b32 m; add.s32 m, {bytes}, {by};"), "m"),
    };
    vec![
        (Kind::DropExpectTx, with_last(statement, text, "", "0")),
        (Kind::MoreBytes, changed(16)),
        (Kind::FewerBytes, changed(-16)),
    ]
}

fn count_more(statement: &Statement, text: &str, count: &str) -> Vec<(Kind, String)> {
    let replacement = match number(count) {
        Some(value) => with_last(statement, text, "", &(value + 1).to_string()),
        None => with_last(statement, text, &format!(".reg .b32 m; add.s32 m, {count}, 1;"), "m"),
    };
    vec![(Kind::MoreArrivals, replacement)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.0\n.visible .entry k()\n{\n.reg .pred %p<2>;\n.reg .b32 %r<4>;\nmov.b32 %r1, 1024;\n\
                        mov.b32 %r2, 7;\n@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], %r2;\n\
                        W: mbarrier.try_wait.parity.shared.b64 %p1,\n [%r1], 0;\nbar.sync 0;\nret;\n}\n";

    #[test]
    fn mutants_change_one_instruction_and_keep_lines() {
        let sites = sites(TEXT).expect("parses");
        let kinds: Vec<Kind> = sites.iter().map(|site| site.kind).collect();
        let bytes = [Kind::DropExpectTx, Kind::MoreBytes, Kind::FewerBytes];
        assert_eq!(kinds, [&bytes[..], &[Kind::DropMbarrierWait, Kind::DropBarrier]].concat());
        for site in &sites {
            let mutant = site.apply(TEXT);
            assert_eq!(mutant.lines().count(), TEXT.lines().count(), "{mutant}");
            crate::Module::parse(&mutant).expect("a mutant parses");
        }
        let line = |i: usize, at: usize| sites[i].apply(TEXT).lines().nth(at).map(str::to_owned);
        let more = "{ .reg .b32 m; add.s32 m, %r2, 16; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], m; }";
        assert_eq!(line(1, 7).as_deref(), Some(more));
        assert_eq!(line(3, 8).as_deref(), Some("W: setp.eq.u32 %p1, 0, 0;"));
        assert_eq!(line(4, 10).as_deref(), Some(""));
        assert_eq!(sites[4].line, 11);
    }
}
