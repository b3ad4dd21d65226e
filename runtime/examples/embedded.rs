//! A program with an embedded plan, which runs without files.
//!
//! ```text
//! cargo run --release --example embedded -- "Once upon a time"
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;

use jamba_runtime::{Engine, GenerateOptions, OpenOptions, PlanFile, include_plan};

static PLAN: &[u8] = include_plan!("toy.plan");

fn main() -> Result<(), Box<dyn Error>> {
    let prompt = std::env::args().nth(1).ok_or("usage: embedded PROMPT")?;
    run(&prompt, &mut io::stdout())
}

/// Continues a prompt.
pub(crate) fn run(prompt: &str, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::open(PlanFile::from_memory(PLAN)?, OpenOptions::default())?;
    let tokens = engine.tokenizer()?.encode(prompt)?;
    let options = GenerateOptions { max_new: 12, ..GenerateOptions::default() };
    let generated = engine.generate(&tokens, &options, |_| ControlFlow::Continue(()))?;
    writeln!(out, "{} bytes of plan, {} tokens: {:?}", PLAN.len(), generated.tokens.len(), generated.text)?;
    Ok(())
}
