//! `jambac fit`: which formats, contexts and numbers of sequences fit a memory size. Sizes are those of the schedule; weights are not
//! needed.
//!
//! The table lists, for several numbers of sequences, the longest context that all of them can have at the same time. The command
//! fails if nothing fits, or if the limits and formats of its options do not: with the number of missing bytes and with every limit
//! that alone could be lowered. The same message about limits of model.toml is a part of the report.

mod matrix;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use jamba_plan::format::{KV_PAGE_TOKENS, Limits, Memory, SLACK_BYTES, TargetKind};
use jambac_kernels::target::Target;
use serde_json::{Value, json};

use crate::compile::{Entries, fusion, memory, optimize, plan_limits, stored_graphs};
use crate::doctor::size;
use crate::manifest::{self, ModelFile, by_preference};
use crate::model::ModelArgs;
use crate::precision;
use crate::report::print;
use matrix::Matrix;
pub(crate) use matrix::build_command;

/// The options of `jambac fit`.
#[derive(Args)]
pub struct Fit {
    #[command(flatten)]
    model: ModelArgs,
    /// The memory size: bytes, or a number with a unit (80G, 80GB, 24GiB). Default: this machine's memory.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<u64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Sizes of a model's plan for any limits.
pub struct Fitter {
    model: ModelFile,
    entries: Entries,
    targets: Vec<Target>,
    kind: TargetKind,
    max_positions: u64,
    /// The sizes of pools that were computed so far, by the limits that they depend on.
    known: RefCell<BTreeMap<Key, Memory>>,
}

/// The limits that the sizes of an arena, a state slot, a KV page, the weights and the tables depend on: `max_sequences`,
/// `max_context`.
type Key = (u64, u64);

/// The memory of a plan with certain limits, in bytes.
pub(crate) struct Need {
    memory: Memory,
    limits: Limits,
}

impl Need {
    pub(crate) fn total(&self) -> u64 {
        self.memory.total(&self.limits) + SLACK_BYTES
    }

    fn document(&self) -> Value {
        json!({
            "sequences": self.limits.max_sequences,
            "context": self.limits.max_context,
            "kv_tokens": self.limits.kv_tokens,
            "bytes": self.total(),
            "weights": self.memory.weights + SLACK_BYTES,
            "arena": self.memory.arena,
            "state": self.memory.state_pool(&self.limits),
            "kv": self.memory.kv_pool(&self.limits),
            "tables": self.memory.tables,
            "graphs": self.memory.graphs,
        })
    }
}

/// The largest value of one limit, the others unchanged, with which a model fits.
struct Lower {
    key: &'static str,
    to: u64,
}

impl Fitter {
    pub fn new(model: &ModelFile) -> Result<Fitter> {
        let config = model.read_config()?;
        let targets = by_preference(&model.build.targets);
        // With targets of both kinds, the GPU's memory is the scarce one.
        let kind = targets.last().map_or(TargetKind::Cpu, Target::kind);
        let mut entries = stored_graphs(model, &config, kind)?;
        optimize(&mut entries, &fusion(model, kind))?;
        let max_positions = config.max_positions as u64;
        Ok(Fitter { model: model.clone(), entries, targets, kind, max_positions, known: RefCell::default() })
    }

    /// The most positions of a sequence.
    pub(crate) fn max_positions(&self) -> u64 {
        self.max_positions
    }

    pub(crate) fn need(&self, change: impl FnOnce(&mut ModelFile)) -> Result<Need> {
        let mut model = self.model.clone();
        change(&mut model);
        let limits = plan_limits(&model);
        let key = (limits.max_sequences, limits.max_context);
        if let Some(memory) = self.known.borrow().get(&key) {
            return Ok(Need { memory: memory.clone(), limits });
        }
        let memory = memory(&model, &self.entries, &self.targets, self.kind)?;
        self.known.borrow_mut().insert(key, memory.clone());
        Ok(Need { memory, limits })
    }

    /// Bytes of an open plan with these limits.
    pub fn total(&self, limits: &manifest::Limits) -> Result<u64> {
        Ok(self.need(|model| model.limits = limits.clone())?.total())
    }

