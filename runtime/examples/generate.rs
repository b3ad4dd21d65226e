//! Streams text from a prompt.
//!
//! ```text
//! cargo run --release --example generate -- jamba.plan "Once upon a time."
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use jamba_runtime::{Engine, GenerateOptions, OpenOptions, SamplerOptions, StreamEvent};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, prompt] = &arguments[..] else { return Err("usage: generate PLAN PROMPT".into()) };
    run(plan.as_ref(), prompt, &mut io::stdout())
}

/// Continues a prompt.
pub(crate) fn run(plan: &Path, prompt: &str, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::open(plan, OpenOptions::default())?;
    let tokens = engine.tokenizer()?.encode(prompt)?;
    let options = GenerateOptions {
        max_new: 60,
        sampler: SamplerOptions { temperature: 0.8, top_p: 0.95, seed: Some(1), ..SamplerOptions::default() },
        stop: vec!["\n\n".to_owned()],
        logprobs: Some(0),
        ..GenerateOptions::default()
    };
    let mut likely = 0.0;
    for event in engine.stream(&tokens, &options)? {
        match event? {
            StreamEvent::Token(token) => {
                write!(out, "{}", token.text)?;
                out.flush()?;
                likely += token.logprob.unwrap_or_default();
            }
            StreamEvent::Done(generated) => {
                let n = generated.tokens.len();
                writeln!(out, "{}", generated.rest)?;
                writeln!(out, "[{n} tokens, {}; mean logprob {:.2}]", generated.finish.name(), likely / n as f32)?;
            }
        }
    }
    Ok(())
}
