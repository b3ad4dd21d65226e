//! The memory of a plan for each weight format and several numbers of sequences, all with the same context.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use jamba_plan::format::{TargetKind, WeightFormat};
use jambac_kernels::target;
use serde_json::{Value, json};

use super::Fitter;
use crate::manifest::{self, Build, ModelFile};

/// The columns.
const SEQUENCES: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Weight formats to compare, the most precise first: name, `weights.default`, `weights.experts`.
const FORMATS: [(&str, Option<WeightFormat>, Option<WeightFormat>); 6] = [
    ("as stored", None, None),
    ("int8", Some(WeightFormat::Int8), None),
    ("int8, experts int4", Some(WeightFormat::Int8), Some(WeightFormat::Int4)),
    ("int4", Some(WeightFormat::Int4), None),
    ("int8, experts int3", Some(WeightFormat::Int8), Some(WeightFormat::Int3)),
    ("int4, experts int3", Some(WeightFormat::Int4), Some(WeightFormat::Int3)),
];

/// The memory of each format and number of sequences.
pub struct Matrix {
    context: u64,
    budget: u64,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    weights: Option<WeightFormat>,
    experts: Option<WeightFormat>,
    /// Bytes of an open plan, for each of [`SEQUENCES`].
    bytes: Vec<u64>,
    /// The longest context of one sequence.
    longest: u64,
}

/// A plan that fits.
struct Best<'a> {
    row: &'a Row,
    context: u64,
    sequences: u64,
}

impl Matrix {
    /// The context is the model's limit, or all of its positions if it has none. Formats that the target has no kernels for are
    /// left out.
    pub fn new(model: &ModelFile, budget: u64) -> Result<Matrix> {
        let config = model.read_config()?;
        let context = if model.unset.context { config.max_positions as u64 } else { model.limits.max_context };
        let has_experts = config.n_experts > 1;
        let on_gpu = model.build.targets.iter().any(|target| target.kind() == TargetKind::Sm90a);
        let runs = |format: Option<WeightFormat>| match format {
            Some(format) => !on_gpu || target::refuses(TargetKind::Sm90a, format).is_none(),
            None => true,
        };
        let mut rows = Vec::new();
        for (name, weights, experts) in FORMATS {
            if !runs(weights) || !runs(experts) || (experts.is_some() && !has_experts) {
                continue;
            }
            let mut model = model.clone();
            (model.weights.default, model.weights.experts) = (weights, experts);
            let fitter = Fitter::new(&model)?;
            let total = |&sequences: &u64| Ok(fitter.need_of(sequences, context)?.total());
            let bytes = SEQUENCES.iter().map(total).collect::<Result<Vec<u64>>>()?;
            rows.push(Row { name, weights, experts, bytes, longest: fitter.longest(1, budget)?.0 });
        }
        Ok(Matrix { context, budget, rows })
    }

    /// The most precise format that fits with the whole context, with as many sequences as fit; otherwise the format with the
    /// longest context for one sequence.
    fn best(&self) -> Option<Best<'_>> {
        let whole = self.rows.iter().find_map(|row| {
            let mut fitting = SEQUENCES.iter().zip(&row.bytes).filter(|(_, bytes)| **bytes <= self.budget);
            let (&sequences, _) = fitting.next_back()?;
            Some(Best { row, context: self.context, sequences })
        });
        whole.or_else(|| {
            let row = self.rows.iter().rev().max_by_key(|row| row.longest).filter(|row| row.longest > 0)?;
            Some(Best { row, context: row.longest.min(self.context), sequences: 1 })
        })
    }

    /// The command that builds the best plan; `None` if none fits.
    pub fn command(&self, model: &ModelFile, path: &Path) -> Option<String> {
        let Best { row, context, sequences } = self.best()?;
        let mut command = build_command(model, path);
        for (option, format) in [("--weights", row.weights), ("--experts", row.experts)] {
            if let Some(format) = format {
                let _ = write!(command, " {option} {}", format.name());
            }
        }
        for by in &model.weights.patterns {
            let _ = write!(command, " --format '{by}'");
        }
        let _ = write!(command, " --max-context {context} --max-sequences {sequences}");
        Some(command)
    }

    /// One line for each format, in GB; what does not fit is in parentheses.
    pub fn table(&self) -> String {
        let mut text = format!(
            "GB by weight format and number of sequences, {} tokens each; (what does not fit)\n {:<20}",
            self.context, "weights"
        );
        for sequences in SEQUENCES {
            let _ = write!(text, "{sequences:>10}");
        }
        for row in &self.rows {
            let _ = write!(text, "\n {:<20}", row.name);
            for &bytes in &row.bytes {
                let gigabytes = gigabytes(bytes);
                let cell = if bytes <= self.budget { format!("{gigabytes} ") } else { format!("({gigabytes})") };
                let _ = write!(text, "{cell:>10}");
            }
        }
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    pub fn document(&self) -> Value {
        let name = |format: Option<WeightFormat>| format.map(|format| format.name());
        let cell = |(sequences, bytes): (&u64, &u64)| json!({ "sequences": sequences, "bytes": bytes, "fits": *bytes <= self.budget });
        let row = |row: &Row| {
            let cells: Vec<Value> = SEQUENCES.iter().zip(&row.bytes).map(cell).collect();
            json!({ "format": row.name, "weights": name(row.weights), "experts": name(row.experts), "memory": cells })
        };
        json!({ "context": self.context, "formats": self.rows.iter().map(row).collect::<Vec<Value>>() })
    }
}

