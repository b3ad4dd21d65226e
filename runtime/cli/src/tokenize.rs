//! `jamba tokenize`: text to token ids, and back.

use jamba_plan::sections::SectionKind;
use jamba_runtime::{AddedTokens, PlanFile, RuntimeError, SpecialTokens, Tokenizer, Verify};
use serde::Serialize;

use crate::checkpoint::check_plan;
use crate::failure::{Failure, phase, print, print_json, print_raw};
use crate::open::PlanArg;
use crate::prompt::{Prompt, PromptArgs};

/// Arguments of `jamba tokenize`.
#[derive(clap::Args)]
#[command(
    after_help = "Text becomes ids, in the form that --tokens takes; --tokens IDS becomes text, special tokens included.\n\
                  A text of more than 8 MiB is encoded in parts of at most 1 MiB, which end after lines."
)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Do not add a start or end token to the text
    #[arg(long, conflicts_with = "tokens")]
    plain: bool,
    /// Leave special tokens such as `<|im_end|>` out of the text
    #[arg(long)]
    hide_special: bool,
    /// Print JSON: the ids, the text of each alone, and the whole text
    #[arg(long)]
    json: bool,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report {
    tokens: Vec<u32>,
    /// The text of each token alone; with `--hide-special`, empty for special tokens. A token with a part of a character has a
    /// replacement character.
    pieces: Vec<String>,
    text: String,
}

/// Converts without opening an engine: code and weights are not loaded.
pub(crate) fn tokenize(mut args: Args) -> Result<(), Failure> {
    args.prompt = args.prompt.after(&mut args.plan)?;
    let prompt = args.prompt.read()?;
    phase("open");
    check_plan(args.plan.path())?;
    let file = PlanFile::open(args.plan.path())?;
    let plan = file.plan(Verify::AllButWeights, &mut |_, _| ())?;
    let section = |kind| plan.section(kind);
    let Some(tokenizer) = section(SectionKind::Tokenizer) else {
        return Err(RuntimeError::NoSection("tokenizer").into());
    };
    let (config, bos) = (section(SectionKind::TokenizerConfig), plan.manifest().model.bos);
    let tokenizer = Tokenizer::new(tokenizer, config, bos)?;
    let (tokens, is_text) = match prompt {
        Prompt::Text(text) => {
            let added = if args.plain { AddedTokens::None } else { AddedTokens::AsConfigured };
            (tokenizer.encode_long(&text, added)?, true)
        }
        Prompt::Tokens(tokens) => (tokens, false),
    };
    let vocab = plan.manifest().model.vocab;
    if let Some(token) = tokens.iter().find(|&&token| u64::from(token) >= vocab) {
        return Err(Failure::Input(format!("--tokens: found {token}, expected ids below {vocab}")));
    }
    let special = if args.hide_special { SpecialTokens::Hidden } else { SpecialTokens::All };
    let text = tokenizer.decode_with(&tokens, special)?;
    if args.json {
        let pieces = tokens.iter().map(|&token| tokenizer.decode_with(&[token], special)).collect::<Result<_, _>>()?;
        return print_json(&Report { tokens, pieces, text });
    }
    match is_text {
        true => print(&(tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",") + "\n")),
        false => print_raw(&(text + "\n")),
    }
}
