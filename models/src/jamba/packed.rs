//! Matrices whose checkpoint packs several numbers into a word, widened row by row.
//!
//! | written by | integers of a matrix \[n, k\] | scales | zero points |
//! |---|---|---|---|
//! | compressed-tensors | `weight_packed` \[n, words of k\] | `weight_scale` \[n, groups\] | `weight_zero_point` \[words of n, groups\], or the middle |
//! | GPTQ | `qweight` \[words of k, n\] | `scales` \[groups, n\] | `qzeros` \[groups, words of n\], one less in its first version |
//! | AWQ | `qweight` \[k, words of n\], in the order 0 2 4 6 1 3 5 7 | `scales` \[groups, n\] | `qzeros` \[groups, words of n\], in that order |
//! | MLX | `weight` \[n, words of k\] | `scales` \[n, groups\] | none: `biases` \[n, groups\] are added |
//! | bitsandbytes, 4 bits | `weight` \[bytes, 1\], the first of a byte in its upper half | `weight.absmax` of blocks of all elements | none: `weight.quant_map` has 16 values |
//! | bitsandbytes, 8 bits | `weight` \[n, k\] of I8 | `SCB` \[n\], times 1/127 | none |
//!
//! ```text
//! weight[i, j] = scale[i, group of j] · (integer[i, j] − zero[i, group of j])     or     scale · integer + bias
//! ```
//!
//! Words are 32 bits, least significant first. Groups are columns in order, or those that `g_idx` lists (act-order).

use std::sync::Arc;

use jambac_checkpoint::{Checkpoint, DType, Packing, TensorView};

use super::stored::{StoredTensor, Tensors};
use crate::ModelError;

/// Inputs that share a scale of int4 weights in plans.
pub(super) const INT4_INPUTS: usize = 32;

/// Where AWQ puts output i of 8 in a word, in units of the bits of a number.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A packed matrix.
#[derive(Debug)]
pub(super) struct Packed<'c> {
    pub(super) n: usize,
    pub(super) k: usize,
    codes: Codes<'c>,
}

#[derive(Debug)]
enum Codes<'c> {
    Affine(Affine<'c>),
    Table(Table<'c>),
    /// bitsandbytes' integers of 8 bits, with the largest magnitude of each row.
    Rows(TensorView<'c>, Vec<f32>),
}

/// Integers of a few bits with scales, and zero points or biases.
#[derive(Debug)]
struct Affine<'c> {
    bits: usize,
    words: TensorView<'c>,
    order: Order,
    scales: Grid,
    zeros: Zeros,
    /// The group of each column.
    groups: Vec<u32>,
}

/// The order of integers in words.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Columns of a row.
    Columns,
    /// Columns of a row, which stand below each other: GPTQ.
    Below,
    /// Rows, interleaved: AWQ.
    Rows,
}

/// A number for each row and group.
#[derive(Debug)]
struct Grid {
    values: Vec<f32>,
    n_groups: usize,
    n: usize,
    /// Whether the groups of a row are neighbours, not the rows of a group.
    by_row: bool,
}

impl Grid {
    fn at(&self, row: usize, group: usize) -> f32 {
        self.values[if self.by_row { row * self.n_groups + group } else { group * self.n + row }]
    }
}

#[derive(Debug)]
enum Zeros {
    /// One for all: the middle of the range.
    Middle(f32),
    /// For each row and group.
    Each(Grid),
    /// Not subtracted before, but added after scaling.
    Biases(Grid),
}

/// Codes of 4 bits for 16 values, with a scale for each block of all elements.
#[derive(Debug)]
struct Table<'c> {
    bytes: TensorView<'c>,
    values: [f32; 16],
    scales: Vec<f32>,
    block: usize,
}

/// The little-endian word at an index.
fn word(bytes: &[u8], at: usize) -> u32 {
    let (words, _) = bytes.as_chunks();
    u32::from_le_bytes(words[at])
}

/// A number of `bits` at a place of a word.
fn field(word: u32, place: usize, bits: usize) -> u32 {
    word >> (place * bits) & ((1 << bits) - 1)
}

