//! Where each step table lies in the one region that holds them all: a function of the plan's limits alone, so that the
//! compiler can state the bytes and the runtime can rely on them.

use crate::format::{ALIGN_BYTES, KV_PAGE_TOKENS, Limits, Table};

impl Table {
    /// Every table, in the order in which they lie in memory.
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

/// Bytes of all tables together: [`crate::format::Memory::tables`].
pub fn table_bytes(limits: &Limits) -> u64 {
    Table::ALL.iter().fold(0, |sum: u64, table| sum.saturating_add(table.bytes(limits)))
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
}
