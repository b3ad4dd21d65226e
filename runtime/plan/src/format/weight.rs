//! Packed weights: their parts, element order and storage format.

use serde::{Deserialize, Serialize};

use super::Layout;

/// A packed weight: rows of one parameter, or of several that a kernel reads together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// The parts, at least one. Each part is padded according to the layout.
    pub parts: Vec<Part>,
    /// Order of the panels of different parts.
    pub order: PartOrder,
    /// Bytes from the start of the weights section; a multiple of [`super::ALIGN_BYTES`].
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Order of the elements.
    pub layout: Layout,
    /// Stored element type.
    pub format: WeightFormat,
    /// Transformation of the checkpoint's values before rounding to `format`.
    pub transform: Transform,
}

impl Weight {
    /// The names of the parameters, as text.
    pub fn name(&self) -> String {
        let parts = self.parts.iter().map(|part| (&*part.parameter, part.first_row, part.rows));
        crate::text::parts(parts, self.order)
    }

    /// The part that owns a panel and the first row of the panel, by the panel's index in its group. Rows at or beyond the
    /// part's number of rows are padding; a panel may consist of padding only.
    pub fn panel(&self, panel: u64) -> (&Part, u64) {
        let (part, first_row) = self.part_of_panel(panel);
        (&self.parts[part], first_row)
    }

    /// Like [`Weight::panel`], but returns the index of the part.
    ///
    /// # Panics
    /// If the layout has no such panel.
    pub fn part_of_panel(&self, panel: u64) -> (usize, u64) {
        let lanes = self.layout.lanes;
        match self.order {
            PartOrder::Interleaved => {
                let n_parts = self.parts.len() as u64;
                ((panel % n_parts) as usize, panel / n_parts * lanes)
            }
            PartOrder::Stacked => {
                let mut first = panel;
                for (index, part) in self.parts.iter().enumerate() {
                    let panels = part.rows.next_multiple_of(self.layout.multiple()) / lanes;
                    if first < panels {
                        return (index, first * lanes);
                    }
                    first -= panels;
                }
                panic!("panel {panel} of {}", self.layout.panels())
            }
        }
    }
}

/// Rows of one parameter inside a packed weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Canonical name of the checkpoint's parameter; the expert's index is `*` if experts are stacked.
    pub parameter: String,
    /// First row used; 0 for stacked experts, which are used whole.
    pub first_row: u64,
    /// Number of rows used, per expert if experts are stacked.
    pub rows: u64,
    /// Distribution of synthetic values, after the weight's transformation.
    pub init: Init,
}

/// Order of the panels of a weight's parts; with experts the order repeats in each expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PartOrder {
    /// All panels of the first part, then all of the second, and so on.
    Stacked,
    /// The first panel of every part, then the second of every part, and so on; all parts have the same number of rows.
    Interleaved,
}

/// Stored element type of a packed weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WeightFormat {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// Integers in −127 … 127 (integers from a checkpoint: −128 … 127), with one f32 scale per output.
    Int8,
    /// Integers in −8 … 7, with one bf16 scale per 32 inputs of an output.
    Int4,
    /// E4M3 numbers, with one f32 scale per 128 inputs of an output; in rows, one per output.
    Fp8,
    /// Integers in −4 … 3, with one bf16 scale per 32 inputs of an output.
    Int3,
}

/// The scales of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales {
    /// Inputs per scale in panels; `None` means all inputs of an output.
    pub inputs: Option<u64>,
    /// Storage format of the scales.
    pub format: WeightFormat,
}

impl WeightFormat {
    /// All formats.
    pub const ALL: [WeightFormat; 7] = [
        WeightFormat::F32,
        WeightFormat::Bf16,
        WeightFormat::F16,
        WeightFormat::Int8,
        WeightFormat::Int4,
        WeightFormat::Fp8,
        WeightFormat::Int3,
    ];

    /// Bits per element.
    pub fn bits(self) -> u64 {
        match self {
            WeightFormat::F32 => 32,
            WeightFormat::Bf16 | WeightFormat::F16 => 16,
            WeightFormat::Int8 | WeightFormat::Fp8 => 8,
            WeightFormat::Int4 => 4,
            WeightFormat::Int3 => 3,
        }
    }

    /// True for integers with scales.
    pub fn is_integer(self) -> bool {
        matches!(self, WeightFormat::Int8 | WeightFormat::Int4 | WeightFormat::Int3)
    }