impl Packed<'_> {
    /// Widens a row.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.codes {
            Codes::Affine(affine) => affine.row(row, self.n, out),
            Codes::Table(table) => {
                for (j, out) in out.iter_mut().enumerate() {
                    let at = row * self.k + j;
                    let byte = table.bytes.bytes[at / 2];
                    let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                    *out = table.values[usize::from(code)] * table.scales[at / table.block];
                }
            }
            Codes::Rows(integers, scales) => {
                let stored = &integers.bytes[row * self.k..][..self.k];
                stored.iter().zip(out).for_each(|(&q, out)| *out = scales[row] * f32::from(q as i8));
            }
        }
    }

    /// Whether a plan can hold the integers as they are in int4: 4 bits around a fixed middle, with groups of whole 32 columns in order.
    pub(super) fn holds_int4(&self) -> bool {
        let Codes::Affine(Affine { bits: 4, zeros, groups, .. }) = &self.codes else { return false };
        let is_middle = match zeros {
            Zeros::Middle(zero) => *zero == 8.0,
            Zeros::Each(grid) => grid.values.iter().all(|&zero| zero == 8.0),
            Zeros::Biases(_) => false,
        };
        is_middle && groups.chunks(INT4_INPUTS).all(|chunk| chunk.iter().all(|group| *group == chunk[0]))
    }

    /// Whether a plan can hold the integers as they are in int8.
    pub(super) fn holds_int8(&self) -> bool {
        matches!(self.codes, Codes::Rows(..))
    }

    /// The integers of a row with the scale of each 32 columns. The matrix is one that [`Packed::holds_int4`].
    pub(super) fn int4_row(&self, row: usize, q: &mut [i8], scales: &mut [f32]) {
        let Codes::Affine(affine) = &self.codes else { return };
        q.iter_mut().enumerate().for_each(|(j, q)| *q = affine.integer(row, j, self.n, self.k) as i8 - 8);
        let group = |at: usize| affine.groups[at * INT4_INPUTS] as usize;
        scales.iter_mut().enumerate().for_each(|(at, scale)| *scale = affine.scales.at(row, group(at)));
    }

    /// The integers of a row with their scale. The matrix is one that [`Packed::holds_int8`].
    pub(super) fn int8_row(&self, row: usize, q: &mut [i8]) -> f32 {
        let Codes::Rows(integers, scales) = &self.codes else { return 0.0 };
        integers.bytes[row * self.k..][..self.k].iter().zip(q).for_each(|(&byte, q)| *q = byte as i8);
        scales[row]
    }
}

impl Affine<'_> {
    fn integer(&self, row: usize, j: usize, n: usize, k: usize) -> u32 {
        let per_word = 32 / self.bits;
        let (at, place) = match self.order {
            Order::Columns => (row * k.div_ceil(per_word) + j / per_word, j % per_word),
            Order::Below => (j / per_word * n + row, j % per_word),
            Order::Rows => (j * n.div_ceil(per_word) + row / per_word, AWQ_ORDER[row % per_word]),
        };
        field(word(self.words.bytes, at), place, self.bits)
    }

    fn row(&self, row: usize, n: usize, out: &mut [f32]) {
        let k = out.len();
        for (j, out) in out.iter_mut().enumerate() {
            let (q, group) = (self.integer(row, j, n, k) as f32, self.groups[j] as usize);
            let scale = self.scales.at(row, group);
            *out = match &self.zeros {
                Zeros::Middle(zero) => scale * (q - zero),
                Zeros::Each(zeros) => scale * (q - zeros.at(row, group)),
                Zeros::Biases(biases) => scale * q + biases.at(row, group),
            };
        }
    }
}

/// Binds the packed matrix of the parameter `name` of \[n, k\], and takes its tensors out of `tensors`. `None` if the parameter is not
/// packed.
///
/// # Errors
/// Tensors that are missing, or of a wrong shape or type; a group that does not exist; a scale that is not finite.
pub(super) fn bind<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    shape: &[usize],
    tensors: &mut Tensors<'c>,
) -> Result<Option<StoredTensor<'c>>, ModelError> {
    let (Some(quantization), &[n, k]) = (&checkpoint.config().quantization, shape) else { return Ok(None) };
    let (Some(packing), Some(module)) = (quantization.packing, name.strip_suffix("weight")) else { return Ok(None) };
    let words = match packing {
        Packing::Compressed { .. } => "weight_packed",
        Packing::Gptq { .. } | Packing::Awq { .. } => "qweight",
        Packing::Mlx | Packing::BitsAndBytes => "weight",
    };
    let words = format!("{module}{words}");
    let is_packed = |view: &TensorView| match packing {
        Packing::Mlx => view.info.dtype == DType::U32,
        Packing::BitsAndBytes => matches!(view.info.dtype, DType::U8 | DType::I8),
        _ => true,
    };
    if !tensors.get(&words).is_some_and(is_packed) {
        return Ok(None);
    }
    let mut parts = Parts { checkpoint, module, tensors, n, k };
    let packed = match packing {
        Packing::Compressed { bits, .. } => parts.compressed(bits)?,
        Packing::Gptq { bits, offset } => parts.gptq(bits, offset as f32)?,
        Packing::Awq { bits } => parts.awq(bits)?,
        Packing::Mlx => parts.mlx()?,
        Packing::BitsAndBytes => parts.bits_and_bytes()?,
    };
    let (elements, codes) = packed;
    Ok(Some(StoredTensor::packed(elements, checkpoint.shard_path(elements.info), Arc::new(Packed { n, k, codes }))))
}

