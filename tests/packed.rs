//! Checkpoints with several numbers in a word: values against the formulas of those who write them, plans that keep the integers, and
//! damaged tensors by name.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use jamba_plan::format::WeightFormat;
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};
use jambac_checkpoint::Checkpoint;
use jambac_codegen::pack::Measure;
use jambac_models::jamba;
use jambac_models::tiny::Tiny;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

type Tensor = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

/// How linears are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// compressed-tensors in symmetric groups of 32.
    Compressed,
    /// compressed-tensors with zero points, groups of 64, and act-order.
    CompressedZeros,
    /// GPTQ, symmetric, groups of 128.
    Gptq,
    /// GPTQ in 8 bits, with zero points and act-order, of the second version.
    GptqOrdered,
    /// AWQ, groups of 64.
    Awq,
    Mlx4,
    Mlx8,
    /// bitsandbytes' nf4 with scales of scales.
    Nf4,
    /// bitsandbytes' int8.
    Int8,
}

const WAYS: [Way; 9] = [
    Way::Compressed,
    Way::CompressedZeros,
    Way::Gptq,
    Way::GptqOrdered,
    Way::Awq,
    Way::Mlx4,
    Way::Mlx8,
    Way::Nf4,
    Way::Int8,
];

impl Way {
    fn config(self) -> (&'static str, Value) {
        let compressed = |weights: Value| {
            json!({
                "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
                "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            })
        };
        let value = match self {
            Way::Compressed => compressed(json!({
                "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": true, "dynamic": false,
            })),
            Way::CompressedZeros => compressed(json!({
                "num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": false, "actorder": "group",
            })),
            Way::Gptq => json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true}),
            Way::GptqOrdered => json!({
                "quant_method": "gptq", "bits": 8, "group_size": 64, "desc_act": true, "sym": false,
                "checkpoint_format": "gptq_v2", "pack_dtype": "int32",
            }),
            Way::Awq => {
                json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"})
            }
            Way::Mlx4 => json!({"group_size": 64, "bits": 4, "mode": "affine", "model.layers.0.router": {"bits": 8}}),
            Way::Mlx8 => json!({"group_size": 32, "bits": 8}),
            Way::Nf4 => json!({
                "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": true, "bnb_4bit_quant_storage": "uint8",
            }),
            Way::Int8 => json!({"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": 6.0}),
        };
        (if matches!(self, Way::Mlx4 | Way::Mlx8) { "quantization" } else { "quantization_config" }, value)
    }

    /// The format that a plan keeps the integers in, if any.
    fn kept(self) -> Option<&'static str> {
        match self {
            Way::Compressed | Way::Gptq => Some("int4"),
            _ => None,
        }
    }

    /// The tensors of a matrix, and its values.
    fn write(self, module: &str, values: &[f32], n: usize, k: usize, out: &mut Tensors) -> Vec<f64> {
        match self {
            Way::Compressed => compressed(module, &Grouped::new(values, n, k, 32, 4, true, false), out),
            Way::CompressedZeros => compressed(module, &Grouped::new(values, n, k, 64, 4, false, true), out),
            Way::Gptq => gptq(module, &Grouped::new(values, n, k, 128, 4, true, false), 1, out),
            Way::GptqOrdered => gptq(module, &Grouped::new(values, n, k, 64, 8, false, true), 0, out),
            Way::Awq => awq(module, &Grouped::new(values, n, k, 64, 4, false, false), out),
            Way::Mlx4 => mlx(module, values, n, k, (64, 4), out),
            Way::Mlx8 => mlx(module, values, n, k, (32, 8), out),
            Way::Nf4 => nf4(module, values, n, k, out),
            Way::Int8 => int8(module, values, n, k, out),
        }
    }
}

