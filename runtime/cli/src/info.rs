//! `jamba info`: model, targets and memory of a plan.

use jamba_plan::text;
use jamba_runtime::{PlanFile, Verify};
use serde_json::json;

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
    let file = PlanFile::open(&args.plan.plan)?;
    let plan = file.plan(Verify::AllButWeights, &mut |_, _| ())?;
    let manifest = plan.manifest();
    if args.json {
        let limits = &manifest.limits;
        let memory: serde_json::Map<_, _> = (manifest.programs.iter())
            .map(|info| {
                let memory = &info.memory;
                let bytes = json!({
                    "weights": memory.weights, "arena": memory.arena, "state": memory.state_pool(limits),
                    "kv": memory.kv_pool(limits), "tables": memory.tables, "total": memory.total(limits),
                });
                (info.kind.name().to_owned(), bytes)
            })
            .collect();
        let first = manifest.programs.first().and_then(|info| memory.get(info.kind.name()));
        let section = |section: &jamba_plan::sections::Section| json!({ "name": section.name, "offset": section.offset, "bytes": section.bytes });
        return print_json(&json!({
            "manifest": manifest,
            "memory": first,
            "memory_of": memory,
            "digest": plan.digest().to_hex().as_str(),
            "file_bytes": plan.header().file_bytes,
            "sections": plan.sections().iter().map(section).collect::<Vec<_>>(),
        }));
    }
    print(&[text::manifest(manifest), text::memory(manifest), text::sections(&plan)].join("\n"))
}
