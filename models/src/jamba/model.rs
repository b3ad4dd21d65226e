//! The model layer by layer, op by op as Hugging Face's `JambaForCausalLM` computes it, before any fusion.
//!
//! ```text
//! x = embed(ids)
//! each layer:   x = x + mixer(rms_norm(x))              attention or Mamba
//!               x = x + feed_forward(rms_norm(x))       MLP or mixture of experts
//! logits = rms_norm(x)[rows] · lm_headᵀ
//! ```
//!
//! A classification has `score` and perhaps a bias in place of `lm_head`; a model without a head gives `rms_norm(x)[rows]`. Their results
//! are named `logits` too, f32\[outputs, labels\] and f32\[outputs, d_model\].
//!
//! Inputs are `ids` i32\[tokens\] and `rows` i32\[outputs\]; outputs are `logits` f32\[outputs, vocab\] and the next states:
//! `layers.N.conv` f32\[sequences, d_inner, d_conv − 1\] and `layers.N.ssm` f32\[sequences, d_inner, d_state\] of a Mamba layer,
//! `layers.N.kv` \[sequences, context, 2, n_kv_heads, d_head\] of an attention layer.

use std::collections::BTreeMap;

use jambac_graph::build::Builder;
use jambac_graph::{DType, Dim, Graph, Symbol, Type, ValueId};

use crate::jamba::config::{Head, JambaConfig};
use crate::jamba::parameters::{EMBEDDING, LM_HEAD, SCORE, SCORE_BIAS, table};
use crate::jamba::{attention, mamba, mlp, moe};

/// Options of a graph besides its config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Element type of the KV cache: F32 or Bf16; keys and values are rounded to it when appended.
    pub kv_dtype: DType,
}

impl Default for Options {
    fn default() -> Options {
        Options { kv_dtype: DType::F32 }
    }
}

/// The graph of a step over any number of tokens of each sequence. `dtypes` maps the canonical name of a parameter to its element type:
/// [`Parameters::dtype`](crate::jamba::Parameters::dtype) of a checkpoint, or any without one.
pub fn prefill(config: &JambaConfig, dtypes: &dyn Fn(&str) -> DType, options: &Options) -> Graph {
    model(Builder::new("prefill"), config, dtypes, options)
}

/// The same graph as [`prefill`], for steps of one token of each sequence.
pub fn decode(config: &JambaConfig, dtypes: &dyn Fn(&str) -> DType, options: &Options) -> Graph {
    let mut b = Builder::new("decode");
    b.one_token();
    model(b, config, dtypes, options)
}

fn model(b: Builder, config: &JambaConfig, dtypes: &dyn Fn(&str) -> DType, options: &Options) -> Graph {
    let shapes = table(config).into_iter().map(|spec| (spec.name, spec.shape)).collect();
    let mut m = Model { b, config, shapes, dtypes, options: *options, place: String::new() };

    let ids = m.b.input("ids", Type::new(DType::I32, [Symbol::Tokens]));
    let rows = m.b.input("rows", Type::new(DType::I32, [Symbol::Outputs]));

    m.b.scope("embed_tokens");
    let embedding = m.parameter(EMBEDDING);
    let mut x = m.b.embed(ids, embedding);

    for layer in 0..config.n_layers {
        m.enter(layer, "input_layernorm");
        let normed = m.norm(x, "input_layernorm");
        let mixed = if config.is_attention(layer) {
            m.enter(layer, "self_attn");
            attention::mixer(&mut m, layer, normed)
        } else {
            m.enter(layer, "mamba");
            mamba::mixer(&mut m, layer, normed)
        };
        x = m.residual(layer, x, mixed);

        m.enter(layer, "pre_ff_layernorm");
        let normed = m.norm(x, "pre_ff_layernorm");
        m.enter(layer, "feed_forward");
        let fed =
            if config.is_moe(layer) { moe::feed_forward(&mut m, normed) } else { mlp::feed_forward(&mut m, normed) };
        x = m.residual(layer, x, fed);
    }

    m.place = "model".into();
    m.b.scope("final_layernorm");
    let x = m.norm(x, "final_layernorm");

    m.b.scope(if matches!(config.head, Head::Scores { .. }) { "score" } else { "lm_head" });
    let x = m.b.select_rows(x, rows);
    let logits = match &config.head {
        Head::Logits => {
            let head = if config.tied { embedding } else { m.parameter(LM_HEAD) };
            m.b.linear(x, head, None)
        }
        Head::Scores { bias, .. } => {
            let (score, bias) = (m.parameter(SCORE), bias.then(|| m.parameter(SCORE_BIAS)));
            m.b.linear(x, score, bias)
        }
        Head::Hidden => x,
    };
    m.b.output("logits", logits);
    m.b.finish()
}