fn halves(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Integers of `bits` in words, the first in the lowest bits.
fn joined(integers: impl Iterator<Item = u32>, bits: u32) -> u32 {
    integers.enumerate().fold(0, |word, (at, q)| word | q << (at as u32 * bits))
}

/// A matrix of unsigned integers with a scale and a zero point for each row and group of columns.
struct Grouped {
    n: usize,
    k: usize,
    bits: u32,
    is_symmetric: bool,
    n_groups: usize,
    /// The group of each column.
    groups: Vec<usize>,
    /// `[n][k]`.
    q: Vec<u32>,
    /// `[n][groups]`.
    scales: Vec<f64>,
    zeros: Vec<u32>,
}

impl Grouped {
    fn new(
        values: &[f32],
        n: usize,
        k: usize,
        size: usize,
        bits: u32,
        is_symmetric: bool,
        is_ordered: bool,
    ) -> Grouped {
        let (n_groups, most) = (k.div_ceil(size), f64::from((1u32 << bits) - 1));
        // 13 is prime to every k here: the columns of a group lie apart.
        let groups: Vec<usize> = (0..k).map(|j| if is_ordered { j * 13 % k } else { j } / size).collect();
        let (mut scales, mut zeros, mut q) = (Vec::new(), Vec::new(), Vec::new());
        for row in values.chunks_exact(k) {
            let begin = scales.len();
            for group in 0..n_groups {
                let of_group = || row.iter().zip(&groups).filter(|(_, of)| **of == group).map(|(&x, _)| f64::from(x));
                let (low, high) = of_group().fold((0f64, 0f64), |(low, high), x| (low.min(x), high.max(x)));
                let middle = f64::from(1u32 << (bits - 1));
                let scale = if is_symmetric { high.max(-low) / (middle - 1.0) } else { (high - low) / most };
                let scale = f16::from_f64(scale.max(1e-4)).to_f64();
                scales.push(scale);
                // GPTQ's first version stores one less, which cannot be below 0.
                zeros.push(if is_symmetric { middle } else { (-low / scale).round().clamp(1.0, most) } as u32);
            }
            for (&x, &group) in row.iter().zip(&groups) {
                let (scale, zero) = (scales[begin + group], f64::from(zeros[begin + group]));
                q.push((f64::from(x) / scale + zero).round().clamp(0.0, most) as u32);
            }
        }
        Grouped { n, k, bits, is_symmetric, n_groups, groups, q, scales, zeros }
    }

    /// scale · (q − zero).
    fn values(&self) -> Vec<f64> {
        let value = |at: usize| {
            let of = at / self.k * self.n_groups + self.groups[at % self.k];
            self.scales[of] * (f64::from(self.q[at]) - f64::from(self.zeros[of]))
        };
        (0..self.n * self.k).map(value).collect()
    }

    fn per_word(&self) -> usize {
        32 / self.bits as usize
    }

    fn is_ordered(&self) -> bool {
        !self.groups.is_sorted()
    }

    fn list(&self) -> Tensor {
        (Dtype::I32, vec![self.k], words(&self.groups.iter().map(|&group| group as u32).collect::<Vec<_>>()))
    }

    /// `[groups][n]` of what is kept by row.
    fn by_group<T: Copy>(&self, by_row: &[T]) -> Vec<T> {
        (0..self.n_groups * self.n).map(|at| by_row[at % self.n * self.n_groups + at / self.n]).collect()
    }
}

fn compressed(module: &str, m: &Grouped, out: &mut Tensors) -> Vec<f64> {
    let (n, k, per_word) = (m.n, m.k, m.per_word());
    let packed: Vec<u32> =
        m.q.chunks(k).flat_map(|row| row.chunks(per_word).map(|q| joined(q.iter().copied(), m.bits))).collect();
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    put("weight_packed", (Dtype::I32, vec![n, k / per_word], words(&packed)));
    put("weight_scale", (Dtype::F16, vec![n, m.n_groups], halves(&m.scales)));
    let shape = [n as i64, k as i64].iter().flat_map(|size| size.to_le_bytes()).collect();
    put("weight_shape", (Dtype::I64, vec![2], shape));
    if !m.is_symmetric {
        let rows = n.div_ceil(per_word);
        let zero = |at: usize| {
            let (first, group) = (at / m.n_groups * per_word, at % m.n_groups);
            joined((first..n.min(first + per_word)).map(|row| m.zeros[row * m.n_groups + group]), m.bits)
        };
        let zeros: Vec<u32> = (0..rows * m.n_groups).map(zero).collect();
        put("weight_zero_point", (Dtype::I32, vec![rows, m.n_groups], words(&zeros)));
    }
    if m.is_ordered() {
        put("weight_g_idx", m.list());
    }
    m.values()
}

/// Words of rows of integers, `[rows][n]`, joined along n in an order.
fn along_n(rows: &[u32], n: usize, per_word: usize, bits: u32, order: &dyn Fn(usize) -> usize) -> Vec<u32> {
    let of_word =
        |chunk: &[u32]| joined((0..per_word).map(|place| chunk.get(order(place)).copied().unwrap_or(0)), bits);
    rows.chunks(n).flat_map(|row| row.chunks(per_word).map(of_word).collect::<Vec<_>>()).collect()
}

fn gptq(module: &str, m: &Grouped, less: u32, out: &mut Tensors) -> Vec<f64> {
    let (n, k, per_word) = (m.n, m.k, m.per_word());
    let word = |at: usize| joined((0..per_word).map(|place| m.q[at % n * k + at / n * per_word + place]), m.bits);
    let packed: Vec<u32> = (0..k / per_word * n).map(word).collect();
    let zeros: Vec<u32> = m.by_group(&m.zeros).iter().map(|zero| zero - less).collect();
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    put("qweight", (Dtype::I32, vec![k / per_word, n], words(&packed)));
    let zeros = along_n(&zeros, n, per_word, m.bits, &|place| place);
    put("qzeros", (Dtype::I32, vec![m.n_groups, n.div_ceil(per_word)], words(&zeros)));
    put("scales", (Dtype::F16, vec![m.n_groups, n], halves(&m.by_group(&m.scales))));
    put("g_idx", m.list());
    m.values()
}

fn awq(module: &str, m: &Grouped, out: &mut Tensors) -> Vec<f64> {
    let (n, k, per_word) = (m.n, m.k, m.per_word());
    // What is at each place of a word.
    let order = |place: usize| [0, 2, 4, 6, 1, 3, 5, 7][place];
    let columns: Vec<u32> = (0..k * n).map(|at| m.q[at % n * k + at / n]).collect();
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    let packed = along_n(&columns, n, per_word, m.bits, &order);
    put("qweight", (Dtype::I32, vec![k, n.div_ceil(per_word)], words(&packed)));
    let zeros = along_n(&m.by_group(&m.zeros), n, per_word, m.bits, &order);
    put("qzeros", (Dtype::I32, vec![m.n_groups, n.div_ceil(per_word)], words(&zeros)));
    put("scales", (Dtype::F16, vec![m.n_groups, n], halves(&m.by_group(&m.scales))));
    m.values()
}

/// scale · q + bias, in bf16.
fn mlx(module: &str, values: &[f32], n: usize, k: usize, (size, bits): (usize, u32), out: &mut Tensors) -> Vec<f64> {
    let (mut scales, mut biases, mut packed, mut held) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for group in values.chunks(size) {
        let (low, high) = group.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
        let scale = bf16::from_f32(((high - low) / ((1u32 << bits) - 1) as f32).max(1e-4));
        let bias = bf16::from_f32(low);
        let quantized = |&x: &f32| {
            let q = ((x - bias.to_f32()) / scale.to_f32()).round().clamp(0.0, ((1u32 << bits) - 1) as f32);
            q as u32
        };
        let q: Vec<u32> = group.iter().map(quantized).collect();
        held.extend(q.iter().map(|&q| scale.to_f64() * f64::from(q) + bias.to_f64()));
        packed.extend(q.chunks(32 / bits as usize).map(|q| joined(q.iter().copied(), bits)));
        scales.extend(scale.to_le_bytes());
        biases.extend(bias.to_le_bytes());
    }
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    put("weight", (Dtype::U32, vec![n, k * bits as usize / 32], words(&packed)));
    put("scales", (Dtype::BF16, vec![n, k / size], scales));
    put("biases", (Dtype::BF16, vec![n, k / size], biases));
    held
}

/// Codes of 16 values, blocks of 64 of all elements; scales are codes of 256 values in blocks of 256.
fn nf4(module: &str, values: &[f32], n: usize, k: usize, out: &mut Tensors) -> Vec<f64> {
    let table: Vec<f32> =
        (0..16).map(|code| (code as f32 - 7.5) / 7.5 * (0.6 + 0.4 * (code as f32 - 7.5).abs() / 7.5)).collect();
    let nested: Vec<f32> = (0..256).map(|code| (code as f32 - 127.0) / 128.0).collect();
    let largest: Vec<f32> =
        values.chunks(64).map(|block| block.iter().fold(0.0, |most: f32, x| most.max(x.abs()))).collect();
    let offset = largest.iter().sum::<f32>() / largest.len() as f32;
    let nearest = |values: &[f32], x: f32| {
        let distance = |&code: &usize| (values[code] - x).abs();
        (0..values.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
    };
    let (mut outer, mut inner, mut scales) = (Vec::new(), Vec::new(), Vec::new());
    for block in largest.chunks(256) {
        let most = block.iter().fold(1e-6, |most: f32, x| most.max((x - offset).abs()));
        outer.push(most);
        for x in block {
            let code = nearest(&nested, (x - offset) / most);
            inner.push(code as u8);
            scales.push(f64::from(nested[code]) * f64::from(most) + f64::from(offset));
        }
    }
    let codes: Vec<usize> = values
        .iter()
        .enumerate()
        .map(|(at, &x)| nearest(&table, (f64::from(x) / scales[at / 64].max(1e-9)) as f32))
        .collect();
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let bytes = codes.chunks(2).map(|pair| (pair[0] << 4 | pair.get(1).copied().unwrap_or(0)) as u8).collect();
    let state = json!({
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k], "nested_blocksize": 256,
        "nested_dtype": "float32", "nested_offset": f64::from(offset),
    });
    let state = state.to_string().into_bytes();
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    put("weight", (Dtype::U8, vec![(n * k).div_ceil(2), 1], bytes));
    put("weight.absmax", (Dtype::U8, vec![inner.len()], inner));
    put("weight.quant_map", (Dtype::F32, vec![16], floats(&table)));
    put("weight.nested_absmax", (Dtype::F32, vec![outer.len()], floats(&outer)));
    put("weight.nested_quant_map", (Dtype::F32, vec![256], floats(&nested)));
    put("weight.quant_state.bitsandbytes__nf4", (Dtype::U8, vec![state.len()], state));
    codes.iter().enumerate().map(|(at, &code)| f64::from(table[code]) * scales[at / 64]).collect()
}

fn int8(module: &str, values: &[f32], n: usize, k: usize, out: &mut Tensors) -> Vec<f64> {
    let largest: Vec<f32> =
        values.chunks(k).map(|row| row.iter().fold(1e-6, |most: f32, x| most.max(x.abs()))).collect();
    let q: Vec<i8> = values.iter().enumerate().map(|(at, x)| (x / largest[at / k] * 127.0).round() as i8).collect();
    let mut put = |ending: &str, tensor: Tensor| drop(out.insert(format!("{module}.{ending}"), tensor));
    put("weight", (Dtype::I8, vec![n, k], q.iter().map(|&q| q as u8).collect()));
    put("SCB", (Dtype::F32, vec![n], largest.iter().flat_map(|x| x.to_le_bytes()).collect()));
    put("weight_format", (Dtype::U8, vec![], vec![0]));
    q.iter().enumerate().map(|(at, &q)| f64::from(largest[at / k]) * f64::from(q) / 127.0).collect()
}

/// Whether a parameter is packed.
fn is_packed(name: &str) -> bool {
    name.ends_with("_proj.weight") && !name.contains("dt_proj")
}

/// Writes a checkpoint and returns its tensors and the values of its parameters.
fn write(way: Way, dir: &Path) -> (Tensors, BTreeMap<String, Vec<f64>>) {
    Tiny::in_blocks(128).write(dir, 5).unwrap();
    let (mut tensors, mut expected) = (Tensors::new(), BTreeMap::new());
    {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        for spec in jamba::table(checkpoint.config()) {
            let (shape, all) = (spec.tensor_shape().to_vec(), parameters.read_f32(&spec.name).unwrap());
            let size: usize = shape.iter().product();
            let held = expected.entry(spec.name.clone()).or_insert_with(Vec::new);
            for (name, values) in spec.tensor_names().iter().zip(all.chunks(size)) {
                match name.strip_suffix(".weight").filter(|_| is_packed(name)) {
                    Some(module) => held.extend(way.write(module, values, shape[0], shape[1], &mut tensors)),
                    None => {
                        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                        tensors.insert(name.clone(), (Dtype::F32, shape.clone(), bytes));
                        held.extend(values.iter().map(|&x| f64::from(x)));
                    }
                }
            }
        }
    }
    store(dir, &tensors);
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (key, value) = way.config();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    (tensors, expected)
}

fn store(dir: &Path, tensors: &Tensors) {
    let view = |(dtype, shape, bytes): &'_ Tensor| (*dtype, shape.clone(), bytes.clone());
    let owned: Vec<(String, Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))).collect();
    let views = owned
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

