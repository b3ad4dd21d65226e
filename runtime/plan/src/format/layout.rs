//! The order of a packed weight's elements.

use serde::{Deserialize, Serialize};

use super::WeightFormat;
use crate::quantize::COLUMN_GROUP;

/// Order of a packed weight's elements: a logical tensor \[groups, n, k\] whose outputs `n` lie in panels of `lanes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layout {
    /// Stacked matrices: experts, or 1.
    pub groups: u64,
    /// Outputs: the rows of the one part, or of several parts the sum of their rows, each rounded up to
    /// [`Layout::multiple`].
    pub n: u64,
    /// Inputs that are summed over.
    pub k: u64,
    /// Outputs side by side in one panel.
    pub lanes: u64,
    /// The order of the elements of a panel.
    pub order: ElementOrder,
}

/// The order of the elements of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ElementOrder {
    /// Element (g, i, j) is at `((g · ceil(n / lanes) + i / lanes) · k + j) · lanes + i % lanes`; lanes beyond n hold zero. One
    /// lane is row-major order; k = 1 is a vector padded to whole lanes. Panels of integers pad k with zeros and order their
    /// elements as [`crate::quantize`] says.
    Panels,
    /// Row after row: element (g, i, j) is at `(g · rows + i) · stride + j`, rows being n rounded up to `multiple`. What is
    /// beyond n and k is zero. Rows of int8 order their inputs as [`crate::quantize::column`] says.
    Rows {
        /// Elements from one row to the next.
        stride: u64,
        /// Rows of each part are rounded up to a multiple of this many, which is one of `lanes`.
        multiple: u64,
    },
}

impl Layout {
    /// Panels whose outputs lie side by side.
    pub fn in_panels(groups: u64, n: u64, k: u64, lanes: u64) -> Layout {
        Layout { groups, n, k, lanes, order: ElementOrder::Panels }
    }

    /// Rows of `stride` elements; parts are interleaved by `lanes` rows where they are, and have a multiple of `multiple`.
    pub fn in_rows(groups: u64, n: u64, k: u64, stride: u64, (lanes, multiple): (u64, u64)) -> Layout {
        Layout { groups, n, k, lanes, order: ElementOrder::Rows { stride, multiple } }
    }

    /// What the rows of each part are rounded up to.
    pub fn multiple(&self) -> u64 {
        match self.order {
            ElementOrder::Panels => self.lanes,
            ElementOrder::Rows { multiple, .. } => multiple,
        }
    }

    /// Stored rows of one group, padding included.
    pub fn rows(&self) -> u64 {
        self.n.next_multiple_of(self.multiple())
    }

    /// Panels of one group.
    pub fn panels(&self) -> u64 {
        self.rows() / self.lanes
    }

    /// Number of stored elements of a floating-point format, padding included.
    pub fn elements(&self) -> u64 {
        let inputs = match self.order {
            ElementOrder::Panels => self.k,
            ElementOrder::Rows { stride, .. } => stride,
        };
        self.groups * self.rows() * inputs
    }

    /// Where element (group, i, j) is stored, in elements.
    pub fn index(&self, group: u64, i: u64, j: u64) -> u64 {
        match self.order {
            ElementOrder::Panels => {
                ((group * self.panels() + i / self.lanes) * self.k + j) * self.lanes + i % self.lanes
            }
            ElementOrder::Rows { stride, .. } => (group * self.rows() + i) * stride + j,
        }
    }

    /// Stored inputs of a row; None where they overflow.
    pub fn stored_inputs(&self, format: WeightFormat) -> Option<u64> {
        match self.order {
            ElementOrder::Panels => format.inputs(self.k),
            ElementOrder::Rows { stride, .. } => Some(stride),
        }
    }

    /// Stored length in bytes; None where a size is 0, a row does not hold its inputs, or the product overflows.
    pub fn bytes(&self, format: WeightFormat) -> Option<u64> {
        if [self.groups, self.n, self.k, self.lanes].contains(&0) {
            return None;
        }
        if let ElementOrder::Rows { stride, multiple } = self.order
            && (stride < self.k
                || multiple == 0
                || !multiple.is_multiple_of(self.lanes)
                || (format == WeightFormat::Int8 && !stride.is_multiple_of(COLUMN_GROUP as u64))
                || format == WeightFormat::Int4)
        {
            return None;
        }
        let rows = self.n.checked_next_multiple_of(self.multiple())?;
        let elements = self.groups.checked_mul(rows)?.checked_mul(self.stored_inputs(format)?)?;
        Some(elements.checked_mul(format.bits())? / 8) // both lanes of a half byte are stored: k is even
    }

    /// Bytes of one panel, of a layout whose length is known to be a number.
    pub fn panel_bytes(&self, format: WeightFormat) -> usize {
        let order = match self.order {
            ElementOrder::Panels => ElementOrder::Panels,
            ElementOrder::Rows { stride, .. } => ElementOrder::Rows { stride, multiple: self.lanes },
        };
        let panel = Layout { groups: 1, n: self.lanes, order, ..*self };
        panel.bytes(format).unwrap_or(0) as usize
    }

    /// The layout of the scales of a weight that lies so and is stored in an integer format.
    pub fn scales(&self, format: WeightFormat) -> Option<(Layout, WeightFormat)> {
        let scales = format.scales()?;
        let k = scales.inputs.map_or(1, |inputs| self.k.div_ceil(inputs));
        let order = match self.order {
            ElementOrder::Panels => ElementOrder::Panels,
            ElementOrder::Rows { multiple, .. } => ElementOrder::Rows { stride: k, multiple },
        };
        Some((Layout { k, order, ..*self }, scales.format))
    }

    /// What `n` is for parts of so many rows; None where the sum overflows.
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
        // 2 panels of 16 rows; 70 inputs take 96.
        assert_eq!(layout.bytes(WeightFormat::Int8), Some(3 * 32 * 96));
        assert_eq!(layout.bytes(WeightFormat::Int4), Some(3 * 32 * 48));
        assert_eq!(layout.panel_bytes(WeightFormat::Int4), 16 * 48);
        let scales = |format: WeightFormat| layout.scales(format);
        assert_eq!(scales(WeightFormat::Int8), Some((Layout { k: 1, ..layout }, WeightFormat::F32)));
        assert_eq!(scales(WeightFormat::Int4), Some((Layout { k: 3, ..layout }, WeightFormat::Bf16)));
        assert_eq!(scales(WeightFormat::Bf16), None);
    }
}
