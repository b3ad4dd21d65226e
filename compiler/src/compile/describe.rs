//! What a plan says about itself, for people: the model, the options and files it was built from.

use std::path::PathBuf;

use jamba_plan::format::{
    Activation, GenerationDefaults, Head, Manifest, Model, Provenance, SourceFile, Weight, WeightFormat,
};
use jambac_checkpoint::{FileDigest, GenerationConfig, Metadata};
use jambac_models::jamba;
use jambac_schedule::Schedule;

use super::{Compiled, Request};
use crate::manifest::{ByPattern, ModelFile};

/// The option with the formats by pattern.
pub(super) const PATTERNS: &str = "weights.patterns";

pub(super) fn manifest(
    request: &Request,
    metadata: &Metadata,
    programs: &[Compiled],
    digests: Vec<FileDigest>,
) -> Manifest {
    let first = &programs[0].parts.schedule;
    Manifest {
        compiler: format!("jambac {}", env!("CARGO_PKG_VERSION")),
        model: model(&request.model, metadata, first),
        limits: first.limits.clone(),
        programs: programs.iter().map(|program| program.info.clone()).collect(),
        synthetic_seed: request.synthetic_seed,
        generation: generation(metadata.generation()),
        provenance: Some(provenance(&request.model, programs, digests)),
    }
}

fn model(file: &ModelFile, metadata: &Metadata, schedule: &Schedule) -> Model {
    let config = metadata.config();
    let mut formats: Vec<(String, String)> = Vec::new();
    for (group, experts) in [("linear", false), ("experts", true)] {
        let big = |weight: &&Weight| weight.layout.k > 1 && (weight.layout.groups > 1) == experts;
        let largest = schedule.program.weights.iter().filter(big).max_by_key(|weight| weight.bytes);
        formats.extend(largest.map(|weight| (group.to_owned(), weight.format.name().to_owned())));
    }
    Model {
        name: file.name.clone(),
        n_parameters: jamba::n_parameters(config) as u64,
        n_layers: config.n_layers as u64,
        d_model: config.d_model as u64,
        vocab: config.vocab as u64,
        head: head(&config.head),
        bos: config.bos,
        eos: metadata.eos().to_vec(),
        formats,
    }
}

fn head(head: &jamba::Head) -> Head {
    match head {
        jamba::Head::Logits => Head::Logits,
        jamba::Head::Scores { labels, activation, bias: _ } => {
            let activation = match activation {
                jamba::Activation::Softmax => Activation::Softmax,
                jamba::Activation::Sigmoid => Activation::Sigmoid,
                jamba::Activation::Identity => Activation::Identity,
            };
            Head::Scores { labels: labels.clone(), activation }
        }
        jamba::Head::Hidden => Head::Hidden,
    }
}

fn generation(config: &GenerationConfig) -> GenerationDefaults {
    GenerationDefaults {
        do_sample: config.do_sample,
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        min_p: config.min_p,
        repetition_penalty: config.repetition_penalty,
        max_new_tokens: config.max_new_tokens,
    }
}

/// The options under their keys in model.toml, and the files.
fn provenance(model: &ModelFile, programs: &[Compiled], digests: Vec<FileDigest>) -> Provenance {
    let name = |format: Option<WeightFormat>| format.map_or("as stored", |format| format.name()).to_owned();
    let mut kv_dtypes: Vec<String> = programs.iter().map(|program| program.kv_dtype.to_string()).collect();
    kv_dtypes.dedup();
    let patterns: Vec<String> = model.weights.patterns.iter().map(ByPattern::to_string).collect();
    let patterns = if patterns.is_empty() { "none".to_owned() } else { patterns.join(" ") };
    let options = [
        ("build.fusion", model.build.fusion.to_string()),
        ("weights.default", name(model.weights.default)),
        ("weights.experts", name(model.weights.experts.or(model.weights.default))),
        (PATTERNS, patterns),
        ("weights.calibrate", model.weights.calibrate.clone().unwrap_or_default().to_string()),
        ("limits.kv_dtype", kv_dtypes.join(", ")),
    ];
    let adapter =
        |(dir, factor): &(PathBuf, f32)| format!("{}:{factor}", dir.file_name().unwrap_or_default().to_string_lossy());
    let adapters: Vec<String> = model.adapters.iter().map(adapter).collect();
    let lora = (!adapters.is_empty()).then(|| ("lora", adapters.join(", ")));
    let file = |digest: FileDigest| SourceFile {
        name: digest.name,
        bytes: digest.bytes,
        blake3: digest.blake3,
        covers: jambac_checkpoint::digest::COVERS.to_owned(),
    };
    Provenance {
        llvm: jambac_codegen::toolchain::llvm_version(),
        options: options.into_iter().chain(lora).map(|(key, value)| (key.to_owned(), value)).collect(),
        files: digests.into_iter().map(file).collect(),
    }
}

/// The text form of a checkpoint: its config, and the dtype and shape of every parameter.
pub(super) fn checkpoint(parameters: &jamba::Parameters<'_>) -> String {
    let mut text = format!("{:#?}\n", parameters.config());
    for (name, parameter) in parameters.iter() {
        text += &format!("{name} : {}{:?}\n", parameter.dtype, parameter.shape);
    }
    text
}
