//! The table of Hugging Face names, and a checkpoint bound to it.
//!
//! A parameter of the graph has its canonical Hugging Face name. The experts of a layer are one parameter with `*` for the
//! expert, stacked in dimension 0. Names of the first uploads (remote code, before transformers 4.40) are read too:
//!
//! ```text
//! layers.N.moe.…                           feed_forward.…
//! layers.N.pre_moe_layernorm               pre_ff_layernorm
//! layers.N.…experts.0.… in dense layers    without experts.0
//! module.…, _orig_mod.…, base_model.model.…    without the prefix: wrappers of training frameworks
//! ```

use std::collections::BTreeMap;

use jambac_checkpoint::{Adapter, Checkpoint, Head, JambaConfig, Method, TensorView};
use jambac_graph::DType;

use super::lora;
use super::packed;
use super::stored::{StoredTensor, Tensors, is_linear};
use crate::ModelError;

/// The embedding; also the output projection of a tied model.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection of a model that is not tied.
pub(super) const LM_HEAD: &str = "lm_head.weight";

/// The projection to the scores of labels.
pub(super) const SCORE: &str = "score.weight";

/// The bias of the scores, which a checkpoint may have.
pub const SCORE_BIAS: &str = "score.bias";

/// A parameter that the config requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Canonical name, with `*` for the expert.
    pub name: String,
    /// Dimensions, outermost first; the experts are dimension 0 of a stacked parameter.
    pub shape: Vec<usize>,
}

impl ParameterSpec {
    /// True if the experts of a layer are stacked: the name has a `*`, and dimension 0 is the expert.
    pub fn is_stacked(&self) -> bool {
        self.name.contains('*')
    }

    /// Number of elements, all experts together.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Canonical names of the checkpoint's tensors that make the parameter, in order: one, or one per expert.
    pub fn tensor_names(&self) -> Vec<String> {
        if !self.is_stacked() {
            return vec![self.name.clone()];
        }
        (0..self.shape[0]).map(|expert| self.name.replace('*', &expert.to_string())).collect()
    }

    /// Shape of each of those tensors.
    pub fn tensor_shape(&self) -> &[usize] {
        if self.is_stacked() { &self.shape[1..] } else { &self.shape }
    }
}

/// Every parameter that a config requires, in the order of the forward pass.
pub fn table(config: &JambaConfig) -> Vec<ParameterSpec> {
    let &JambaConfig { d_model, d_ff, d_inner, d_state, d_conv, dt_rank, n_experts, vocab, .. } = config;
    let (q_width, kv_width) = (config.n_heads * config.d_head, config.n_kv_heads * config.d_head);
    let mut table = Table::default();
    table.add(EMBEDDING, &[vocab, d_model]);
    for layer in 0..config.n_layers {
        table.prefix = format!("model.layers.{layer}.");
        table.add("input_layernorm.weight", &[d_model]);
        if config.is_attention(layer) {
            table.add("self_attn.q_proj.weight", &[q_width, d_model]);
            table.add("self_attn.k_proj.weight", &[kv_width, d_model]);
            table.add("self_attn.v_proj.weight", &[kv_width, d_model]);
            table.add("self_attn.o_proj.weight", &[d_model, q_width]);
        } else {
            table.add("mamba.in_proj.weight", &[2 * d_inner, d_model]);
            table.add_if(config.proj_bias, "mamba.in_proj.bias", &[2 * d_inner]);
            table.add("mamba.conv1d.weight", &[d_inner, 1, d_conv]);
            table.add_if(config.conv_bias, "mamba.conv1d.bias", &[d_inner]);
            table.add("mamba.x_proj.weight", &[dt_rank + 2 * d_state, d_inner]);
            table.add("mamba.dt_layernorm.weight", &[dt_rank]);
            table.add("mamba.b_layernorm.weight", &[d_state]);
            table.add("mamba.c_layernorm.weight", &[d_state]);
            table.add("mamba.dt_proj.weight", &[d_inner, dt_rank]);
            table.add("mamba.dt_proj.bias", &[d_inner]);
            table.add("mamba.A_log", &[d_inner, d_state]);
            table.add("mamba.D", &[d_inner]);
            table.add("mamba.out_proj.weight", &[d_model, d_inner]);
            table.add_if(config.proj_bias, "mamba.out_proj.bias", &[d_model]);
        }
        table.add("pre_ff_layernorm.weight", &[d_model]);
        if config.is_moe(layer) {
            table.add("feed_forward.router.weight", &[n_experts, d_model]);
            table.add("feed_forward.experts.*.gate_proj.weight", &[n_experts, d_ff, d_model]);
            table.add("feed_forward.experts.*.up_proj.weight", &[n_experts, d_ff, d_model]);
            table.add("feed_forward.experts.*.down_proj.weight", &[n_experts, d_model, d_ff]);
        } else {
            table.add("feed_forward.gate_proj.weight", &[d_ff, d_model]);
            table.add("feed_forward.up_proj.weight", &[d_ff, d_model]);
            table.add("feed_forward.down_proj.weight", &[d_model, d_ff]);
        }
    }
    table.prefix.clear();
    table.add("model.final_layernorm.weight", &[d_model]);
    match &config.head {
        Head::Logits => table.add_if(!config.tied, LM_HEAD, &[vocab, d_model]),
        Head::Scores { labels, bias, .. } => {
            table.add(SCORE, &[labels.len(), d_model]);
            table.add_if(*bias, SCORE_BIAS, &[labels.len()]);
        }
        Head::Hidden => {}
    }
    table.specs
}