    /// Stored inputs of a row of `k`: integer formats pad with zeros to whole groups. `None` on overflow.
    pub fn inputs(self, k: u64) -> Option<u64> {
        if self.is_integer() { k.checked_next_multiple_of(crate::quantize::GROUP as u64) } else { Some(k) }
    }

    /// The scales of a format; `None` for formats of 16 and more bits. Scales are a separate weight, stored directly before what they
    /// scale.
    pub fn scales(self) -> Option<Scales> {
        match self {
            WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::F16 => None,
            WeightFormat::Int8 => Some(Scales { inputs: None, format: WeightFormat::F32 }),
            WeightFormat::Int4 | WeightFormat::Int3 => {
                Some(Scales { inputs: Some(crate::quantize::GROUP as u64), format: WeightFormat::Bf16 })
            }
            WeightFormat::Fp8 => {
                Some(Scales { inputs: Some(crate::quantize::FP8_GROUP as u64), format: WeightFormat::F32 })
            }
        }
    }

    /// The name in listings and options.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::F16 => "f16",
            WeightFormat::Int8 => "int8",
            WeightFormat::Int4 => "int4",
            WeightFormat::Fp8 => "fp8",
            WeightFormat::Int3 => "int3",
        }
    }
}

/// Transformation of a parameter before packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transform {
    /// The values are unchanged.
    None,
    /// −exp(x) · log₂(e): Mamba's decay rates A from `A_log`, scaled so that exp(Δ · A) is a single exp2.
    DecayRate,
    /// The scales of the next weight's integers in this format, instead of the values themselves.
    Scale(WeightFormat),
}

/// Distribution of a synthetic weight after the transformation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// Approximately normal (see [`crate::synthetic`]).
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in low … high.
    Uniform {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_follow_the_order_of_the_parts() {
        let part = |name: &str, first_row: u64, rows: u64| Part {
            parameter: name.to_owned(),
            first_row,
            rows,
            init: Init::Normal { mean: 0.0, std: 1.0 },
        };
        let places = |order: PartOrder, parts: Vec<Part>| {
            let n = Layout::rows_of(parts.iter().map(|part| part.rows), 4).unwrap();
            let layout = Layout::in_panels(2, n, 3, 4);
            let (format, transform) = (WeightFormat::F32, Transform::None);
            let weight = Weight { parts, order, offset: 0, bytes: 0, layout, format, transform };
            let place = |panel: u64| {
                let (part, row) = weight.panel(panel);
                format!("{}{row}", part.parameter)
            };
            (0..layout.panels()).map(place).collect::<Vec<_>>().join(" ")
        };
        // 5 rows need two panels of 4; 3 and 4 rows need one.
        assert_eq!(places(PartOrder::Stacked, vec![part("a", 0, 5), part("b", 7, 3), part("c", 0, 4)]), "a0 a4 b0 c0");
        assert_eq!(places(PartOrder::Interleaved, vec![part("a", 0, 5), part("b", 0, 5)]), "a0 b0 a4 b4");
        assert_eq!(places(PartOrder::Stacked, vec![part("a", 0, 9)]), "a0 a4 a8");
    }

    #[test]
    fn parts_side_by_side_in_rows_are_padded_to_their_multiple() {
        let part = |rows: u64| Part {
            parameter: rows.to_string(),
            first_row: 0,
            rows,
            init: Init::Normal { mean: 0.0, std: 1.0 },
        };
        let places = |order: PartOrder, lanes: u64, multiple: u64, parts: Vec<Part>| {
            let n = Layout::rows_of(parts.iter().map(|part| part.rows), multiple).unwrap();
            let layout = Layout::in_rows(1, n, 3, 64, (lanes, multiple));
            let (format, transform) = (WeightFormat::Bf16, Transform::None);
            let weight = Weight { parts, order, offset: 0, bytes: 0, layout, format, transform };
            let place = |panel: u64| {
                let (part, row) = weight.panel(panel);
                format!("{}:{row}", part.parameter)
            };
            (0..layout.panels()).map(place).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(places(PartOrder::Stacked, 8, 8, vec![part(9), part(8)]), "9:0 9:8 8:0");
        // Each part's 10 rows are padded to 16: the second panel of each has two rows and padding.
        assert_eq!(
            places(PartOrder::Interleaved, 4, 16, vec![part(10); 2]),
            "10:0 10:0 10:4 10:4 10:8 10:8 10:12 10:12"
        );
    }
}
