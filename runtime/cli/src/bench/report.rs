//! The report of `jamba bench`, as tables and as JSON: rates, ratios, and time per kind of kernel against the machine's peaks.

use std::fmt::Write;

use jamba_runtime::{KindTotal, Peaks};
use serde::Serialize;

/// The output of `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) prompt: u64,
    pub(super) generate: u64,
    /// The first batch size.
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
    /// BLAKE3 digest of the plan.
    pub(super) digest: String,
    /// `cpu`, or the GPU's name.
    pub(super) device: String,
    pub(super) target: String,
    pub(super) threads: usize,
    pub(super) open_s: f64,
    pub(super) prefill_tokens_per_s: Rates,
    pub(super) decode_tokens_per_s: Rates,
    /// One for each batch size; the rates above are those of the first.
    pub(super) batches: Vec<BatchReport>,
    /// Totals per op, with the first batch size.
    pub(super) kinds: Vec<Kind>,
    /// Totals per kernel, with the first batch size.
    pub(super) kernels: Vec<Kind>,
}

/// The measurements of one batch size.
#[derive(Serialize)]
pub(super) struct BatchReport {
    /// Number of sequences.
    pub(super) batch: u64,
    pub(super) prefill_tokens_per_s: Rates,
    pub(super) decode_tokens_per_s: Rates,
    /// Seconds from the start of a run to the first token of a sequence, over all sequences and runs.
    pub(super) first_token_s: Percentiles,
    /// Seconds of a decode step, over all steps and runs.
    pub(super) token_s: Percentiles,
}

/// Percentiles of a list of numbers, by nearest rank: each is one of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    n: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    /// Of at least one number.
    pub(super) fn new(values: &[f64]) -> Percentiles {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Percentiles { n: sorted.len(), p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
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
        let Report { prompt, generate, runs, peaks, .. } = self;
        let mut out = format!("{runs} runs of {prompt} tokens of prompt and {generate} new tokens per sequence");
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
            out += &self.rates(plan);
            out.push('\n');
            out += &self.kinds(plan);
        }
        out
    }

    /// Rates and latencies for each batch size. Several plans also have ratios to the first.
    fn rates(&self, plan: &Measured) -> String {
        let has_ratios = self.plans.len() > 1;
        let number = |value: f64| format!("{value:.2}");
        let row = |batch: u64, (phase, to): (&str, &str), rates: &Rates, times: &Percentiles| {
            let mut cells = vec![batch.to_string(), phase.to_owned()];
            cells.extend([rates.median, rates.min, rates.max].map(number));
            if has_ratios {
                cells.extend([rates.ratio, rates.ratio_min, rates.ratio_max].map(|ratio| format!("{ratio:.3}")));
            }
            cells.extend([times.p50, times.p90, times.p99].map(|seconds| number(seconds * 1e3)));
            cells.push(to.to_owned());
            cells
        };
        let ratios = if has_ratios { &["×", "min", "max"][..] } else { &[] };
        let head = [&["batch", "phase", "tokens/s", "min", "max"], ratios, &["p50 ms", "p90", "p99", "to"]].concat();
        let last = head.len() - 1;
        let rows = plan.batches.iter().flat_map(|report| {
            let BatchReport { batch, prefill_tokens_per_s, decode_tokens_per_s, first_token_s, token_s } = report;
            [
                row(*batch, ("prefill", "the first token"), prefill_tokens_per_s, first_token_s),
                row(*batch, ("decode", "the next token"), decode_tokens_per_s, token_s),
            ]
        });
        let head = head.into_iter().map(str::to_owned).collect::<Vec<_>>();
        jamba_plan::text::table(std::iter::once(head).chain(rows), |column| [1, last].contains(&column))
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
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let expected = Percentiles { n: 200, p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 };
        assert_eq!(Percentiles::new(&values), expected);
        assert_eq!(Percentiles::new(&[7.0]), Percentiles { n: 1, p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
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
        let measured = || Measured {
            plan: "a.plan".to_owned(),
            digest: "ab".to_owned(),
            device: "cpu".to_owned(),
            target: "x86-64-v3".to_owned(),
            threads: 2,
            open_s: 0.1,
            prefill_tokens_per_s: Rates::new(&[100.0], &[50.0]),
            decode_tokens_per_s: Rates::new(&[10.0], &[10.0]),
            batches: vec![BatchReport {
                batch: 1,
                prefill_tokens_per_s: Rates::new(&[100.0], &[50.0]),
                decode_tokens_per_s: Rates::new(&[10.0], &[10.0]),
                first_token_s: Percentiles::new(&[5.12]),
                token_s: Percentiles::new(&[0.1, 0.3, 0.1]),
            }],
            kernels: Vec::new(),
            kinds: vec![kind("prefill", "linear", 0.75), kind("prefill", "scan", 0.25), kind("decode", "linear", 0.5)],
        };
        let peaks = Some(Machine { threads: 2, bytes_per_s: 2e9, operations_per_s: 8e9 });
        let report = Report { prompt: 512, generate: 64, batch: 1, runs: 1, peaks, plans: vec![measured()] };
        let expected = "\
1 runs of 512 tokens of prompt and 64 new tokens per sequence; peaks of 2 threads: 2.0 GB/s read, 8 GFLOP/s

a.plan (x86-64-v3, 2 threads)
  batch  phase    tokens/s     min     max   p50 ms      p90      p99  to
      1  prefill    100.00  100.00  100.00  5120.00  5120.00  5120.00  the first token
      1  decode      10.00   10.00   10.00   100.00   300.00   300.00  the next token

                steps       ms  of time      MB  GB/s  of peak  GFLOP/s  of peak
  prefill: all      6  1000.00    100 %  1000.0   1.0     50 %      4.0     50 %
  linear            3   750.00     75 %   750.0   1.0     50 %      2.7     33 %
  scan              3   250.00     25 %   250.0   1.0     50 %      8.0    100 %
  decode: all       3   500.00    100 %   500.0   1.0     50 %      4.0     50 %
  linear            3   500.00    100 %   500.0   1.0     50 %      4.0     50 %
";
        assert_eq!(report.table(), expected);

        // Ratios compare several plans.
        let report = Report { plans: vec![measured(), measured()], ..report };
        let ratios = "      1  prefill    100.00  100.00  100.00  2.000  2.000  2.000  5120.00  5120.00  5120.00  the first token\n";
        assert_eq!(report.table().matches(ratios).count(), 2, "{}", report.table());

        // Peaks of GPUs are not measured.
        let mut report = Report { peaks: None, ..report };
        report.plans[0].device = "NVIDIA H100 (cuda:0)".to_owned();
        let table = report.table();
        assert!(table.starts_with("1 runs of 512 tokens of prompt and 64 new tokens per sequence\n\n"), "{table}");
        assert!(
            table.contains("a.plan (x86-64-v3, NVIDIA H100 (cuda:0))\n") && table.contains("750.0   1.0        ?"),
            "{table}"
        );
    }
}