#[derive(Default)]
struct Table {
    prefix: String,
    specs: Vec<ParameterSpec>,
}

impl Table {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.specs.push(ParameterSpec { name: format!("{}{name}", self.prefix), shape: shape.to_vec() });
    }

    fn add_if(&mut self, present: bool, name: &str, shape: &[usize]) {
        if present {
            self.add(name, shape);
        }
    }
}

/// Endings of the scales of keys and values, of vLLM and of compressed-tensors.
const CACHE_SCALES: [&str; 7] = [
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".k_proj.output_scale",
    ".v_proj.output_scale",
    ".k_zero_point",
    ".v_zero_point",
];

/// Prefixes of names that training frameworks add, outermost first: PyTorch's data parallelism, torch.compile, PEFT.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "base_model.model."];

/// The canonical form of a name that a checkpoint may use.
pub(super) fn canonical(config: &JambaConfig, name: &str) -> String {
    let name = WRAPPERS.iter().fold(name, |name, wrapper| name.strip_prefix(wrapper).unwrap_or(name));
    // A model without a head, as transformers saves it, has no prefix.
    let is_inner = ["layers.", "embed_tokens.", "final_layernorm."].iter().any(|inner| name.starts_with(inner));
    let name = if is_inner { format!("model.{name}") } else { name.to_owned() };
    let Some((layer, rest)) = name.strip_prefix("model.layers.").and_then(|name| name.split_once('.')) else {
        return name;
    };
    let rest = match rest.strip_prefix("moe.") {
        Some(rest) => format!("feed_forward.{rest}"),
        None => rest.replacen("pre_moe_layernorm.", "pre_ff_layernorm.", 1),
    };
    let is_dense = layer.parse().is_ok_and(|layer: usize| layer < config.n_layers && !config.is_moe(layer));
    match rest.strip_prefix("feed_forward.experts.0.") {
        Some(rest) if is_dense => format!("model.layers.{layer}.feed_forward.{rest}"),
        _ => format!("model.layers.{layer}.{rest}"),
    }
}

/// A parameter of the graph with its tensors in the checkpoint.
#[derive(Clone, Debug)]
pub struct Parameter<'c> {
    /// Dimensions, outermost first; the experts are dimension 0 of a stacked parameter.
    pub shape: Vec<usize>,
    /// Default element type in a plan.
    ///
    /// | tensors | type |
    /// |---|---|
    /// | F32, BF16, F16, I8 with a scale per row | theirs; F32 if the experts of a layer differ |
    /// | experts under `experts_int8` | I8 |
    /// | E4M3 numbers whose scales a plan can hold | F8 |
    /// | other 8-bit floats | BF16, which rounds their scaled values to 2⁻⁹ |
    /// | packed integers and GGUF's Q4_0 that int4 holds | I4 |
    /// | other packed integers and blocks | I8 |
    /// | packed or in blocks: the embedding, in which tokens are looked up | BF16 |
    pub dtype: DType,
    /// Its tensors in order: one, or one per expert.
    pub tensors: Vec<StoredTensor<'c>>,
}

