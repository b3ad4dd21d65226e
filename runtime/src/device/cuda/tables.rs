//! The host image of the table region: counts, then the step tables.

use jamba_plan::format::{Limits, Setting, Table};
use jamba_plan::tables::{COUNT_BYTES, DeviceTables, pages_per_sequence};

use crate::device::{Counts, Settings};

/// The image consists of 64-bit words, so that counts and tables are aligned.
const WORD_BYTES: usize = COUNT_BYTES as usize;

/// The data that a step uploads, and its layout on the device.
pub(super) struct Tables {
    pub(super) region: DeviceTables,
    image: Vec<u64>,
    /// Offset of the page tables and their size per sequence, in bytes.
    pages: (usize, usize),
}

impl Tables {
    pub(super) fn new(limits: &Limits, region: DeviceTables) -> Tables {
        let image = vec![0; (region.bytes as usize).div_ceil(WORD_BYTES)];
        let begin = (region.tables_at + Table::Pages.offset(limits)) as usize;
        let pages = (begin, pages_per_sequence(limits) as usize * size_of::<i32>());
        Tables { region, image, pages }
    }

    /// A step table, for the caller to fill.
    pub(super) fn table(&mut self, limits: &Limits, table: Table) -> &mut [i32] {
        let begin = (self.region.tables_at + table.offset(limits)) as usize;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.image);
        bytemuck::cast_slice_mut(&mut bytes[begin..begin + table.capacity(limits) as usize * size_of::<i32>()])
    }

    /// Sets the counts and returns the bytes to upload: everything up to the page tables of the step's last sequence.
    pub(super) fn image(&mut self, counts: Counts) -> &[u8] {
        for (word, &(count, factor)) in self.image.iter_mut().zip(&self.region.counts) {
            *word = counts.of(count) * u64::from(factor);
        }
        let (begin, of_sequence) = self.pages;
        let bytes: &[u8] = bytemuck::cast_slice(&self.image);
        &bytes[..begin + counts.sequences as usize * of_sequence]
    }

    /// Fills in the settings for drawing tokens and returns their offset in the region and their bytes. A row without a
    /// setting picks its most likely token.
    pub(super) fn settings(&mut self, limits: &Limits, settings: Settings<'_>) -> (u64, &[u8]) {
        let at = self.region.tables_at + Table::Settings.offset(limits);
        let table = self.table(limits, Table::Settings);
        for (row, setting) in table.chunks_exact_mut(Setting::WORDS).zip(settings) {
            row.copy_from_slice(&setting.unwrap_or(Setting::LIKELIEST).words());
        }
        let bytes = bytemuck::cast_slice(&table[..settings.len() * Setting::WORDS]);
        (at, bytes)
    }
}

#[cfg(test)]
mod tests {
    use jamba_plan::format::{Arg, Count};

    use super::*;

    #[test]
    fn the_image_is_as_long_as_the_step_needs() {
        let limits = Limits { max_context: 100, max_sequences: 3, kv_tokens: 320, prefill_chunk: 40, max_outputs: 5 };
        let args = [Arg::Count(Count::Tokens, 2), Arg::Count(Count::Outputs, 1)];
        let mut tables = Tables::new(&limits, DeviceTables::new(&limits, args.into_iter()));
        tables.table(&limits, Table::Ids)[..2].copy_from_slice(&[7, 8]);
        tables.table(&limits, Table::Pages)[7] = 9; // the first of the second sequence
        let image = tables.image(Counts { tokens: 2, sequences: 2, outputs: 1 });
        let word = |at: usize| i64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let element = |at: usize| i32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8)), (4, 1));
        assert_eq!((element(128), element(132)), (7, 8));
        assert_eq!((image.len(), element(128 + 640 + 28)), (128 + 640 + 2 * 28, 9));
    }
}
