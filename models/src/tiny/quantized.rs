//! Linears of a miniature in 8 bits, with scales, in the arrangements that people publish.

use half::bf16;
use jambac_checkpoint::{DType, Scales, TensorInfo, TensorView, Values};
use serde_json::{Value, json};

use super::Stored;

/// Rows and columns of a block, so that no miniature's sizes are multiples of both.
const BLOCK: (usize, usize) = (32, 48);

/// Rows and columns of the blocks that published checkpoints have.
const WIDE: (usize, usize) = (128, 128);

/// The storage of the weights of linears, except routers, projections of Δ and the output projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Experts alone: compressed-tensors' int8, a bf16 scale of each row, integers down to −128.
    Int8Experts,
    /// compressed-tensors' int8, a bf16 scale of each row.
    Int8Rows,
    /// AutoFP8's E4M3, one f32 scale of a tensor.
    Fp8Tensors,
    /// compressed-tensors' E4M3, a bf16 scale of each row.
    Fp8Rows,
    /// transformers' E4M3, an f32 scale of each block.
    Fp8Blocks,
    /// compressed-tensors' E4M3, a bf16 scale of each block of 128 columns.
    Fp8Wide,
}

impl Arrangement {
    /// Every arrangement.
    pub const ALL: [Arrangement; 6] =
        [Self::Int8Experts, Self::Int8Rows, Self::Fp8Tensors, Self::Fp8Rows, Self::Fp8Blocks, Self::Fp8Wide];

    /// `quantization_config` of config.json.
    pub(super) fn config(self) -> Value {
        let compressed = |format: &str, kind: &str| {
            json!({
                "quant_method": "compressed-tensors",
                "format": format,
                "quantization_status": "compressed",
                "ignore": ["lm_head"],
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                    "num_bits": 8, "type": kind, "strategy": "channel", "symmetric": true, "dynamic": false,
                }}},
            })
        };
        match self {
            Self::Int8Experts | Self::Int8Rows => compressed("int-quantized", "int"),
            Self::Fp8Rows => compressed("float-quantized", "float"),
            Self::Fp8Wide => {
                let mut config = compressed("float-quantized", "float");
                let weights = &mut config["config_groups"]["group_0"]["weights"];
                weights["strategy"] = json!("block");
                weights["block_structure"] = json!(format!("{}x{}", WIDE.0, WIDE.1));
                config
            }
            Self::Fp8Tensors => json!({"quant_method": "fp8", "activation_scheme": "dynamic"}),
            Self::Fp8Blocks => json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK.0, BLOCK.1],
            }),
        }
    }

    /// Whether a parameter, by its canonical name, is stored so.
    pub(super) fn takes(self, canonical: &str) -> bool {
        let experts = canonical.contains(".experts.");
        match self {
            Self::Int8Experts => experts,
            _ => experts || (canonical.ends_with("_proj.weight") && !canonical.contains("dt_proj")),
        }
    }

    /// A matrix as its elements and its scales; `name` is the weight's in the file.
    pub(super) fn store(self, name: &str, shape: &[usize], values: &[f32]) -> [Stored; 2] {
        let (n, k) = (shape[0], shape[1]);
        let (scales, dtype, scale_dtype) = match self {
            Self::Int8Experts | Self::Int8Rows => (Scales::Row, DType::I8, DType::Bf16),
            Self::Fp8Tensors => (Scales::Tensor, DType::F8E4M3, DType::F32),
            Self::Fp8Rows => (Scales::Row, DType::F8E4M3, DType::Bf16),
            Self::Fp8Blocks => (Scales::Block(BLOCK.0, BLOCK.1), DType::F8E4M3, DType::F32),
            Self::Fp8Wide => (Scales::Block(WIDE.0, WIDE.1), DType::F8E4M3, DType::Bf16),
        };
        let (rows, columns) = scales.block(n, k);
        let per_row = k.div_ceil(columns);
        // The scale of an element's block.
        let place = |index: usize| index / k / rows * per_row + index % k / columns;
        let mut of_blocks = vec![0f32; n.div_ceil(rows) * per_row];
        for (index, value) in values.iter().enumerate() {
            let most = &mut of_blocks[place(index)];
            *most = most.max(value.abs());
        }
        let numbers = numbers(dtype);
        // llm-compressor's: 127.5 rounds to −128, and to 127.
        let largest = if dtype == DType::I8 { 127.5 } else { 448.0 };
        for scale in &mut of_blocks {
            *scale /= largest;
            if scale_dtype == DType::Bf16 {
                *scale = bf16::from_f32(*scale).to_f32();
            }
        }
        let element = |(index, value): (usize, &f32)| match dtype {
            DType::I8 => (value / of_blocks[place(index)]).round_ties_even().clamp(-128.0, 127.0) as i8 as u8,
            _ => nearest(&numbers, value / of_blocks[place(index)]),
        };
        let bytes = values.iter().enumerate().map(element).collect();
        let (ending, scale_shape) = match self {
            Self::Fp8Tensors => ("_scale", Vec::new()),
            Self::Fp8Blocks => ("_scale_inv", scales.shape(n, k)),
            _ => ("_scale", scales.shape(n, k)),
        };
        let scale_bytes = super::encode(scale_dtype, &of_blocks);
        [
            Stored { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes },
            Stored { name: format!("{name}{ending}"), dtype: scale_dtype, shape: scale_shape, bytes: scale_bytes },
        ]
    }
}

/// The number of each byte, as the checkpoint's reader widens it.
fn numbers(dtype: DType) -> Vec<f32> {
    let bytes: Vec<u8> = (0..=255).collect();
    let info = TensorInfo {
        name: String::new(),
        shard_idx: 0,
        dtype,
        shape: vec![256],
        byte_range: 0..256,
        values: Values::Same,
    };
    TensorView { info: &info, bytes: &bytes }.to_f32_vec()
}

/// The 8-bit float that is nearest to a value.
fn nearest(numbers: &[f32], value: f32) -> u8 {
    let mut best = 0;
    for (byte, number) in numbers.iter().enumerate() {
        if (number - value).abs() < (numbers[best] - value).abs() {
            best = byte;
        }
    }
    best as u8
}