/// The tensors of one packed matrix.
struct Parts<'a, 'c> {
    checkpoint: &'c Checkpoint,
    /// Prefix of their names, with its dot.
    module: &'a str,
    tensors: &'a mut Tensors<'c>,
    n: usize,
    k: usize,
}

impl<'c> Parts<'_, 'c> {
    fn fault(&self, view: &TensorView, found: String, expected: impl Into<String>) -> ModelError {
        ModelError::Stored {
            path: self.checkpoint.shard_path(view.info).into(),
            tensor: view.info.name.clone(),
            found,
            expected: expected.into(),
        }
    }

    /// Takes a tensor that may be absent.
    fn optional(&mut self, ending: &str) -> Option<TensorView<'c>> {
        self.tensors.remove(&format!("{}{ending}", self.module))
    }

    /// Takes a tensor.
    fn take(&mut self, ending: &str, shape: &[usize]) -> Result<TensorView<'c>, ModelError> {
        let Some(view) = self.optional(ending) else {
            let (path, tensor) = (self.checkpoint.index_path().into(), format!("{}{ending}", self.module));
            return Err(ModelError::Missing { path, tensor, expected: shape.to_vec() });
        };
        self.check(&view, shape)?;
        Ok(view)
    }

    fn check(&self, view: &TensorView, shape: &[usize]) -> Result<(), ModelError> {
        if view.info.shape == shape {
            return Ok(());
        }
        let (path, tensor) = (self.checkpoint.shard_path(view.info).into(), view.info.name.clone());
        Err(ModelError::Shape { path, tensor, found: view.info.shape.clone(), expected: shape.to_vec() })
    }

    /// Takes a tensor of words.
    fn words(&mut self, ending: &str, shape: &[usize]) -> Result<TensorView<'c>, ModelError> {
        let view = self.take(ending, shape)?;
        match view.info.dtype {
            DType::I32 | DType::U32 => Ok(view),
            other => Err(self.fault(&view, format!("dtype {other}"), "words of 32 bits")),
        }
    }

    /// Finite numbers.
    fn numbers(&self, view: &TensorView) -> Result<Vec<f32>, ModelError> {
        if !matches!(view.info.dtype, DType::F32 | DType::Bf16 | DType::F16) {
            return Err(self.fault(view, format!("dtype {}", view.info.dtype), "F32, BF16 or F16"));
        }
        let values = view.to_f32_vec();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.fault(view, format!("{} as number {at}", values[at]), "finite numbers")),
            None => Ok(values),
        }
    }

    /// Scales or biases by row, \[n, groups\], or by group, \[groups, n\].
    fn grid(&mut self, ending: &str, by_row: bool) -> Result<Grid, ModelError> {
        let Some(view) = self.optional(ending) else {
            let (path, tensor) = (self.checkpoint.index_path().into(), format!("{}{ending}", self.module));
            return Err(ModelError::Missing { path, tensor, expected: vec![self.n] });
        };
        let groups = match (view.info.shape.as_slice(), by_row) {
            (&[n, groups], true) if n == self.n => groups,
            (&[groups, n], false) if n == self.n => groups,
            _ => 0,
        };
        if groups == 0 || groups > self.k {
            let expected = if by_row { [self.n, 1] } else { [1, self.n] };
            self.check(&view, &expected)?;
        }
        Ok(Grid { values: self.numbers(&view)?, n_groups: groups, n: self.n, by_row })
    }

    /// The group of each column: listed, or columns in order.
    fn groups(&mut self, ending: &str, n_groups: usize) -> Result<Vec<u32>, ModelError> {
        let size = self.k.div_ceil(n_groups);
        let k = self.k;
        let Some(view) = self.optional(ending) else { return Ok((0..k).map(|j| (j / size) as u32).collect()) };
        self.check(&view, &[self.k])?;
        if view.info.dtype != DType::I32 {
            return Err(self.fault(&view, format!("dtype {}", view.info.dtype), "I32"));
        }
        let groups: Vec<u32> = (0..self.k).map(|j| word(view.bytes, j)).collect();
        match groups.iter().position(|&group| group as usize >= n_groups) {
            Some(j) => Err(self.fault(
                &view,
                format!("group {} of column {j}", groups[j] as i32),
                format!("groups below {n_groups}"),
            )),
            None => Ok(groups),
        }
    }

    /// Zero points of groups, \[groups, words of n\], each with `offset` added.
    fn zeros(&mut self, n_groups: usize, bits: usize, order: Order, offset: f32) -> Result<Zeros, ModelError> {
        let (n, per_word) = (self.n, 32 / bits);
        let stride = n.div_ceil(per_word);
        let view = self.words("qzeros", &[n_groups, stride])?;
        let place = |row: usize| if matches!(order, Order::Rows) { AWQ_ORDER[row % per_word] } else { row % per_word };
        let zero = |at: usize| {
            let (group, row) = (at / n, at % n);
            field(word(view.bytes, group * stride + row / per_word), place(row), bits) as f32 + offset
        };
        let values = (0..n_groups * n).map(zero).collect();
        Ok(Zeros::Each(Grid { values, n_groups, n, by_row: false }))
    }

    fn compressed(&mut self, bits: usize) -> Result<(TensorView<'c>, Codes<'c>), ModelError> {
        let (n, per_word) = (self.n, 32 / bits);
        let words = self.words("weight_packed", &[n, self.k.div_ceil(per_word)])?;
        if let Some(view) = self.optional("weight_shape") {
            let stored: Vec<u64> = match view.info.dtype {
                DType::I64 => view.bytes.chunks_exact(8).map(|bytes| u64::from(word(bytes, 0))).collect(),
                _ => (0..view.bytes.len() / 4).map(|at| u64::from(word(view.bytes, at))).collect(),
            };
            if stored != [n as u64, self.k as u64] {
                return Err(self.fault(&view, format!("{stored:?}"), format!("[{n}, {}]", self.k)));
            }
        }
        let scales = self.grid("weight_scale", true)?;
        let groups = self.groups("weight_g_idx", scales.n_groups)?;
        let zeros = match self.tensors.contains_key(&format!("{}weight_zero_point", self.module)) {
            false => Zeros::Middle((1 << (bits - 1)) as f32),
            true => {
                let n_groups = scales.n_groups;
                let view = self.words("weight_zero_point", &[n.div_ceil(per_word), n_groups])?;
                let zero = |at: usize| {
                    let (row, group) = (at / n_groups, at % n_groups);
                    field(word(view.bytes, row / per_word * n_groups + group), row % per_word, bits) as f32
                };
                let values = (0..n * n_groups).map(zero).collect();
                Zeros::Each(Grid { values, n_groups, n, by_row: true })
            }
        };
        let affine = Affine { bits, words, order: Order::Columns, scales, zeros, groups };
        Ok((words, Codes::Affine(affine)))
    }

    fn gptq(&mut self, bits: usize, offset: f32) -> Result<(TensorView<'c>, Codes<'c>), ModelError> {
        let words = self.words("qweight", &[self.k.div_ceil(32 / bits), self.n])?;
        let scales = self.grid("scales", false)?;
        let groups = self.groups("g_idx", scales.n_groups)?;
        let zeros = self.zeros(scales.n_groups, bits, Order::Below, offset)?;
        // AutoGPTQ stores biases of zeros.
        self.no_bias()?;
        let affine = Affine { bits, words, order: Order::Below, scales, zeros, groups };
        Ok((words, Codes::Affine(affine)))
    }

    /// Takes the bias of a linear that has none in Jamba, if it is all zeros.
    fn no_bias(&mut self) -> Result<(), ModelError> {
        let name = format!("{}bias", self.module);
        let of_mamba = [".in_proj.", ".out_proj.", ".dt_proj."].iter().any(|part| self.module.ends_with(part));
        if of_mamba || !self.tensors.contains_key(&name) {
            return Ok(());
        }
        let view = self.take("bias", &[self.n])?;
        match self.numbers(&view)?.iter().all(|&x| x == 0.0) {
            true => Ok(()),
            false => Err(self.fault(&view, "a bias".into(), "no bias, or one of zeros")),
        }
    }

    fn awq(&mut self, bits: usize) -> Result<(TensorView<'c>, Codes<'c>), ModelError> {
        let words = self.words("qweight", &[self.k, self.n.div_ceil(32 / bits)])?;
        let scales = self.grid("scales", false)?;
        let groups = self.groups("g_idx", scales.n_groups)?;
        let zeros = self.zeros(scales.n_groups, bits, Order::Rows, 0.0)?;
        let affine = Affine { bits, words, order: Order::Rows, scales, zeros, groups };
        Ok((words, Codes::Affine(affine)))
    }

    fn mlx(&mut self) -> Result<(TensorView<'c>, Codes<'c>), ModelError> {
        let (n, k) = (self.n, self.k);
        let name = format!("{}weight", self.module);
        let columns = self.tensors.get(&name).and_then(|view| view.info.shape.last().copied()).unwrap_or(0);
        // The words of a row say how many bits a number has. Numbers of 3, 5 and 6 bits cross words.
        let bits = [2, 4, 8].into_iter().find(|bits| columns * 32 == k * bits).unwrap_or(4);
        let words = self.words("weight", &[n, k * bits / 32])?;
        let scales = self.grid("scales", true)?;
        let biases = self.grid("biases", true)?;
        if biases.n_groups != scales.n_groups || !k.is_multiple_of(scales.n_groups) {
            let found = format!("{} groups of scales and {} of biases", scales.n_groups, biases.n_groups);
            return Err(self.fault(&words, found, format!("as many groups, which divide {k} columns")));
        }
        let groups = self.groups("g_idx", scales.n_groups)?;
        let affine = Affine { bits, words, order: Order::Columns, scales, zeros: Zeros::Biases(biases), groups };
        Ok((words, Codes::Affine(affine)))
    }

    fn bits_and_bytes(&mut self) -> Result<(TensorView<'c>, Codes<'c>), ModelError> {
        let (n, k) = (self.n, self.k);
        let name = format!("{}weight", self.module);
        if self.tensors.get(&name).is_some_and(|view| view.info.dtype == DType::I8) {
            let integers = self.take("weight", &[n, k])?;
            let largest = self.take("SCB", &[n])?;
            let scales = self.numbers(&largest)?.iter().map(|largest| largest / 127.0).collect();
            self.optional("weight_format");
            return Ok((integers, Codes::Rows(integers, scales)));
        }
        let bytes = self.take("weight", &[(n * k).div_ceil(2), 1])?;
        let view = self.take("weight.quant_map", &[16])?;
        let mut values = [0.0; 16];
        values.copy_from_slice(&self.numbers(&view)?);
        let state = ["nf4", "fp4"].map(|kind| self.optional(&format!("weight.quant_state.bitsandbytes__{kind}")));
        let Some(state) = state.into_iter().flatten().next() else {
            let (path, tensor) = (self.checkpoint.index_path().into(), format!("{name}.quant_state.bitsandbytes__nf4"));
            return Err(ModelError::Missing { path, tensor, expected: vec![1] });
        };
        let json: serde_json::Value = serde_json::from_slice(state.bytes)
            .map_err(|error| self.fault(&state, format!("JSON error: {error}"), "bitsandbytes' description"))?;
        let integer = |key: &str, default: u64| json.get(key).map_or(Some(default), serde_json::Value::as_u64);
        let block = match integer("blocksize", 64) {
            Some(block) if block > 0 && block <= 1 << 20 => block as usize,
            _ => return Err(self.fault(&state, format!("blocksize {}", json["blocksize"]), "a count")),
        };
        let n_blocks = (n * k).div_ceil(block);
        let Some(largest) = self.optional("weight.absmax") else {
            let (path, tensor) = (self.checkpoint.index_path().into(), format!("{name}.absmax"));
            return Err(ModelError::Missing { path, tensor, expected: vec![n_blocks] });
        };
        self.check(&largest, &[n_blocks])?;
        let scales = match largest.info.dtype {
            DType::U8 => self.nested(&largest, &state, &json)?,
            _ => self.numbers(&largest)?,
        };
        Ok((bytes, Codes::Table(Table { bytes, values, scales, block })))
    }

    /// Scales that are stored as codes for 256 values, with a scale for each 256 of them.
    fn nested(
        &mut self,
        codes: &TensorView<'c>,
        state: &TensorView<'c>,
        json: &serde_json::Value,
    ) -> Result<Vec<f32>, ModelError> {
        let offset = json["nested_offset"].as_f64().filter(|offset| offset.is_finite());
        let block = json["nested_blocksize"].as_u64().filter(|block| (1..1 << 20).contains(block));
        let (Some(offset), Some(block)) = (offset, block) else {
            return Err(self.fault(state, json.to_string(), "nested_offset and nested_blocksize"));
        };
        let map = self.take("weight.nested_quant_map", &[256])?;
        let map = self.numbers(&map)?;
        let outer = self.take("weight.nested_absmax", &[codes.bytes.len().div_ceil(block as usize)])?;
        let outer = self.numbers(&outer)?;
        let scale = |(at, &code): (usize, &u8)| map[usize::from(code)] * outer[at / block as usize] + offset as f32;
        Ok(codes.bytes.iter().enumerate().map(scale).collect())
    }
}
