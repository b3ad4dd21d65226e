//! `jamba logits`: writes the logits of every position as safetensors.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::open::{Bar, OpenArgs, PlanArg};
use crate::outputs::{ForceArg, LOGITS};
use crate::prompt::PromptArgs;
use jamba_runtime::{Feed, Outputs, Progress, Unit};

/// Arguments of `jamba logits`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    /// File to write, `-` for stdout; tensor "logits": f32 [tokens, vocab], or the scores or hidden states that the plan computes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    /// Maximum tokens per step [default: the plan's maximum]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    chunk: Option<u64>,
    #[command(flatten)]
    open: OpenArgs,
}

/// Writes the logits of every position.
pub(crate) fn logits(mut args: Args) -> Result<(), Failure> {
    args.prompt = args.prompt.after(&mut args.plan)?;
    let mut outputs = args.force.outputs(std::iter::once(args.plan.path()).chain(args.prompt.file()));
    let output = outputs.claim("-o", &args.output, LOGITS)?;
    let prompt = args.prompt.read()?;
    let mut engine = args.open.open(args.plan.path())?;
    let tokens = prompt.tokens(&engine, 0)?;
    let most = engine.max_step_tokens().min(engine.max_step_outputs());
    let chunk = args.chunk.map_or(most, |chunk| most.min(chunk as usize));
    let n_columns = engine.manifest().model.n_outputs() as usize;
    let sequence = engine.add_sequence()?;
    let mut file = output.create()?;
    file.write_all(&header(tokens.len(), n_columns))?;
    let bar = Bar::new();
    let n_tokens = tokens.len() as u64;
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let done = (index * chunk) as u64;
        bar.tell(Progress { what: "prefilling", done, total: n_tokens, unit: Unit::Tokens });
        let logits = engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }])?;
        let bytes: Vec<u8> = logits.rows().flatten().flat_map(|logit| logit.to_le_bytes()).collect();
        file.write_all(&bytes)?;
    }
    Ok(file.finish()?)
}

/// What precedes the tensor in safetensors: the length of a JSON header (u64, little-endian), and the header, padded with spaces
/// to a multiple of 8 bytes.
fn header(n_tokens: usize, n_columns: usize) -> Vec<u8> {
    let bytes = n_tokens * n_columns * size_of::<f32>();
    let mut header =
        format!(r#"{{"logits":{{"dtype":"F32","shape":[{n_tokens},{n_columns}],"data_offsets":[0,{bytes}]}}}}"#);
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}
