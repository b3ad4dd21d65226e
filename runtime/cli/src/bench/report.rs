//! The report of `jamba bench`, as tables and as JSON: rates, ratios, and time per kind of kernel against the machine's peaks.

use std::fmt::Write;

use jamba_runtime::{KindTotal, Peaks};
use serde::Serialize;

/// The output of `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) prompt: u64,
    pub(super) generate: u64,
    pub(super) batch: u64,
    pub(super) runs: u64,
    /// None if no plan ran on the CPU.
    pub(super) peaks: Option<Machine>,
    pub(super) plans: Vec<Measured>,
}

/// Peak rates of the machine, measured in the same run with the same number of threads.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Machine {
    threads: usize,
    /// Bytes read from memory per second.
    bytes_per_s: f64,
    /// f32 operations per second; a multiply-add counts as two.
    operations_per_s: f64,
}

impl From<Peaks> for Machine {
    fn from(peaks: Peaks) -> Machine {
        let Peaks { n_threads, bytes_per_s, operations_per_s } = peaks;
        Machine { threads: n_threads, bytes_per_s, operations_per_s }
    }
}

/// One plan's rates, and totals of one traced run.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) plan: String,
    /// `cpu`, or the GPU's name.
    pub(super) device: String,
    pub(super) target: String,
    pub(super) threads: usize,
    pub(super) open_s: f64,
    pub(super) prefill_tokens_per_s: Rates,
    pub(super) decode_tokens_per_s: Rates,
    pub(super) kinds: Vec<Kind>,
}

/// Tokens per second over all runs, and ratios to the first plan's rate in the same run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    min: f64,
    median: f64,
    max: f64,
    /// Median of the ratios to the first plan.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
}

impl Rates {
    /// From the rates of all runs and those of the first plan.
    pub(super) fn new(rates: &[f64], of_first: &[f64]) -> Rates {
        let (min, median, max) = spread(rates.iter().copied());
        let (ratio_min, ratio, ratio_max) = spread(rates.iter().zip(of_first).map(|(rate, first)| rate / first));
        Rates { min, median, max, ratio, ratio_min, ratio_max }
    }
}

/// Minimum, median and maximum.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (n, middle) = (values.len(), values.len() / 2);
    let median = if n % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    (values[0], median, values[n - 1])
}

/// Totals of all steps of one op in one entry, in one run.
#[derive(Serialize)]
pub(super) struct Kind {
    entry: &'static str,
    kind: String,
    steps: usize,
    seconds: f64,
    /// Memory traffic by the cost model, in bytes.
    bytes: f64,
    /// Operations by the cost model.
    operations: f64,
}

impl From<KindTotal> for Kind {
    fn from(total: KindTotal) -> Kind {
        Kind {
            entry: total.entry.name(),
            kind: total.op,
            steps: total.steps,
            seconds: total.time.as_secs_f64(),
            bytes: total.bytes,
            operations: total.operations,
        }
    }
}

impl Report {
    /// The report as text.
    pub(super) fn table(&self) -> String {
        let Report { prompt, generate, batch, runs, peaks, .. } = self;
        let mut out = format!("{runs} runs of {batch} × {prompt} tokens of prompt, {batch} × {generate} generated");
        if let Some(Machine { threads, bytes_per_s, operations_per_s }) = peaks {
            let (read, operations) = (bytes_per_s / 1e9, operations_per_s / 1e9);
            let _ = write!(out, "; peaks of {threads} threads: {read:.1} GB/s read, {operations:.0} GFLOP/s");
        }
        out.push('\n');
        for plan in &self.plans {
            // Writing to a String cannot fail.
            let _ = match plan.device.as_str() {
                "cpu" => writeln!(out, "\n{} ({}, {} threads)", plan.plan, plan.target, plan.threads),
                device => writeln!(out, "\n{} ({}, {device})", plan.plan, plan.target),
            };
            for (name, rates) in [("prefill", plan.prefill_tokens_per_s), ("decode", plan.decode_tokens_per_s)] {
                let Rates { min, median, max, ratio, ratio_min, ratio_max } = rates;
                let _ = writeln!(
                    out,
                    "  {name:<8} {median:>10.2} tokens/s  ({min:.2} … {max:.2})  × {ratio:.3} ({ratio_min:.3} … {ratio_max:.3})"
                );
            }
            out += &self.kinds(plan);
        }
        out
    }

