//! `jamba info`: model, targets and memory of a plan.

use jamba_plan::format::GenerationDefaults;
use jamba_plan::text::{self, Units};
use jamba_runtime::{GenerateOptions, PlanFile, SamplerOptions, Verify};
use serde_json::json;

use crate::checkpoint::check_plan;
use crate::failure::{Failure, phase, print, print_json};
use crate::open::PlanArg;

/// Arguments of `jamba info`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the plan's manifest, memory and sections. Verifies everything except the weights.
pub(crate) fn info(args: Args) -> Result<(), Failure> {
    phase("open");
    check_plan(args.plan.only()?)?;
    let file = PlanFile::open(args.plan.path())?;
    let plan = file.plan(Verify::AllButWeights, &mut |_, _| ())?;
    let manifest = plan.manifest();
    if args.json {
        let limits = &manifest.limits;
        let memory: serde_json::Map<_, _> = (manifest.programs.iter())
            .map(|info| {
                let memory = &info.memory;
                let bytes = json!({
                    "weights": memory.weights, "arena": memory.arena, "state": memory.state_pool(limits),
                    "kv": memory.kv_pool(limits), "tables": memory.tables, "graphs": memory.graphs,
                    "total": memory.total(limits),
                });
                (info.kind.name().to_owned(), bytes)
            })
            .collect();
        let first = manifest.programs.first().and_then(|info| memory.get(info.kind.name()));
        let section = |section: &jamba_plan::sections::Section| json!({ "name": section.name, "offset": section.offset, "bytes": section.bytes });
        return print_json(&json!({
            "manifest": manifest,
            "generation_defaults": defaults_json(&manifest.generation),
            "memory": first,
            "memory_of": memory,
            "digest": plan.digest().to_hex().as_str(),
            "file_bytes": plan.header().file_bytes,
            "sections": plan.sections().iter().map(section).collect::<Vec<_>>(),
        }));
    }
    print(
        &[
            text::manifest(manifest),
            defaults(&manifest.generation),
            text::memory(manifest, Units::Human),
            text::sections(&plan, Units::Human),
        ]
        .join("\n"),
    )
}

/// The defaults of `jamba run` and `jamba chat`, as text.
fn defaults(generation: &GenerationDefaults) -> String {
    let sampler = SamplerOptions::of_model(generation);
    let SamplerOptions { temperature, top_k, top_p, min_p, repetition_penalty, .. } = sampler;
    let origin = match generation.is_empty() {
        true => "generation_config.json has none",
        false => "from generation_config.json",
    };
    let picks = match temperature == 0.0 {
        true => "greedy".to_owned(),
        false => format!("temperature {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}"),
    };
    let max_new = max_new(generation);
    format!(
        "defaults of run and chat ({origin})\n  {:<16} {picks}\n  {:<16} {repetition_penalty}\n  {:<16} {max_new}\n",
        "sampling", "repetition", "max_new"
    )
}

fn defaults_json(generation: &GenerationDefaults) -> serde_json::Value {
    let sampler = SamplerOptions::of_model(generation);
    json!({
        "temperature": decimal(sampler.temperature),
        "top_k": sampler.top_k,
        "top_p": decimal(sampler.top_p),
        "min_p": decimal(sampler.min_p),
        "repetition_penalty": decimal(sampler.repetition_penalty),
        "max_new": max_new(generation),
    })
}

/// The f64 with the shortest decimal form of `value`: 0.8 for 0.8f32.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

fn max_new(generation: &GenerationDefaults) -> u64 {
    generation.max_new_tokens.unwrap_or(GenerateOptions::MAX_NEW as u64)
}
