//! `jambac fit`: how many tokens and sequences fit a memory, from the same numbers as a plan; weights are not needed.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use jamba_plan::format::{KV_PAGE_TOKENS, SLACK_BYTES};
use jambac_checkpoint::JambaConfig;
use jambac_graph::DType;
use serde_json::json;

use crate::build::{fusion, graphs, optimize, schedule, targets};
use crate::manifest::ModelFile;
use crate::report::print;

/// Prints, for numbers of sequences, the longest context that all of them can have at once within `memory`.
pub fn run(model: &ModelFile, memory: &str, as_json: bool) -> Result<()> {
    let budget = bytes(memory)?;
    let config = JambaConfig::read(&model.checkpoint.join("config.json"))?;
    let mut entries = graphs(model, &config, &|_| DType::Bf16)?;
    optimize(&mut entries, &fusion(model)?)?;
    let targets = targets(&model.build.targets)?;
    let mut rows = Vec::new();
    for n_sequences in [1, 2, 4, 8, 16, 32, 64] {
        let mut model = model.clone();
        model.limits.max_sequences = n_sequences;
        model.limits.kv_tokens = None;
        let needed = |context: u64| -> Result<u64> {
            let mut model = model.clone();
            model.limits.max_context = context;
            let schedule = schedule(&model, &entries, &targets)?;
            Ok(schedule.memory.total(&schedule.limits) + SLACK_BYTES)
        };
        // The need grows with the context: the largest number of pages is found by halving.
        let (mut fits, mut exceeds) = (0, config.max_positions as u64 / KV_PAGE_TOKENS + 1);
        while exceeds - fits > 1 {
            let pages = fits + (exceeds - fits) / 2;
            if needed(pages * KV_PAGE_TOKENS)? <= budget { fits = pages } else { exceeds = pages }
        }
        let context = fits * KV_PAGE_TOKENS;
        rows.push((n_sequences, context, if fits > 0 { needed(context)? } else { needed(KV_PAGE_TOKENS)? }));
    }
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(sequences, context, bytes)| json!({ "sequences": sequences, "context": context, "bytes": bytes }))
            .collect();
        return print(&format!("{:#}\n", json!({ "memory": budget, "fits": rows })));
    }
    let mut text = format!("{} in {budget} bytes\n sequences  context of each           bytes\n", model.name);
    for (sequences, context, bytes) in rows {
        let context = if context == 0 { "does not fit".to_owned() } else { context.to_string() };
        let _ = writeln!(text, " {sequences:>9}  {context:>15} {bytes:>15}");
    }
    print(&text)
}

/// `80GB`, `24GiB`, `1000000`.
fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1u64 << 40,
        other => bail!("--memory: found the unit {other:?}, expected B, KB, MB, GB, TB, KiB, MiB, GiB or TiB"),
    };
    let number: f64 =
        digits.parse().with_context(|| format!("--memory: found {text:?}, expected a number and a unit"))?;
    if !(number.is_finite() && number > 0.0) {
        bail!("--memory: found {text:?}, expected more than nothing");
    }
    Ok((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("80GB").unwrap(), 80_000_000_000);
        assert_eq!(bytes("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(bytes("4096").unwrap(), 4096);
        for wrong in ["", "GB", "80G", "-1GB", "many"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