    /// The memory for `sequences` sequences of `context` tokens each.
    fn need_of(&self, sequences: u64, context: u64) -> Result<Need> {
        self.need(|model| {
            model.limits.max_sequences = sequences;
            model.limits.max_context = context;
            model.limits.kv_tokens = None;
        })
    }

    /// The longest context that `sequences` sequences can have within a budget, and its memory; 0 and the memory of one page where
    /// none fits.
    pub(crate) fn longest(&self, sequences: u64, budget: u64) -> Result<(u64, Need)> {
        let context = |pages: u64| (pages * KV_PAGE_TOKENS).min(self.max_positions);
        let fits = |pages: u64| Ok(self.need_of(sequences, context(pages))?.total() <= budget);
        let pages = most(self.max_positions.div_ceil(KV_PAGE_TOKENS), fits)?;
        Ok((context(pages), self.need_of(sequences, context(pages.max(1)))?))
    }

    /// Every limit that makes the model fit when it alone is lowered.
    fn lower(&self, budget: u64) -> Result<Vec<Lower>> {
        let limits = &self.model.limits;
        let kv_tokens = self.model.kv_tokens();
        let mut found = Vec::new();
        let least_pages = limits.max_context.div_ceil(KV_PAGE_TOKENS);
        let with_kv = |pages: u64| {
            let need = self.need(|model| model.limits.kv_tokens = Some(pages * KV_PAGE_TOKENS))?;
            Ok(pages < least_pages || need.total() <= budget)
        };
        let pages = most(kv_tokens / KV_PAGE_TOKENS - 1, with_kv)?;
        if pages >= least_pages {
            found.push(Lower { key: "kv_tokens", to: pages * KV_PAGE_TOKENS });
        }
        let with_sequences =
            |sequences: u64| Ok(self.need(|model| model.limits.max_sequences = sequences)?.total() <= budget);
        let sequences = most(limits.max_sequences - 1, with_sequences)?;
        if sequences > 0 {
            found.push(Lower { key: "max_sequences", to: sequences });
        }
        // A shorter context needs no more tokens of keys and values than all sequences can have.
        let with_context = |pages: u64| {
            let context = pages * KV_PAGE_TOKENS;
            let need = self.need(|model| {
                model.limits.max_context = context;
                model.limits.kv_tokens = Some(kv_tokens.min(context * limits.max_sequences));
            })?;
            Ok(need.total() <= budget)
        };
        let pages = most((limits.max_context - 1) / KV_PAGE_TOKENS, with_context)?;
        if pages > 0 {
            found.push(Lower { key: "max_context", to: pages * KV_PAGE_TOKENS });
        }
        Ok(found)
    }
}

/// The largest number up to `end` for which `fits` holds, which must be monotonic; 0 where it holds for none.
pub(crate) fn most(end: u64, mut fits: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    let (mut good, mut bad) = (0, end + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle)? { good = middle } else { bad = middle }
    }
    Ok(good)
}

/// Runs the subcommand.
///
/// # Errors
/// Nothing fits, or what the options ask for does not.
pub fn run(options: Fit) -> Result<()> {
    let (path, by_options) = (options.model.path().to_owned(), options.model.sets_memory());
    let mut model = options.model.open()?;
    let config = model.read_config()?;
    if model.unset.context {
        // The default is for models with as many positions.
        model.limits.max_context = model.limits.max_context.min(config.max_positions as u64);
    }
    model.check_context(&config)?;
    let (budget, place) = match options.memory {
        Some(bytes) => (bytes, "--memory"),
        None => (own_memory()?, "the memory of this machine"),
    };
    let formats = Formats::new(&mut model, budget)?;
    let command = formats.command(&model, &path);
    let fitter = Fitter::new(&model)?;
    let rows = [1, 2, 4, 8, 16, 32, 64].map(|sequences| Ok((sequences, fitter.longest(sequences, budget)?)));
    let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    let asked = fitter.need(|_| ())?;
    let fits = asked.total() <= budget;
    let short = if fits { None } else { Some(shortage(&fitter, &asked, budget)?) };
    let fails = short.is_some() && (by_options || command.is_none());
    let is_unset = model.unset.context && model.unset.sequences;
    let by_file = short.as_ref().filter(|_| !fails && !is_unset);
    print(&match options.json {
        true => document(budget, &asked, &rows, (&formats, command.as_deref())),
        false => {
            let heading = format!("{} in {}, {place}\n\n", model.name, size(budget));
            let best = command.map_or("no format fits\n".to_owned(), |command| format!("best: {command}\n"));
            let by_file =
                by_file.map_or(String::new(), |short| format!("the limits of model.toml do not fit: {short}\n\n"));
            [heading, formats.table(), "\n".to_owned(), table(&rows), "\n".to_owned(), by_file, best].concat()
        }
    })?;
    match short.filter(|_| fails) {
        Some(short) => bail!("{short}"),
        None => Ok(()),
    }
}