    /// Time per op, for each entry.
    fn kinds(&self, plan: &Measured) -> String {
        let head = ["", "steps", "ms", "of time", "MB", "GB/s", "of peak", "GFLOP/s", "of peak"].map(str::to_owned);
        let mut rows = Vec::new();
        for entry in ["prefill", "decode"] {
            let kinds = || plan.kinds.iter().filter(|kind| kind.entry == entry);
            let sum = |of: fn(&Kind) -> f64| kinds().map(of).sum::<f64>();
            let seconds = sum(|kind| kind.seconds);
            let all = Kind {
                entry,
                kind: format!("{entry}: all"),
                steps: kinds().map(|kind| kind.steps).sum(),
                seconds,
                bytes: sum(|kind| kind.bytes),
                operations: sum(|kind| kind.operations),
            };
            rows.extend(std::iter::once(&all).chain(kinds()).map(|kind| self.cells(kind, seconds)));
        }
        jamba_plan::text::table(std::iter::once(head).chain(rows), |column| column == 0)
    }

    fn cells(&self, kind: &Kind, of_seconds: f64) -> [String; 9] {
        let (bytes, operations) = (kind.bytes / kind.seconds, kind.operations / kind.seconds);
        let percent = |part: f64, whole: f64| format!("{:.0} %", 100.0 * part / whole);
        let of_peak = |part: f64, of: fn(&Machine) -> f64| {
            self.peaks.as_ref().map_or("?".to_owned(), |peaks| percent(part, of(peaks)))
        };
        [
            kind.kind.clone(),
            kind.steps.to_string(),
            format!("{:.2}", kind.seconds * 1e3),
            percent(kind.seconds, of_seconds),
            format!("{:.1}", kind.bytes / 1e6),
            format!("{:.1}", bytes / 1e9),
            of_peak(bytes, |peaks| peaks.bytes_per_s),
            format!("{:.1}", operations / 1e9),
            of_peak(operations, |peaks| peaks.operations_per_s),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_spread_and_ratios_are_of_runs() {
        let rates = Rates::new(&[3.0, 1.0, 2.0, 10.0], &[1.0, 1.0, 4.0, 5.0]);
        assert_eq!((rates.min, rates.median, rates.max), (1.0, 2.5, 10.0));
        assert_eq!((rates.ratio_min, rates.ratio, rates.ratio_max), (0.5, 1.5, 3.0));
        assert_eq!(Rates::new(&[4.0], &[4.0]).ratio, 1.0);
    }

    #[test]
    fn a_table_says_where_the_time_goes() {
        let kind = |entry, kind: &str, seconds| Kind {
            entry,
            kind: kind.to_owned(),
            steps: 3,
            seconds,
            bytes: 1e9 * seconds,
            operations: 2e9,
        };
        let measured = Measured {
            plan: "a.plan".to_owned(),
            device: "cpu".to_owned(),
            target: "x86-64-v3".to_owned(),
            threads: 2,
            open_s: 0.1,
            prefill_tokens_per_s: Rates::new(&[100.0], &[50.0]),
            decode_tokens_per_s: Rates::new(&[10.0], &[10.0]),
            kinds: vec![kind("prefill", "linear", 0.75), kind("prefill", "scan", 0.25), kind("decode", "linear", 0.5)],
        };
        let peaks = Some(Machine { threads: 2, bytes_per_s: 2e9, operations_per_s: 8e9 });
        let report = Report { prompt: 512, generate: 64, batch: 1, runs: 1, peaks, plans: vec![measured] };
        let expected = "\
1 runs of 1 × 512 tokens of prompt, 1 × 64 generated; peaks of 2 threads: 2.0 GB/s read, 8 GFLOP/s

a.plan (x86-64-v3, 2 threads)
  prefill      100.00 tokens/s  (100.00 … 100.00)  × 2.000 (2.000 … 2.000)
  decode        10.00 tokens/s  (10.00 … 10.00)  × 1.000 (1.000 … 1.000)
                steps       ms  of time      MB  GB/s  of peak  GFLOP/s  of peak
  prefill: all      6  1000.00    100 %  1000.0   1.0     50 %      4.0     50 %
  linear            3   750.00     75 %   750.0   1.0     50 %      2.7     33 %
  scan              3   250.00     25 %   250.0   1.0     50 %      8.0    100 %
  decode: all       3   500.00    100 %   500.0   1.0     50 %      4.0     50 %
  linear            3   500.00    100 %   500.0   1.0     50 %      4.0     50 %
";
        assert_eq!(report.table(), expected);

        // Peaks of GPUs are not measured.
        let mut report = Report { peaks: None, ..report };
        report.plans[0].device = "NVIDIA H100 (cuda:0)".to_owned();
        let table = report.table();
        assert!(table.starts_with("1 runs of 1 × 512 tokens of prompt, 1 × 64 generated\n\n"), "{table}");
        assert!(
            table.contains("a.plan (x86-64-v3, NVIDIA H100 (cuda:0))\n") && table.contains("750.0   1.0        ?"),
            "{table}"
        );
    }
}