impl Parameter<'_> {
    /// All elements, experts one after another, widened to f32.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.tensors.as_slice() {
            [tensor] => tensor.to_f32_vec(),
            tensors => tensors.iter().flat_map(StoredTensor::to_f32_vec).collect(),
        }
    }
}

/// A checkpoint whose tensors are exactly those of its config, by canonical name.
#[derive(Debug)]
pub struct Parameters<'c> {
    checkpoint: &'c Checkpoint,
    bound: BTreeMap<String, Parameter<'c>>,
}

/// As [`bind`], with LoRA adapters merged in order, each with a factor.
///
/// # Errors
/// As [`bind`]; an adapter that does not fit the model.
pub fn bind_adapted<'c>(
    checkpoint: &'c Checkpoint,
    adapters: &'c [(Adapter, f32)],
) -> Result<Parameters<'c>, ModelError> {
    let mut parameters = bind(checkpoint)?;
    lora::merge(&mut parameters.bound, checkpoint.config(), adapters)?;
    Ok(parameters)
}

/// Accounts for every tensor of a checkpoint.
///
/// A tied model may come with an `lm_head.weight` (transformers ignores it) when its values are those of the embedding.
///
/// # Errors
/// A tensor that is missing, extra, misshapen or duplicate; elements of 8 bits that config.json does not announce
/// or whose scales are not as it says; a tied model's other output projection.
pub fn bind(checkpoint: &Checkpoint) -> Result<Parameters<'_>, ModelError> {
    let config = checkpoint.config();
    let mut tensors = Tensors::new();
    for info in checkpoint.tensors() {
        if let Some(first) = tensors.insert(canonical(config, &info.name), checkpoint.view(info)) {
            let path = checkpoint.shard_path(info).into();
            return Err(ModelError::Twice { path, tensor: info.name.clone(), other: first.info.name.clone() });
        }
    }
    let mut bound = BTreeMap::new();
    for spec in table(config) {
        let mut views = Vec::new();
        for name in spec.tensor_names() {
            let expected = spec.tensor_shape().to_vec();
            if let Some(stored) = packed::bind(checkpoint, &name, &expected, &mut tensors)? {
                views.push(stored);
                continue;
            }
            let Some(view) = tensors.remove(&name) else {
                let path = checkpoint.index_path().into();
                return Err(match checkpoint.ignore().has_tensor(&name) {
                    true => ModelError::Ignored { path, tensor: name },
                    false => ModelError::Missing { path, tensor: name, expected },
                });
            };
            if view.info.shape != expected {
                let (path, tensor) = (checkpoint.shard_path(view.info).into(), view.info.name.clone());
                return Err(ModelError::Shape { path, tensor, found: view.info.shape.clone(), expected });
            }
            views.push(StoredTensor::bind(checkpoint, view, &name, &mut tensors)?);
        }
        let dtype = match &config.quantization {
            Some(quantization) if quantization.method == Method::ExpertsInt8 && spec.is_stacked() => DType::I8,
            _ => common_dtype(&spec.name, &views),
        };
        bound.insert(spec.name, Parameter { shape: spec.shape, dtype, tensors: views });
    }
    if config.quantization.as_ref().is_some_and(|quantization| quantization.records_cache) {
        let of_cache =
            |name: &str| name.contains(".self_attn.") && CACHE_SCALES.iter().any(|ending| name.ends_with(ending));
        tensors.retain(|name, _| !of_cache(name));
    }
    if config.head == Head::Hidden {
        tensors.retain(|name, _| ![LM_HEAD, SCORE, SCORE_BIAS].contains(&name.as_str()));
    }
    if config.tied
        && let Some(head) = tensors.remove(LM_HEAD)
    {
        check_tied(checkpoint, head, bound[EMBEDDING].tensors[0].elements)?;
    }
    if let Some(view) = tensors.into_values().next() {
        let (path, tensor) = (checkpoint.shard_path(view.info).into(), view.info.name.clone());
        return Err(ModelError::Extra { path, tensor, found: view.info.shape.clone() });
    }
    Ok(Parameters { checkpoint, bound })
}

