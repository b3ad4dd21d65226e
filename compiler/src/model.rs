//! The model on a command line: a model.toml or a checkpoint's folder, and options that replace keys of model.toml.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use jamba_plan::format::WeightFormat;
use jambac_checkpoint::Links;
use jambac_graph::DType;
use jambac_kernels::target::{CpuTarget, Target};

use crate::manifest::{self, ByPattern, FormatChoice, FusionChoice, ModelFile};

/// The type of the inputs that bf16 weights are multiplied with on x86-64.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compute {
    F32,
    Bf16,
}

/// The model and its options.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// A model.toml, a checkpoint's folder, a GGUF file, or an id such as ai21labs/AI21-Jamba-Reasoning-3B whose files are in the
    /// Hugging Face cache.
    path: PathBuf,
    /// A target: x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16, x86-64-v4-amx, x86-64-v4-amx-bf16, aarch64
    /// (Armv8.2 with dot products), aarch64-i8mm (with int8 matrix instructions), native, or sm_90a for H100 and H200. May be
    /// repeated. Default: x86-64 levels from v3 to v4-amx, from which the runtime chooses.
    #[arg(long = "target", value_name = "T", value_parser = target)]
    targets: Vec<String>,
    /// What products of bf16 weights multiply on x86-64: f32 inputs, or inputs rounded to bf16 where the CPU has instructions for it
    /// (AVX512-BF16, AMX-BF16), which reads prompts faster. Sums are f32. bf16 adds the targets x86-64-v4-bf16 and
    /// x86-64-v4-amx-bf16.
    #[arg(long, value_name = "f32|bf16", value_enum, hide_possible_values = true)]
    compute: Option<Compute>,
    /// The fusions to run: all, none, or names of passes separated by commas; -NAME after all leaves one out.
    #[arg(long, value_name = "all|none|LIST", value_parser = fusion)]
    fusion: Option<FusionChoice>,
    /// Weight format of all linear layers: f32, bf16, fp8, int8, int4 or int3. Default: as the checkpoint stores them. Routers and
    /// the embedding table never become integers. auto chooses a format for each parameter, so that the plan fits --memory with the
    /// least predicted loss.
    #[arg(long, value_name = "FORMAT|auto", value_parser = |name: &str| name.parse::<FormatChoice>())]
    weights: Option<FormatChoice>,
    /// Weight format of the experts alone.
    #[arg(long, value_name = "FORMAT", value_parser = |name: &str| manifest::weight_format("weights.experts", name))]
    experts: Option<WeightFormat>,
    /// Weight format of the parameters whose names match a pattern, such as lm_head=int8 or '*.mamba.out_proj=int8'. May be
    /// repeated. With int4 and int3, the output projection (lm_head) is int8 unless a pattern names it.
    #[arg(long = "format", value_name = "PATTERN=FORMAT", value_parser = |text: &str| text.parse::<ByPattern>())]
    formats: Vec<ByPattern>,
    /// Merge a LoRA adapter, as PEFT saves it, into the weights before they are packed, times SCALE (1). May be repeated: they are
    /// merged in order.
    #[arg(long = "lora", value_name = "DIR[:SCALE]", value_parser = adapter)]
    lora: Vec<(PathBuf, f32)>,
    /// Read what symbolic links in the folders of the checkpoint and of adapters lead to, and what their model.toml names, wherever
    /// it is. Default: links that lead out of such a folder are refused, except those of the Hugging Face cache to its own files.
    /// What is read can become part of the plan.
    #[arg(long)]
    allow_links: bool,
    /// Leave out the head: the plan gives the hidden states after the last norm, for `jamba embed`.
    #[arg(long)]
    embeddings: bool,
    /// Stored type of keys and values: f32 or bf16.
    #[arg(long, value_name = "f32|bf16", value_parser = manifest::kv_dtype)]
    kv: Option<DType>,
    /// Tokens of one sequence.
    #[arg(long, value_name = "N")]
    max_context: Option<u64>,
    /// Concurrent sequences.
    #[arg(long, value_name = "N")]
    max_sequences: Option<u64>,
    /// Tokens of KV cache, all sequences together.
    #[arg(long, value_name = "N")]
    kv_tokens: Option<u64>,
    /// Tokens of one prefill step.
    #[arg(long, value_name = "N")]
    prefill_chunk: Option<u64>,
    /// Rows of logits that one prefill step can return.
    #[arg(long, value_name = "N")]
    max_outputs: Option<u64>,
}