/// The message for limits that do not fit: the missing bytes, and how to make them fit.
pub(crate) fn shortage(fitter: &Fitter, asked: &Need, budget: u64) -> Result<String> {
    let (limits, weights) = (&asked.limits, asked.memory.weights + SLACK_BYTES);
    let mut text = format!(
        "{budget} bytes are {} too few for limits.max_sequences {}, limits.max_context {} and limits.kv_tokens {}: they take {}",
        asked.total() - budget,
        limits.max_sequences,
        limits.max_context,
        limits.kv_tokens,
        asked.total()
    );
    let lower = fitter.lower(budget)?;
    if lower.is_empty() {
        let least = fitter.need_of(1, KV_PAGE_TOKENS)?.total();
        let _ = match least.checked_sub(budget) {
            Some(short) if short > 0 => write!(
                text,
                "; one sequence of {KV_PAGE_TOKENS} tokens takes {least}, {short} too many, {weights} of them weights: \
                 smaller formats help (--experts int8, --weights int4)"
            ),
            _ => write!(text, "; no limit alone makes them fit: lower several, as the table says"),
        };
    }
    for (index, Lower { key, to }) in lower.iter().enumerate() {
        let _ = write!(text, "{} limits.{key} to {to}", if index == 0 { "; lower" } else { ", or" });
    }
    Ok(text)
}

/// The memory of this machine, or of its control group if that is less.
fn own_memory() -> Result<u64> {
    let memory = jamba_runtime::machine::memory()
        .context("--memory: found none, and this system does not tell its memory: add --memory SIZE")?;
    Ok(memory.most())
}

fn document(
    budget: u64,
    asked: &Need,
    rows: &[(u64, (u64, Need))],
    (formats, command): (&Formats, Option<&str>),
) -> String {
    let row = |(sequences, (context, need)): &(u64, (u64, Need))| json!({ "sequences": sequences, "context": context, "bytes": need.total() });
    let fits: Vec<_> = rows.iter().map(row).collect();
    let asked_fits = asked.total() <= budget;
    let mut document = json!({ "memory": budget, "fits": fits, "asked": asked.document(), "asked_fits": asked_fits,
        "short": asked.total().saturating_sub(budget), "best": command });
    let (key, value) = match formats {
        Formats::Compared(matrix) => ("matrix", matrix.document()),
        Formats::Chosen(chosen) => ("formats", chosen.document()),
    };
    document[key] = value;
    format!("{document:#}\n")
}

/// What is reported of weight formats.
enum Formats {
    /// Several formats, one for all parameters.
    Compared(Matrix),
    /// Those of `--weights auto`.
    Chosen(precision::Chosen),
}

impl Formats {
    fn new(model: &mut ModelFile, budget: u64) -> Result<Formats> {
        match model.weights.auto {
            true => precision::choose(model, budget).map(Formats::Chosen),
            false => Matrix::new(model, budget).map(Formats::Compared),
        }
    }

    fn command(&self, model: &ModelFile, path: &Path) -> Option<String> {
        match self {
            Formats::Compared(matrix) => matrix.command(model, path),
            Formats::Chosen(chosen) => Some(chosen.command(model, path)),
        }
    }

    fn table(&self) -> String {
        match self {
            Formats::Compared(matrix) => matrix.table(),
            Formats::Chosen(chosen) => format!("{chosen}\n"),
        }
    }
}

/// For several numbers of sequences, the longest context that all of them can have.
fn table(rows: &[(u64, (u64, Need))]) -> String {
    let mut text = "the longest contexts, weights as given\n sequences  context of each       memory\n".to_owned();
    for (sequences, (context, need)) in rows {
        let context = if *context == 0 { "does not fit".to_owned() } else { context.to_string() };
        let _ = writeln!(text, " {sequences:>9}  {context:>15} {:>12}", size(need.total()));
    }
    text
}

