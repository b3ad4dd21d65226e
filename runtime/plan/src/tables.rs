//! Offsets of the step tables in their common region. They depend only on the plan's limits, so the compiler can compute the
//! size and the runtime uses the same offsets. On a GPU the region also holds count words before the tables, and sampler
//! settings after them: [`DeviceTables`].

use std::collections::BTreeSet;

use crate::format::{ALIGN_BYTES, Arg, Count, KV_PAGE_TOKENS, Limits, Program, Setting, Table, TargetKind};

impl Table {
    /// The tables of every target in memory order. The table of sampler settings, which only GPUs have, follows them.
    pub const ALL: [Table; 7] =
        [Table::Ids, Table::Rows, Table::Starts, Table::Past, Table::Slots, Table::SequenceOf, Table::Pages];

    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Table::Ids => "ids",
            Table::Rows => "rows",
            Table::Starts => "starts",
            Table::Past => "past",
            Table::Slots => "slots",
            Table::SequenceOf => "sequence_of",
            Table::Pages => "pages",
            Table::Settings => "settings",
        }
    }

    /// Maximum number of elements in any step of a plan with these limits. Saturates on overflow.
    pub fn capacity(self, limits: &Limits) -> u64 {
        match self {
            Table::Ids | Table::SequenceOf => max_tokens(limits),
            Table::Rows => limits.max_outputs,
            Table::Starts => limits.max_sequences.saturating_add(1),
            Table::Past | Table::Slots => limits.max_sequences,
            Table::Pages => limits.max_sequences.saturating_mul(pages_per_sequence(limits)),
            Table::Settings => limits.max_outputs.saturating_mul(Setting::WORDS as u64),
        }
    }

    /// Offset in bytes from the start of the tables' region; a multiple of [`ALIGN_BYTES`].
    pub fn offset(self, limits: &Limits) -> u64 {
        Table::ALL
            .iter()
            .take_while(|&&table| table != self)
            .fold(0, |sum: u64, table| sum.saturating_add(table.bytes(limits)))
    }

    /// Size in bytes, including padding.
    fn bytes(self, limits: &Limits) -> u64 {
        const I32_BYTES: u64 = 4;
        let bytes = self.capacity(limits).saturating_mul(I32_BYTES);
        bytes.checked_next_multiple_of(ALIGN_BYTES).unwrap_or(u64::MAX)
    }
}

/// Maximum number of tokens in a step of any entry.
pub fn max_tokens(limits: &Limits) -> u64 {
    limits.prefill_chunk.max(limits.max_sequences)
}

/// Maximum number of pages per sequence: the length of a row of [`Table::Pages`].
pub fn pages_per_sequence(limits: &Limits) -> u64 {
    limits.max_context.div_ceil(KV_PAGE_TOKENS)
}

/// Total size in bytes of [`Table::ALL`]: [`crate::format::Memory::tables`] on CPU targets.
pub fn table_bytes(limits: &Limits) -> u64 {
    Table::ALL.iter().fold(0, |sum: u64, table| sum.saturating_add(table.bytes(limits)))
}

/// Size in bytes of the tables' region for steps with these arguments: [`crate::format::Memory::tables`].
pub fn region_bytes(kind: TargetKind, limits: &Limits, args: impl Iterator<Item = Arg>) -> u64 {
    match kind {
        TargetKind::Cpu => table_bytes(limits),
        TargetKind::Sm90a => DeviceTables::new(limits, args).bytes,
    }
}

/// Layout of the tables' region on a GPU: count words (i64), step tables, sampler settings if a step reads them.
/// Data that changes every step comes first and the longest table last, so one short copy updates a step's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTables {
    /// Count and factor of each word, in order.
    pub counts: Vec<(Count, u32)>,
    /// Offset in bytes of the step tables.
    pub tables_at: u64,
    /// Size of the region in bytes: [`crate::format::Memory::tables`]. A multiple of 128.
    pub bytes: u64,
}

/// Size in bytes of a count word.
pub const COUNT_BYTES: u64 = 8;

/// Alignment of the tables in a GPU's region: a line of its caches.
const LINE_BYTES: u64 = 128;

impl DeviceTables {
    /// The layout for a program.
    pub fn of(limits: &Limits, program: &Program) -> DeviceTables {
        let args = program.entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| &step.args);
        DeviceTables::new(limits, args.copied())
    }

    /// The layout for steps with these arguments. Saturates on overflow.
    pub fn new(limits: &Limits, args: impl Iterator<Item = Arg>) -> DeviceTables {
        let (mut counts, mut settings) = (BTreeSet::new(), 0);
        for arg in args {
            match arg {
                Arg::Count(count, factor) => drop(counts.insert((count, factor))),
                Arg::Table(Table::Settings) => settings = Table::Settings.bytes(limits),
                _ => {}
            }
        }
        let tables_at = (counts.len() as u64 * COUNT_BYTES).next_multiple_of(LINE_BYTES);
        let tables = table_bytes(limits).saturating_add(settings);
        let bytes = tables_at.saturating_add(tables).checked_next_multiple_of(LINE_BYTES).unwrap_or(u64::MAX);
        DeviceTables { counts: counts.into_iter().collect(), tables_at, bytes }
    }

    /// Offset in bytes of a count's word; `None` if no step uses it.
    pub fn count(&self, count: Count, factor: u32) -> Option<u64> {
        self.counts.iter().position(|&word| word == (count, factor)).map(|index| index as u64 * COUNT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_on_lines() {
        let limits = Limits { max_context: 100, max_sequences: 3, kv_tokens: 320, prefill_chunk: 40, max_outputs: 5 };
        let at: Vec<u64> = Table::ALL.iter().map(|table| table.offset(&limits)).collect();
        // ids 40 · 4 → 192; rows 5 · 4 → 64; starts 4 · 4, past 3 · 4, slots 3 · 4 → 64 each; sequence_of like ids; pages 3 · 7
        // · 4 = 84 → 128.
        assert_eq!(at, [0, 192, 256, 320, 384, 448, 640]);
        assert_eq!(table_bytes(&limits), 768);
    }

    #[test]
    fn counts_come_before_the_tables_and_settings_behind() {
        let limits = Limits { max_context: 100, max_sequences: 3, kv_tokens: 320, prefill_chunk: 40, max_outputs: 5 };
        let args = [
            Arg::Count(Count::Outputs, 1),
            Arg::Count(Count::Tokens, 2),
            Arg::Table(Table::Ids),
            Arg::Count(Count::Tokens, 1),
            Arg::Count(Count::Tokens, 2),
        ];
        let tables = DeviceTables::new(&limits, args.into_iter());
        assert_eq!(tables.counts, [(Count::Tokens, 1), (Count::Tokens, 2), (Count::Outputs, 1)]);
        assert_eq!((tables.tables_at, tables.bytes), (128, 896));
        assert_eq!((tables.count(Count::Outputs, 1), tables.count(Count::Sequences, 1)), (Some(16), None));
        // 5 rows of 32 bytes after the tables, padded to whole lines of 128.
        let settings = DeviceTables::new(&limits, args.into_iter().chain([Arg::Table(Table::Settings)]));
        assert_eq!((settings.tables_at + Table::Settings.offset(&limits), settings.bytes), (896, 896 + 256));
    }
}