impl ModelArgs {
    /// The model file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if an option sets a limit or a format, on which the memory of a plan depends.
    pub fn sets_memory(&self) -> bool {
        let limits = [self.max_context, self.max_sequences, self.kv_tokens, self.prefill_chunk, self.max_outputs];
        let has_format =
            self.weights.is_some() || self.experts.is_some() || !self.formats.is_empty() || self.kv.is_some();
        has_format || limits.iter().any(Option::is_some)
    }

    /// Reads the model file, replaces its keys by the options, and checks the result.
    ///
    /// # Errors
    /// The message names the key of model.toml, also if the value comes from an option.
    pub fn open(self) -> Result<ModelFile> {
        let links = if self.allow_links { Links::Anywhere } else { Links::Inside };
        let mut model = ModelFile::open_with(&self.path, links)?;
        if !self.targets.is_empty() {
            model.build.targets = manifest::targets(&self.targets)?;
        }
        if self.compute == Some(Compute::Bf16) {
            model.build.targets = with_bf16(&model.build.targets)?;
        }
        if let Some(fusion) = self.fusion {
            model.build.fusion = fusion;
        }
        model.adapters.extend(self.lora);
        model.ignore.head |= self.embeddings;
        match self.weights {
            Some(FormatChoice::Auto) => (model.weights.auto, model.weights.default) = (true, None),
            Some(FormatChoice::Format(format)) => (model.weights.auto, model.weights.default) = (false, Some(format)),
            None => {}
        }
        model.weights.experts = self.experts.or(model.weights.experts);
        let is_replaced = |old: &ByPattern| self.formats.iter().any(|new| new.pattern == old.pattern);
        model.weights.patterns.retain(|old| !is_replaced(old));
        model.weights.patterns.extend(self.formats);
        let limits = &mut model.limits;
        limits.kv_dtype = self.kv.or(limits.kv_dtype);
        model.unset.context &= self.max_context.is_none();
        model.unset.sequences &= self.max_sequences.is_none();
        limits.max_context = self.max_context.unwrap_or(limits.max_context);
        limits.max_sequences = self.max_sequences.unwrap_or(limits.max_sequences);
        // The file's kv_tokens was chosen for the file's limits.
        if self.kv_tokens.is_some() || self.max_context.is_some() || self.max_sequences.is_some() {
            limits.kv_tokens = self.kv_tokens;
        }
        limits.prefill_chunk = self.prefill_chunk.unwrap_or(limits.prefill_chunk);
        limits.max_outputs = self.max_outputs.unwrap_or(limits.max_outputs);
        model.check()?;
        Ok(model)
    }
}

/// The targets with the levels that round inputs to bf16.
fn with_bf16(targets: &[Target]) -> Result<Vec<Target>> {
    let is_x86 = |target: &Target| matches!(target, Target::Cpu(CpuTarget::X86(_)));
    let names = || targets.iter().map(Target::name).collect::<Vec<_>>().join(", ");
    ensure!(targets.iter().any(is_x86), "--compute bf16: found the targets {}, expected one of x86-64", names());
    Ok(manifest::by_preference(&[targets, &manifest::targets(&manifest::BF16_TARGETS)?].concat()))
}

/// A folder, with a factor behind a colon.
fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    match text.rsplit_once(':') {
        Some((dir, factor)) if !Path::new(text).exists() => match factor.parse::<f32>() {
            Ok(factor) if factor.is_finite() => Ok((dir.into(), factor)),
            _ => Err(format!("found the scale {factor:?}, expected a number")),
        },
        _ => Ok((text.into(), 1.0)),
    }
}

/// Checks the name of a target; [`manifest::targets`] parses all of them together.
fn target(name: &str) -> Result<String, String> {
    name.parse::<Target>().map(|_| name.to_owned()).map_err(|error| format!("build.targets: {error}"))
}

fn fusion(text: &str) -> Result<FusionChoice, String> {
    text.parse().map_err(|error| format!("build.fusion: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(targets: &[Target]) -> Vec<&'static str> {
        targets.iter().map(Target::name).collect()
    }

    #[test]
    fn bf16_adds_levels_of_x86() {
        let given = manifest::targets(&["aarch64", "x86-64-v3"]).unwrap();
        let expected = ["x86-64-v4-amx-bf16", "x86-64-v4-bf16", "x86-64-v3", "aarch64"];
        assert_eq!(names(&with_bf16(&given).unwrap()), expected);
        let default = manifest::targets(&manifest::DEFAULT_TARGETS).unwrap();
        assert_eq!(names(&with_bf16(&default).unwrap())[0], "x86-64-v4-amx-bf16");
        let error = with_bf16(&manifest::targets(&["sm_90a"]).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "--compute bf16: found the targets sm_90a, expected one of x86-64");
    }
}
