//! `jamba logits`: writes the logits of every position as safetensors.

use std::path::PathBuf;

use jamba_runtime::{Feed, Outputs, Progress, Unit};
use safetensors::tensor::{Dtype, TensorView};

use crate::failure::Failure;
use crate::open::{Bar, OpenArgs, PlanArg};
use crate::prompt::PromptArgs;

/// Arguments of `jamba logits`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    /// File to write; tensor "logits": f32 [tokens, vocab]
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Maximum tokens per step [default: the plan's maximum]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    chunk: Option<u64>,
    #[command(flatten)]
    open: OpenArgs,
}

/// Writes the logits of every position.
pub(crate) fn logits(args: Args) -> Result<(), Failure> {
    let prompt = args.prompt.read()?;
    let mut engine = args.open.open(&args.plan.plan)?;
    let tokens = prompt.tokens(&engine, 0)?;
    let most = engine.max_step_tokens().min(engine.max_step_outputs());
    let chunk = args.chunk.map_or(most, |chunk| most.min(chunk as usize));
    let vocab = engine.manifest().model.vocab as usize;
    let sequence = engine.add_sequence()?;
    let mut bytes = Vec::with_capacity(tokens.len() * vocab * size_of::<f32>());
    let bar = Bar::new();
    let n_tokens = tokens.len() as u64;
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let done = (index * chunk) as u64;
        bar.tell(Progress { what: "prefilling", done, total: n_tokens, unit: Unit::Tokens });
        let logits = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }])?;
        bytes.extend(logits.rows().flatten().flat_map(|logit| logit.to_le_bytes()));
    }
    let view = TensorView::new(Dtype::F32, vec![tokens.len(), vocab], &bytes);
    let view = view.map_err(|error| Failure::Ours(error.to_string()))?;
    safetensors::serialize_to_file([("logits", view)], None, &args.output)
        .map_err(|error| Failure::file(&args.output, "write it", error))
}