/// A model being built: the graph builder, and the position in the table of names.
pub(super) struct Model<'a> {
    pub(super) b: Builder,
    pub(super) config: &'a JambaConfig,
    shapes: BTreeMap<String, Vec<usize>>,
    dtypes: &'a dyn Fn(&str) -> DType,
    options: Options,
    /// Prefix of parameter names: `model.layers.3`.
    place: String,
}

impl Model<'_> {
    /// Sets the source of later nodes, a part of a layer.
    fn enter(&mut self, layer: usize, part: &str) {
        self.place = format!("model.layers.{layer}");
        self.b.scope(format!("layers.{layer}.{part}"));
    }

    /// x + y, the residual stream.
    fn residual(&mut self, layer: usize, x: ValueId, y: ValueId) -> ValueId {
        self.b.scope(format!("layers.{layer}"));
        self.b.add_values(x, y)
    }

    /// A parameter by its full canonical name; its shape is the table's.
    fn parameter(&mut self, name: &str) -> ValueId {
        let dtype = (self.dtypes)(name);
        self.b.parameter(name, dtype, &self.shapes[name])
    }

    /// A parameter of this layer.
    pub(super) fn weight(&mut self, name: &str) -> ValueId {
        self.parameter(&format!("{}.{name}", self.place))
    }

    /// RMS norm by `{norm}.weight` of this layer.
    pub(super) fn norm(&mut self, x: ValueId, norm: &str) -> ValueId {
        let weight = self.weight(&format!("{norm}.weight"));
        self.b.rms_norm(x, weight, self.config.rms_norm_eps)
    }

    /// x · weightᵀ by `{projection}.weight` of this layer.
    pub(super) fn linear(&mut self, x: ValueId, projection: &str) -> ValueId {
        let weight = self.weight(&format!("{projection}.weight"));
        self.b.linear(x, weight, None)
    }

    /// x · weightᵀ + bias by `{projection}.weight` and `{projection}.bias` of this layer.
    pub(super) fn linear_with_bias(&mut self, x: ValueId, projection: &str) -> ValueId {
        let weight = self.weight(&format!("{projection}.weight"));
        let bias = self.weight(&format!("{projection}.bias"));
        self.b.linear(x, weight, Some(bias))
    }

    /// A state of a Mamba layer, f32 for every checkpoint.
    pub(super) fn recurrent_state(&mut self, layer: usize, name: &str, dims: [usize; 2]) -> ValueId {
        self.b.state(&state_name(layer, name), DType::F32, &dims.map(Dim::Fixed))
    }

    /// The KV cache of an attention layer.
    pub(super) fn kv_cache(&mut self, layer: usize) -> ValueId {
        let dims = [Dim::Symbol(Symbol::Context), 2.into(), self.config.n_kv_heads.into(), self.config.d_head.into()];
        self.b.state(&state_name(layer, "kv"), self.options.kv_dtype, &dims)
    }

    /// The next value of a state.
    pub(super) fn next_state(&mut self, layer: usize, name: &str, value: ValueId) {
        self.b.output(&state_name(layer, name), value);
    }
}

fn state_name(layer: usize, name: &str) -> String {
    format!("layers.{layer}.{name}")
}

#[cfg(test)]
mod tests;
