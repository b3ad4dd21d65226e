//! Element order of packed weights.

use serde::{Deserialize, Serialize};

use super::WeightFormat;
use crate::quantize::COLUMN_GROUP;

/// Element order of a packed weight: a logical tensor \[groups, n, k\] whose `n` outputs are stored in panels of `lanes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layout {
    /// Number of stacked matrices: the number of experts, or 1.
    pub groups: u64,
    /// Number of outputs: the rows of the single part, or the sum over several parts with each part's rows rounded up to
    /// [`Layout::multiple`].
    pub n: u64,
    /// Number of inputs (the reduction dimension).
    pub k: u64,
    /// Outputs per panel.
    pub lanes: u64,
    /// Order of the elements in a panel.
    pub order: ElementOrder,
}

/// Order of the elements in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ElementOrder {
    /// Element (g, i, j) is at `((g · ceil(n / lanes) + i / lanes) · k + j) · lanes + i % lanes`; lanes beyond n are zero. One
    /// lane gives row-major order; k = 1 gives a vector padded to whole lanes. Panels of integers pad k with zeros;
    /// [`crate::quantize`] defines the order of their elements.
    Panels,
    /// Row-major: element (g, i, j) is at `(g · rows + i) · stride + j`, where rows is n rounded up to `multiple`. Elements
    /// beyond n and k are zero. Rows of int8 and fp8 permute their inputs as [`crate::quantize::column`] defines.
    Rows {
        /// Distance between rows in elements.
        stride: u64,
        /// The rows of each part are rounded up to a multiple of this number, which is itself a multiple of `lanes`.
        multiple: u64,
    },
}

impl Layout {
    /// A layout in panels.
    pub fn in_panels(groups: u64, n: u64, k: u64, lanes: u64) -> Layout {
        Layout { groups, n, k, lanes, order: ElementOrder::Panels }
    }

    /// A row-major layout with `stride` elements per row. Interleaved parts alternate every `lanes` rows; the rows of each part
    /// are rounded up to `multiple`.
    pub fn in_rows(groups: u64, n: u64, k: u64, stride: u64, (lanes, multiple): (u64, u64)) -> Layout {
        Layout { groups, n, k, lanes, order: ElementOrder::Rows { stride, multiple } }
    }

    /// The rows of each part are rounded up to a multiple of this number.
    pub fn multiple(&self) -> u64 {
        match self.order {
            ElementOrder::Panels => self.lanes,
            ElementOrder::Rows { multiple, .. } => multiple,
        }
    }

    /// Stored rows per group, including padding.
    pub fn rows(&self) -> u64 {
        self.n.next_multiple_of(self.multiple())
    }

    /// Panels per group.
    pub fn panels(&self) -> u64 {
        self.rows() / self.lanes
    }

    /// Number of stored elements for floating-point formats, including padding.
    pub fn elements(&self) -> u64 {
        let inputs = match self.order {
            ElementOrder::Panels => self.k,
            ElementOrder::Rows { stride, .. } => stride,
        };
        self.groups * self.rows() * inputs
    }

    /// Storage index of element (group, i, j), in elements.
    pub fn index(&self, group: u64, i: u64, j: u64) -> u64 {
        match self.order {
            ElementOrder::Panels => {
                ((group * self.panels() + i / self.lanes) * self.k + j) * self.lanes + i % self.lanes
            }
            ElementOrder::Rows { stride, .. } => (group * self.rows() + i) * stride + j,
        }
    }

    /// Stored inputs per row; `None` on overflow.
    pub fn stored_inputs(&self, format: WeightFormat) -> Option<u64> {
        match self.order {
            ElementOrder::Panels => format.inputs(self.k),
            ElementOrder::Rows { stride, .. } => Some(stride),
        }
    }

    /// Stored length in bytes; `None` if a size is 0, if a row is shorter than its inputs, or on overflow.
    pub fn bytes(&self, format: WeightFormat) -> Option<u64> {
        if [self.groups, self.n, self.k, self.lanes].contains(&0) {
            return None;
        }
        if let ElementOrder::Rows { stride, multiple } = self.order
            && (stride < self.k
                || multiple == 0
                || !multiple.is_multiple_of(self.lanes)
                || (matches!(format, WeightFormat::Int8 | WeightFormat::Fp8)
                    && !stride.is_multiple_of(COLUMN_GROUP as u64))
                || matches!(format, WeightFormat::Int4 | WeightFormat::Int3))
        {
            return None;
        }
        let rows = self.n.checked_next_multiple_of(self.multiple())?;
        let elements = self.groups.checked_mul(rows)?.checked_mul(self.stored_inputs(format)?)?;
        Some(elements.checked_mul(format.bits())? / 8) // integers of fewer than 8 bits fill whole bytes: k is a multiple of 32
    }