/// Parses `80G`, `80GB`, `24GiB`, `1000000`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1u64 << 40,
        other => return Err(format!("found the unit {other:?}, expected B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("found {text:?}, expected a number and a unit"))?;
    if !(number.is_finite() && number > 0.0) {
        return Err(format!("found {text:?}, expected more than nothing"));
    }
    Ok((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use jamba_plan::format::WeightFormat;
    use jambac_graph::DType;

    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            [bytes("80G"), bytes("80GB"), bytes("80gb")],
            [Ok(80_000_000_000), Ok(80_000_000_000), Ok(80_000_000_000)]
        );
        assert_eq!(bytes("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(bytes("4096").unwrap(), 4096);
        for wrong in ["", "GB", "80X", "-1GB", "many"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    fn model(name: &str) -> ModelFile {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
        ModelFile::open(&folder).unwrap()
    }

    /// Jamba-v0.1, 256K tokens: 4 attention layers · (keys + values) · 8 heads · 128 · 2 bytes · 262144 = 4 GiB.
    #[test]
    fn keys_and_values_of_256k_tokens_are_4_gib() {
        let model = model("jamba-mini");
        assert_eq!((model.limits.kv_dtype, model.limits.max_context), (Some(DType::Bf16), 1 << 18));
        let need = Fitter::new(&model).unwrap().need_of(1, 1 << 18).unwrap();
        assert_eq!(need.memory.kv_pool(&need.limits), 4 << 30);
        assert_eq!(need.memory.kv_page, 16 * 4 * 2 * 8 * 128 * 2);
    }

    #[test]
    fn mini_with_int8_experts_holds_four_long_sequences_on_80_gb() {
        let mut model = model("jamba-mini");
        model.weights.experts = Some(WeightFormat::Int8);
        let fitter = Fitter::new(&model).unwrap();
        let (context, need) = fitter.longest(4, 80_000_000_000).unwrap();
        assert_eq!(context, 1 << 18, "{} bytes", need.total());
        assert!(need.total() <= 80_000_000_000);
        // 16 MoE layers of 16 experts of three matrices of 14336 · 4096: 45.1 GB as int8, twice that as bf16.
        let experts = 16 * 16 * 3 * 14336 * 4096_u64;
        let bf16 = Fitter::new(&self::model("jamba-mini")).unwrap().need_of(4, 1 << 18).unwrap();
        let saved = bf16.memory.weights - need.memory.weights;
        let scales = 16 * 16 * (2 * 14336 + 4096) * 4_u64;
        assert_eq!(saved, experts - scales);
    }

    #[test]
    fn a_small_card_says_by_how_much_and_what_to_lower() {
        let mut model = model("jamba-3b");
        model.weights.default = Some(WeightFormat::Int4);
        let fitter = Fitter::new(&model).unwrap();
        let asked = fitter.need(|_| ()).unwrap();
        let budget = asked.total() - 1000;
        let lower = fitter.lower(budget).unwrap();
        let sequences = lower.iter().find(|lower| lower.key == "max_sequences").unwrap();
        assert_eq!(sequences.to, model.limits.max_sequences - 1);
        let text = shortage(&fitter, &asked, budget).unwrap();
        assert!(text.starts_with(&format!("{budget} bytes are 1000 too few for limits.max_sequences 4,")), "{text}");
        assert!(text.contains("lower limits.max_sequences to 3, or limits.max_context to 261"), "{text}");
        // What it says fits, and one page more does not.
        let context = lower.iter().find(|lower| lower.key == "max_context").unwrap().to;
        let with = |context: u64| {
            let need = fitter.need(|model| {
                model.limits.max_context = context;
                model.limits.kv_tokens = Some(model.kv_tokens().min(context * 4));
            });
            need.unwrap().total()
        };
        assert!(with(context) <= budget && with(context + 16) > budget);
    }

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let fitter = Fitter::new(&model("jamba-mini")).unwrap();
        let text = shortage(&fitter, &fitter.need(|_| ()).unwrap(), 80_000_000_000).unwrap();
        assert!(text.contains("one sequence of 16 tokens takes") && text.contains("--experts int8"), "{text}");
    }
}
