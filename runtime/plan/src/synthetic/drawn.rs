//! A weight as a sequence of GPU launches: each draws the rows of one part in one group. [`super::fill`] and
//! [`crate::format::DrawKernel`] both take the draw of each value from here.

use super::{Draw, parameter_hash, scale};
use crate::format::{ElementOrder, PartOrder, Transform, Weight, WeightFormat};

/// Bytes per store of the kernel. If a launch has several rows, each begins at a multiple of it; the padding after a weight
/// ends at one.
pub const STORE_BYTES: u64 = 16;

/// The rows that one launch draws, including padding.
///
/// Element (r, c) is draw `first + r · cols + c` of the parameter if c < cols and r · cols + c < n; otherwise it is 0. Row r
/// begins `(r / run · run_stride + r mod run) · stride` elements after the first row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawnRows {
    /// Offset in bytes of the first row from the start of the weights.
    pub offset: u64,
    draw: Draw,
    /// Index of the parameter's first draw.
    first: u64,
    /// Total number of draws.
    n: u64,
    /// Draws per row.
    cols: u64,
    /// Distance between rows in elements.
    stride: u64,
    /// Number of rows.
    rows: u64,
    /// Rows per contiguous run.
    run: u64,
    /// Distance in rows between the starts of two runs.
    run_stride: u64,
    /// Quantization step of integer formats.
    unit: f32,
}

impl DrawnRows {
    /// Number of kernel parameters.
    pub const N_ARGS: usize = 13;

    /// The kernel's parameters, for weights that begin at address `weights`: address of the first row; the draw's key, scale,
    /// offset (bits of f32) and whether it is normal; first, n, cols, stride, rows, run, run_stride; the unit (bits of f32).
    pub fn args(&self, weights: u64) -> [u64; DrawnRows::N_ARGS] {
        let &DrawnRows { offset, draw, first, n, cols, stride, rows, run, run_stride, unit } = self;
        let [scale, mean, unit] = [draw.scale, draw.offset, unit].map(|x| u64::from(x.to_bits()));
        let (place, normal) = (weights + offset, u64::from(draw.normal));
        [place, draw.key, scale, mean, normal, first, n, cols, stride, rows, run, run_stride, unit]
    }

    /// The rows of a verified weight, with the same draws as [`super::fill`].
    ///
    /// # Errors
    /// A description of the property that kernels do not support.
    pub fn of(weight: &Weight, seed: u64) -> Result<Vec<DrawnRows>, String> {
        let layout = weight.layout;
        if matches!(weight.format, WeightFormat::F16 | WeightFormat::Int4 | WeightFormat::Int3) {
            return Err(format!("a format that kernels draw, not {}", weight.format.name()));
        }
        let stride = match layout.order {
            ElementOrder::Rows { stride, .. } => stride,
            ElementOrder::Panels if layout.lanes == 1 => layout.k,
            ElementOrder::Panels => return Err("rows, not panels of several outputs".to_owned()),
        };
        let element_bytes = weight.format.bits() / 8;
        let mut drawn = Vec::new();
        for group in 0..layout.groups {
            let mut before = 0;
            for part in &weight.parts {
                let padded = part.rows.next_multiple_of(layout.multiple());
                let (run, run_stride) = match weight.order {
                    PartOrder::Stacked => (padded, padded),
                    PartOrder::Interleaved => (layout.lanes, layout.lanes * weight.parts.len() as u64),
                };
                let draw = match weight.transform {
                    Transform::Scale(of) => Draw::constant(scale(of, part.init)),
                    _ => Draw::new(seed, parameter_hash(&part.parameter), part.init),
                };
                let unit = scale(weight.format, part.init);
                let rows = DrawnRows {
                    offset: weight.offset + (group * layout.rows() + before) * stride * element_bytes,
                    draw,
                    first: (group * part.rows + part.first_row).wrapping_mul(layout.k),
                    n: part.rows * layout.k,
                    cols: layout.k,
                    stride,
                    rows: padded,
                    run,
                    run_stride,
                    // Then all quotients are 0, like all integers with a scale of 0.
                    unit: if unit == 0.0 { f32::INFINITY } else { unit },
                };
                let is_last = offset_behind(&rows, element_bytes) == weight.offset + weight.bytes;
                drawn.push(rows.whole_stores(element_bytes, is_last)?);
                before += if weight.order == PartOrder::Interleaved { layout.lanes } else { padded };
            }
        }
        Ok(drawn)
    }

    /// Makes the length of each row a multiple of [`STORE_BYTES`], so that no store crosses a row: dense rows of a run are
    /// merged into one row. The last row of a weight may be shorter, because a full store fits after it.
    fn whole_stores(self, element_bytes: u64, is_last: bool) -> Result<DrawnRows, String> {
        let is_whole = |rows: &DrawnRows| (rows.stride * element_bytes).is_multiple_of(STORE_BYTES);
        let rows = match self {
            rows if is_whole(&rows) => rows,
            DrawnRows { cols, stride, rows, run, run_stride, .. } if cols == stride => DrawnRows {
                cols: run * cols,
                stride: run * stride,
                rows: rows / run,
                run: 1,
                run_stride: run_stride / run,
                ..self
            },
            rows => return Err(format!("rows of a multiple of {STORE_BYTES} bytes, not of {} elements", rows.stride)),
        };
        if !rows.offset.is_multiple_of(STORE_BYTES) || !(is_whole(&rows) || (rows.rows == 1 && is_last)) {
            return Err(format!("parts that begin at multiples of {STORE_BYTES} bytes"));
        }
        let most = i32::MAX as u64 - STORE_BYTES;
        if [rows.rows, rows.stride].iter().any(|&n| n > most) {
            return Err(format!("at most {most} rows and elements of a row"));
        }
        Ok(rows)
    }
}

/// End of the last row, in bytes from the start of the weights.
fn offset_behind(rows: &DrawnRows, element_bytes: u64) -> u64 {
    let last = rows.rows - 1;
    let place = last / rows.run * rows.run_stride + last % rows.run;
    rows.offset + (place + 1) * rows.stride * element_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Init, Layout, Part};

    fn refusal(rows: &[u64], layout: Layout, format: WeightFormat) -> Option<String> {
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let part = |&rows: &u64| Part { parameter: "a".to_owned(), first_row: 0, rows, init };
        let (parts, bytes) = (rows.iter().map(part).collect(), layout.bytes(format).unwrap());
        let (order, transform) = (PartOrder::Stacked, Transform::None);
        let weight = Weight { parts, order, offset: 128, bytes, layout, format, transform };
        DrawnRows::of(&weight, 1).err()
    }

    #[test]
    fn what_a_kernel_would_straddle_is_refused() {
        use WeightFormat::{Bf16, F16, F32};
        let dense = |n: u64| Layout::in_panels(1, n, 1, 1);
        assert_eq!(refusal(&[9], dense(9), F32), None);
        assert_eq!(refusal(&[4, 5], dense(9), F32), None);
        let cases = [
            (&[3, 6][..], dense(9), F32, "parts that begin at multiples of 16 bytes"),
            (&[9], Layout::in_rows(1, 9, 3, 5, (1, 1)), F32, "rows of a multiple of 16 bytes, not of 5 elements"),
            (&[16], Layout::in_panels(1, 16, 3, 8), Bf16, "rows, not panels of several outputs"),
            (&[9], dense(9), F16, "a format that kernels draw, not f16"),
        ];
        for (rows, layout, format, expected) in cases {
            assert_eq!(refusal(rows, layout, format).as_deref(), Some(expected));
        }
    }
}
