//! Where each step table lies in the one region that holds them all: a function of the plan's limits alone, so that the
//! compiler can state the bytes and the runtime can rely on them. A GPU's region holds words of counts before the tables, and
//! behind them the settings of draws and tensor maps: [`DeviceTables`].

use std::collections::BTreeSet;

use crate::format::{
    ALIGN_BYTES, Arg, Count, KV_PAGE_TOKENS, Limits, Program, Setting, TENSOR_MAP_BYTES, Table, TargetKind,
};

impl Table {
    /// Every table that any step fills, in the order in which they lie in memory. The settings of draws, which a GPU alone has,
    /// follow them.
    pub const ALL: [Table; 7] =
        [Table::Ids, Table::Rows, Table::Starts, Table::Past, Table::Slots, Table::SequenceOf, Table::Pages];

    /// The name people use.
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

    /// Most elements that the table holds in any step of a plan with these limits. Saturates where they overflow.
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

    /// Bytes from the start of the tables' region; a multiple of [`ALIGN_BYTES`].
    pub fn offset(self, limits: &Limits) -> u64 {
        Table::ALL
            .iter()
            .take_while(|&&table| table != self)
            .fold(0, |sum: u64, table| sum.saturating_add(table.bytes(limits)))
    }

    /// Bytes that the table takes, padding included.
    fn bytes(self, limits: &Limits) -> u64 {
        const I32_BYTES: u64 = 4;
        let bytes = self.capacity(limits).saturating_mul(I32_BYTES);
        bytes.checked_next_multiple_of(ALIGN_BYTES).unwrap_or(u64::MAX)
    }
}

/// Tokens of the largest step that any entry may take.
pub fn max_tokens(limits: &Limits) -> u64 {
    limits.prefill_chunk.max(limits.max_sequences)
}

/// Pages of the longest sequence: one row of [`Table::Pages`].
pub fn pages_per_sequence(limits: &Limits) -> u64 {
    limits.max_context.div_ceil(KV_PAGE_TOKENS)
}

/// Bytes of [`Table::ALL`] together: of a CPU [`crate::format::Memory::tables`].
pub fn table_bytes(limits: &Limits) -> u64 {
    Table::ALL.iter().fold(0, |sum: u64, table| sum.saturating_add(table.bytes(limits)))
}

/// Bytes of the tables' region of steps with these arguments and `n_maps` tensor maps: [`crate::format::Memory::tables`].
pub fn region_bytes(kind: TargetKind, limits: &Limits, args: impl Iterator<Item = Arg>, n_maps: u64) -> u64 {
    match kind {
        TargetKind::Cpu => table_bytes(limits),
        TargetKind::Sm90a => DeviceTables::new(limits, args, n_maps).bytes,
    }
}

/// What the tables' region of a GPU holds, and where: words of counts (i64), step tables, settings of draws where a step reads
/// them, tensor maps. What changes with every step comes first, the longest table last, so that one short copy brings a step's
/// share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTables {
    /// Count and factor of each word, in order.
    pub counts: Vec<(Count, u32)>,
    /// Where the step tables begin, in bytes.
    pub tables_at: u64,
    /// Where the tensor maps begin, in bytes; a multiple of [`TENSOR_MAP_BYTES`].
    pub maps_at: u64,
    /// Bytes of the region: [`crate::format::Memory::tables`].
    pub bytes: u64,
}

/// Bytes of the word of a count.
pub const COUNT_BYTES: u64 = 8;

impl DeviceTables {
    /// The region of a program.
    pub fn of(limits: &Limits, program: &Program) -> DeviceTables {
        let args = program.entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| &step.args);
        DeviceTables::new(limits, args.copied(), program.tensor_maps.len() as u64)
    }

    /// The region of steps with these arguments and so many maps. Saturates where lengths overflow.
    pub fn new(limits: &Limits, args: impl Iterator<Item = Arg>, n_maps: u64) -> DeviceTables {
        let (mut counts, mut settings) = (BTreeSet::new(), 0);
        for arg in args {
            match arg {
                Arg::Count(count, factor) => drop(counts.insert((count, factor))),
                Arg::Table(Table::Settings) => settings = Table::Settings.bytes(limits),
                _ => {}
            }
        }
        let tables_at = (counts.len() as u64 * COUNT_BYTES).next_multiple_of(TENSOR_MAP_BYTES);
        let tables = table_bytes(limits).saturating_add(settings);
        let maps_at = tables_at.saturating_add(tables).checked_next_multiple_of(TENSOR_MAP_BYTES);
        let maps_at = maps_at.unwrap_or(u64::MAX);
        let bytes = maps_at.saturating_add(n_maps.saturating_mul(TENSOR_MAP_BYTES));
        DeviceTables { counts: counts.into_iter().collect(), tables_at, maps_at, bytes }
    }

    /// Where the word of a count lies, in bytes; None where no step asks for it.
    pub fn count(&self, count: Count, factor: u32) -> Option<u64> {
        self.counts.iter().position(|&word| word == (count, factor)).map(|index| index as u64 * COUNT_BYTES)
    }

    /// Where a tensor map lies, in bytes.
    pub fn map(&self, index: u32) -> u64 {
        self.maps_at.saturating_add(u64::from(index) * TENSOR_MAP_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_on_lines() {
        let limits = Limits { max_context: 100, max_sequences: 3, kv_tokens: 320, prefill_chunk: 40, max_outputs: 5 };
        let at: Vec<u64> = Table::ALL.iter().map(|table| table.offset(&limits)).collect();
        // ids 40 · 4 → 192; rows 5 · 4 → 64; starts 4 · 4, past 3 · 4, slots 3 · 4 → 64 each; sequence_of like ids;
        // pages 3 · 7 · 4 = 84 → 128.
        assert_eq!(at, [0, 192, 256, 320, 384, 448, 640]);
        assert_eq!(table_bytes(&limits), 768);
    }

    #[test]
    fn counts_come_before_the_tables_and_maps_behind() {
        let limits = Limits { max_context: 100, max_sequences: 3, kv_tokens: 320, prefill_chunk: 40, max_outputs: 5 };
        let args = [
            Arg::Count(Count::Outputs, 1),
            Arg::Count(Count::Tokens, 2),
            Arg::Table(Table::Ids),
            Arg::Count(Count::Tokens, 1),
            Arg::Count(Count::Tokens, 2),
        ];
        let tables = DeviceTables::new(&limits, args.into_iter(), 3);
        assert_eq!(tables.counts, [(Count::Tokens, 1), (Count::Tokens, 2), (Count::Outputs, 1)]);
        assert_eq!((tables.tables_at, tables.maps_at, tables.bytes), (128, 896, 896 + 3 * 128));
        assert_eq!((tables.count(Count::Outputs, 1), tables.count(Count::Sequences, 1)), (Some(16), None));
        assert_eq!(tables.map(2), 896 + 256);
        // 5 rows of 32 bytes behind the tables, in whole lines of 128.
        let settings = DeviceTables::new(&limits, args.into_iter().chain([Arg::Table(Table::Settings)]), 3);
        assert_eq!((settings.tables_at + Table::Settings.offset(&limits), settings.maps_at), (896, 896 + 256));
    }
}