    /// Bytes per panel, for a layout whose total length does not overflow.
    pub fn panel_bytes(&self, format: WeightFormat) -> usize {
        let order = match self.order {
            ElementOrder::Panels => ElementOrder::Panels,
            ElementOrder::Rows { stride, .. } => ElementOrder::Rows { stride, multiple: self.lanes },
        };
        let panel = Layout { groups: 1, n: self.lanes, order, ..*self };
        panel.bytes(format).unwrap_or(0) as usize
    }

    /// Inputs per scale. Rows have one scale per output; for panels see [`WeightFormat::scales`].
    pub fn shared_inputs(&self, format: WeightFormat) -> usize {
        match self.order {
            ElementOrder::Panels => crate::quantize::shared_inputs(format, self.k as usize),
            ElementOrder::Rows { .. } => self.k as usize,
        }
    }

    /// Layout and format of the scales for a weight with this layout in a format that has them.
    pub fn scales(&self, format: WeightFormat) -> Option<(Layout, WeightFormat)> {
        let scales = format.scales()?;
        let k = self.k.div_ceil(self.shared_inputs(format) as u64);
        let order = match self.order {
            ElementOrder::Panels => ElementOrder::Panels,
            ElementOrder::Rows { multiple, .. } => ElementOrder::Rows { stride: k, multiple },
        };
        Some((Layout { k, order, ..*self }, scales.format))
    }

    /// The value of `n` for parts with these numbers of rows; `None` on overflow.
    pub fn rows_of(parts: impl IntoIterator<Item = u64>, multiple: u64) -> Option<u64> {
        let parts: Vec<u64> = parts.into_iter().collect();
        match parts[..] {
            [rows] => Some(rows),
            _ => {
                parts.into_iter().try_fold(0_u64, |sum, rows| sum.checked_add(rows.checked_next_multiple_of(multiple)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_visits_every_stored_element_once_in_order() {
        let layout = Layout::in_panels(2, 5, 3, 4);
        let mut stored = 0;
        for group in 0..2 {
            for panel in 0..2 {
                for j in 0..3 {
                    for lane in 0..4 {
                        if panel * 4 + lane < 5 {
                            assert_eq!(layout.index(group, panel * 4 + lane, j), stored);
                        }
                        stored += 1;
                    }
                }
            }
        }
        assert_eq!(layout.elements(), stored);
    }

    #[test]
    fn rows_follow_each_other_at_their_stride() {
        let layout = Layout::in_rows(2, 70, 100, 128, (64, 64));
        assert_eq!((layout.rows(), layout.panels(), layout.elements()), (128, 2, 2 * 128 * 128));
        assert_eq!(layout.index(1, 69, 99), (128 + 69) * 128 + 99);
        assert_eq!(layout.bytes(WeightFormat::Bf16), Some(2 * 128 * 128 * 2));
        assert_eq!(layout.panel_bytes(WeightFormat::Int8), 64 * 128);
        let scales = layout.scales(WeightFormat::Int8);
        assert_eq!(scales, Some((Layout::in_rows(2, 70, 1, 1, (64, 64)), WeightFormat::F32)));
        assert_eq!(scales.and_then(|(layout, format)| layout.bytes(format)), Some(2 * 128 * 4));
    }

    #[test]
    fn rows_that_cannot_be_have_no_length() {
        assert_eq!(Layout::in_rows(1, 64, 100, 99, (64, 64)).bytes(WeightFormat::Bf16), None);
        assert_eq!(Layout::in_rows(1, 64, 100, 112, (64, 64)).bytes(WeightFormat::Int8), None);
        assert_eq!(Layout::in_rows(1, 64, 100, 128, (64, 96)).bytes(WeightFormat::Bf16), None);
        assert_eq!(Layout::in_rows(1, 64, 100, 128, (64, 0)).bytes(WeightFormat::Bf16), None);
        assert_eq!(Layout::in_rows(1, 64, 100, 128, (64, 64)).bytes(WeightFormat::Int4), None);
    }

    #[test]
    fn integers_are_padded_to_groups_and_have_scales() {
        let layout = Layout::in_panels(3, 21, 70, 16);
        // 70 inputs are padded to 96; 32 rows are 2 panels of 16.
        assert_eq!(layout.bytes(WeightFormat::Int8), Some(3 * 32 * 96));
        assert_eq!(layout.bytes(WeightFormat::Int4), Some(3 * 32 * 48));
        assert_eq!(layout.panel_bytes(WeightFormat::Int4), 16 * 48);
        let scales = |format: WeightFormat| layout.scales(format);
        assert_eq!(scales(WeightFormat::Int8), Some((Layout { k: 1, ..layout }, WeightFormat::F32)));
        assert_eq!(scales(WeightFormat::Int4), Some((Layout { k: 3, ..layout }, WeightFormat::Bf16)));
        assert_eq!(scales(WeightFormat::Bf16), None);
    }
}