/// `jambac build` of a model, with the targets that are not the default.
pub fn build_command(model: &ModelFile, path: &Path) -> String {
    let mut command = format!("jambac build {} -o {}.plan", path.display(), model.name);
    if model.build.targets != Build::default().targets {
        for target in manifest::by_preference(&model.build.targets) {
            let _ = write!(command, " --target {}", target.name());
        }
    }
    command
}

/// Three significant digits at least: `0.0123`, `7.31`, `127.4`.
fn gigabytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    match gigabytes {
        small if small < 0.1 => format!("{small:.4}"),
        middle if middle < 10.0 => format!("{middle:.2}"),
        large => format!("{large:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelFile {
        ModelFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)).unwrap()
    }

    #[test]
    fn the_best_plan_of_mini_on_80_gb_has_integers() {
        let model = model("jamba-mini");
        let matrix = Matrix::new(&model, 80_000_000_000).unwrap();
        let names: Vec<&str> = matrix.rows.iter().map(|row| row.name).collect();
        assert_eq!(
            names,
            ["as stored", "int8", "int8, experts int4", "int4", "int8, experts int3", "int4, experts int3"]
        );
        for row in &matrix.rows {
            assert!(row.bytes.is_sorted(), "{}", row.name);
        }
        assert!(matrix.rows.windows(2).all(|rows| rows[0].bytes[0] > rows[1].bytes[0]));
        // 52 billion parameters take 104 GB as bf16.
        assert!(matrix.rows[0].bytes[0] > 104_000_000_000);
        let command = matrix.command(&model, Path::new("m")).unwrap();
        assert!(
            command.starts_with("jambac build m -o jamba-mini.plan") && command.contains("--weights int8"),
            "{command}"
        );
        assert!(command.contains(&format!("--max-context {}", matrix.context)), "{command}");
        let table = matrix.table();
        assert!(table.lines().count() == 8 && table.contains('(') && !table.contains(" \n"), "{table}");
    }

    #[test]
    fn without_room_for_the_context_the_best_plan_has_a_shorter_one() {
        let model = model("jamba-3b");
        let whole = Matrix::new(&model, u64::MAX).unwrap();
        assert_eq!(whole.rows.len(), 3, "no experts");
        let least = whole.rows.last().unwrap().bytes[0];
        let matrix = Matrix::new(&model, least - 1).unwrap();
        let best = matrix.best().unwrap();
        assert!(best.sequences == 1 && best.context > 0 && best.context < matrix.context);
        assert!(matrix.command(&model, Path::new("m")).unwrap().contains("--weights int4"));
        assert!(Matrix::new(&model, 1000).unwrap().command(&model, Path::new("m")).is_none());
    }

    #[test]
    fn gigabytes_have_three_digits() {
        assert_eq!([12_300_000, 7_310_000_000, 127_400_000_000].map(gigabytes), ["0.0123", "7.31", "127.4"]);
    }
}
