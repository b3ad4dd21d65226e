//! `jambac limits`: a plan with other limits, without its checkpoint and without packing weights again.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use jamba_plan::output::Kind;
use jamba_runtime::{PlanFile, Verify};

use crate::compile::{Progress, model_of, relimit};
use crate::doctor::size;
use crate::outputs::ForceArg;
use crate::report::{check_plan, tell};

/// The options of `jambac limits`. What is not given stays as it is.
#[derive(Args)]
pub struct ChangeLimits {
    /// The plan.
    plan: PathBuf,
    /// Tokens of one sequence.
    #[arg(short = 'c', long, value_name = "N", alias = "max-context")]
    context: Option<u64>,
    /// Concurrent sequences.
    #[arg(long, value_name = "N", alias = "max-sequences")]
    sequences: Option<u64>,
    /// Tokens of KV cache, all sequences together. Default: enough for every sequence at full length, if the context or the
    /// number of sequences changes.
    #[arg(long, value_name = "N")]
    kv_tokens: Option<u64>,
    /// Tokens of one prefill step.
    #[arg(long, value_name = "N")]
    prefill_chunk: Option<u64>,
    /// The plan to write; - is stdout.
    #[arg(short, value_name = "OUT.plan")]
    output: PathBuf,
    #[command(flatten)]
    force: ForceArg,
}

/// Runs the subcommand.
///
/// # Errors
/// The plan is damaged or of an older compiler, or the limits are not possible.
pub fn run(options: &ChangeLimits) -> Result<()> {
    let changes = [options.context, options.sequences, options.kv_tokens, options.prefill_chunk];
    ensure!(
        changes.iter().any(Option::is_some),
        "found no limit, expected --context, --sequences, --kv-tokens or --prefill-chunk"
    );
    let output = options.force.outputs([options.plan.as_path()]).claim("-o", &options.output, Kind::PLAN)?;
    check_plan(&options.plan)?;
    let file = PlanFile::open(&options.plan)?;
    // The weights get a new digest, so the old one must match.
    let plan = file.plan(Verify::Everything, &mut |_, _| ())?;
    let mut model = model_of(&plan).with_context(|| options.plan.display().to_string())?;
    let limits = &mut model.limits;
    if options.context.is_some() || options.sequences.is_some() {
        limits.kv_tokens = None;
    }
    limits.max_context = options.context.unwrap_or(limits.max_context);
    limits.max_sequences = options.sequences.unwrap_or(limits.max_sequences);
    limits.kv_tokens = options.kv_tokens.or(limits.kv_tokens);
    limits.prefill_chunk = options.prefill_chunk.unwrap_or(limits.prefill_chunk);
    let (manifest, bytes) = relimit(&plan, model, output, &Progress::on_terminal())?;
    let limits = &manifest.limits;
    let memory = manifest.programs.iter().map(|info| info.memory.total(limits)).max().unwrap_or(0);
    tell(&format!(
        "{}: {}, context of {} tokens, {} sequences, {} tokens of keys and values, {} when open",
        options.output.display(),
        size(bytes),
        limits.max_context,
        limits.max_sequences,
        limits.kv_tokens,
        size(memory)
    ));
    Ok(())
}