/// Checks that the output projection of a tied model is the embedding: the same values, whatever their types.
fn check_tied(checkpoint: &Checkpoint, head: TensorView, embedding: TensorView) -> Result<(), ModelError> {
    if head.info.shape == embedding.info.shape && has_same_values(head, embedding) {
        return Ok(());
    }
    Err(ModelError::Untied {
        path: checkpoint.shard_path(head.info).into(),
        tensor: head.info.name.clone(),
        embedding: embedding.info.name.clone(),
    })
}

/// True if two tensors of the same shape hold the same values. Reads them in blocks.
fn has_same_values(a: TensorView, b: TensorView) -> bool {
    const BLOCK: usize = 1 << 16;
    if a.info.dtype == b.info.dtype || a.info.dtype.is_words() || b.info.dtype.is_words() {
        return a.bytes == b.bytes;
    }
    let n_elements = a.info.n_elements();
    let (mut left, mut right) = (vec![0.0; BLOCK], vec![0.0; BLOCK]);
    (0..n_elements).step_by(BLOCK).all(|start| {
        let n = BLOCK.min(n_elements - start);
        a.range_f32(start, &mut left[..n]);
        b.range_f32(start, &mut right[..n]);
        left[..n] == right[..n]
    })
}

/// The element type that holds the values of every tensor of a parameter; exact, except for 8-bit floats with scales above 4 and for
/// blocks.
fn common_dtype(name: &str, tensors: &[StoredTensor]) -> DType {
    let is_linear = is_linear(name);
    let mut dtypes = tensors.iter().map(|tensor| match tensor.elements.info.dtype {
        _ if tensor.is_packed() && name == EMBEDDING => DType::Bf16,
        _ if tensor.holds_int4() => DType::I4,
        _ if tensor.is_packed() => DType::I8,
        jambac_checkpoint::DType::F32 => DType::F32,
        jambac_checkpoint::DType::Bf16 => DType::Bf16,
        jambac_checkpoint::DType::F16 => DType::F16,
        jambac_checkpoint::DType::I8 => DType::I8,
        jambac_checkpoint::DType::F8E4M3 if tensor.holds_fp8() => DType::F8,
        jambac_checkpoint::DType::F8E4M3 | jambac_checkpoint::DType::F8E5M2 => DType::Bf16,
        _ if name == EMBEDDING => DType::Bf16,
        _ if !is_linear => DType::F32,
        jambac_checkpoint::DType::Q4_0 => DType::I4,
        _ => DType::I8,
    });
    let first = dtypes.next().unwrap_or(DType::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { DType::F32 }
}

impl<'c> Parameters<'c> {
    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &'c JambaConfig {
        self.checkpoint.config()
    }

    /// Every parameter with its canonical name, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Parameter<'c>)> {
        self.bound.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// A parameter by its canonical name.
    pub fn get(&self, name: &str) -> Option<&Parameter<'c>> {
        self.bound.get(name)
    }

    /// Element type of a parameter, for [`prefill`](crate::jamba::prefill); F32 for an unknown name.
    pub fn dtype(&self, name: &str) -> DType {
        self.get(name).map_or(DType::F32, |parameter| parameter.dtype)
    }

    /// The same for targets whose fp8 weights have one scale for each row: fp8 with more scales is bf16 there.
    pub fn dtype_in_rows(&self, name: &str) -> DType {
        let is_in_rows = |parameter: &&Parameter<'_>| parameter.tensors.iter().all(StoredTensor::has_one_scale_per_row);
        match self.dtype(name) {
            DType::F8 if self.get(name).filter(is_in_rows).is_none() => DType::Bf16,
            dtype => dtype,
        }
    }

    /// All elements of a parameter widened to f32, experts one after another.
    ///
    /// # Errors
    /// An unknown name.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let unknown = || ModelError::UnknownParameter { name: name.into() };
        Ok(self.get(name).ok_or_else(unknown)?.to_f32_vec())
    }
}

#[cfg(test)]
mod tests;