#[test]
fn packed_weights_have_the_values_of_their_formulas() {
    for way in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let (_, expected) = write(way, folder.path());
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        for (name, expected) in &expected {
            let found = parameters.read_f32(name).unwrap();
            let is_close =
                |(&found, &expected): (&f32, &f64)| (f64::from(found) - expected).abs() <= 1e-6 * expected.abs() + 1e-9;
            let different = found.iter().zip(expected).position(|pair| !is_close(pair));
            assert_eq!((different, found.len()), (None, expected.len()), "{way:?} {name}");
            let mut part = vec![0.0; 150];
            let tensor = &parameters.get(name).unwrap().tensors[0];
            if tensor.n_elements() >= 227 {
                tensor.range_f32(77, &mut part);
                assert_eq!(part, found[77..227], "{way:?} {name}: a range that begins and ends inside of rows");
            }
        }
    }
}

#[test]
fn plans_keep_packed_integers_where_they_can() {
    for way in WAYS {
        let folder = tempfile::tempdir().unwrap();
        write(way, folder.path());
        let mut model = ModelFile::open(folder.path()).unwrap();
        model.build.targets = targets(&["x86-64-v3"]).unwrap();
        model.limits.max_context = 64;
        let output = folder.path().join("stored.plan");
        let request = Request { measure: Measure::Loss, ..Request::new(model, output) };
        let built = build(&request, &Progress::hidden()).unwrap();

        let packed: Vec<_> =
            built.losses.iter().map(|(_, loss)| loss).filter(|loss| is_packed(&loss.parameter)).collect();
        match (way, way.kept()) {
            (Way::Int8, _) => assert!(packed.is_empty(), "integers and scales are those of the plan: {packed:?}"),
            (_, Some(format)) => assert!(
                packed.iter().all(|loss| loss.format.name() == format && loss.relative_rms < 1.0 / 256.0),
                "{way:?} {packed:?}"
            ),
            _ => assert!(packed.iter().all(|loss| loss.format == WeightFormat::Int8 && loss.relative_rms < 0.02)),
        }
    }
}

#[test]
fn packed_weights_that_are_damaged_are_refused_by_name() {
    const UP: &str = "model.layers.1.feed_forward.experts.2.up_proj";
    let refused = |way: Way, change: &dyn Fn(&mut Tensors), says: &str| {
        let folder = tempfile::tempdir().unwrap();
        let (mut tensors, _) = write(way, folder.path());
        change(&mut tensors);
        store(folder.path(), &tensors);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let error = jamba::bind(&checkpoint).expect_err(says).to_string();
        assert!(error.contains(says) && error.contains(UP), "{way:?}: {error}");
    };
    let drops = |ending: &'static str| move |tensors: &mut Tensors| drop(tensors.remove(&format!("{UP}.{ending}")));
    let shapes = |ending: &'static str, shape: Vec<usize>| {
        move |tensors: &mut Tensors| {
            let (dtype, found, bytes) = tensors.get_mut(&format!("{UP}.{ending}")).unwrap();
            let size = bytes.len() / found.iter().product::<usize>();
            bytes.resize(shape.iter().product::<usize>() * size, 0);
            (*found, *dtype) = (shape.clone(), *dtype);
        }
    };
    let sets = |ending: &'static str, at: usize, new: Vec<u8>| {
        move |tensors: &mut Tensors| {
            tensors.get_mut(&format!("{UP}.{ending}")).unwrap().2[at..at + new.len()].copy_from_slice(&new);
        }
    };
    refused(Way::Compressed, &drops("weight_scale"), "weight_scale: found nothing");
    refused(Way::Compressed, &shapes("weight_packed", vec![256, 17]), "found shape [256, 17], expected [256, 16]");
    refused(Way::Compressed, &shapes("weight_scale", vec![255, 4]), "weight_scale: found shape [255, 4]");
    refused(Way::Compressed, &sets("weight_scale", 0, vec![0, 0x7c]), "weight_scale: found inf as number 0");
    refused(Way::Compressed, &sets("weight_shape", 0, vec![9]), "weight_shape: found [265, 128], expected [256, 128]");
    refused(Way::CompressedZeros, &shapes("weight_zero_point", vec![31, 2]), "found shape [31, 2], expected [32, 2]");
    refused(
        Way::CompressedZeros,
        &sets("weight_g_idx", 8, vec![2]),
        "found group 2 of column 2, expected groups below 2",
    );
    refused(Way::Gptq, &drops("qzeros"), "qzeros: found nothing");
    refused(Way::Gptq, &shapes("qweight", vec![17, 256]), "found shape [17, 256], expected [16, 256]");
    refused(Way::GptqOrdered, &sets("g_idx", 3, vec![0x80]), "found group -");
    refused(Way::Awq, &drops("scales"), "scales: found nothing");
    refused(Way::Awq, &shapes("qzeros", vec![2, 33]), "found shape [2, 33], expected [2, 32]");
    refused(Way::Mlx4, &drops("biases"), "biases: found nothing");
    refused(Way::Mlx4, &shapes("biases", vec![256, 1]), "2 groups of scales and 1 of biases");
    refused(Way::Mlx8, &shapes("weight", vec![256, 31]), "found shape [256, 31], expected [256, 16]");
    refused(Way::Nf4, &drops("weight.quant_state.bitsandbytes__nf4"), "quant_state.bitsandbytes__nf4: found nothing");
    refused(Way::Nf4, &drops("weight.nested_absmax"), "nested_absmax: found nothing");
    refused(Way::Nf4, &sets("weight.quant_state.bitsandbytes__nf4", 0, vec![b'x']), "JSON error");
    refused(Way::Nf4, &shapes("weight", vec![16000, 1]), "found shape [16000, 1], expected [16384, 1]");
    refused(Way::Int8, &drops("SCB"), "SCB: found nothing");
    refused(Way::Int8, &sets("SCB", 0, vec![0, 0, 0xc0, 0x7f]), "SCB: found NaN as number 0");
}

#[test]
fn experts_that_mlx_stacks_are_read_with_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    let (mut tensors, expected) = write(Way::Mlx4, folder.path());
    for part in ["gate_proj", "up_proj", "down_proj"] {
        for ending in ["weight", "scales", "biases"] {
            let of = |expert: usize| format!("model.layers.1.feed_forward.experts.{expert}.{part}.{ending}");
            let experts: Vec<Tensor> = (0..3).map(|expert| tensors.remove(&of(expert)).unwrap()).collect();
            let (dtype, shape) = (experts[0].0, [vec![3], experts[0].1.clone()].concat());
            let bytes = experts.into_iter().flat_map(|(_, _, bytes)| bytes).collect();
            tensors.insert(format!("model.layers.1.feed_forward.switch_mlp.{part}.{ending}"), (dtype, shape, bytes));
        }
    }
    store(folder.path(), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let parameters = jamba::bind(&checkpoint).unwrap();
    let name = "model.layers.1.feed_forward.experts.*.up_proj.weight";
    let found = parameters.read_f32(name).unwrap();
    assert!(found.iter().zip(&expected[name]).all(|(&found, &value)| found == value as f32));
}
