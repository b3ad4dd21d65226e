//! Load on `jamba serve`, beside llama-server on the same checkpoint. Every served answer is compared, token by token, with
//! that of the request alone.
//!
//!     cargo bench -p jambac-benches --bench serve -- PLAN [--long PLAN] [--peer LLAMA_SERVER --gguf FILE] [--out FILE]
//!
//! PLAN has at least 8 sequences and 4,096 tokens of context; the plan of `--long` has 131,072. With a peer, a workload runs on
//! both servers in turn, the order swapped from pair to pair. `--smoke` runs all workloads on a small plan for a few seconds,
//! and compares tokens alone. `--soak MINUTES` runs a mixed load instead and measures the server's memory.

mod alone;
mod client;
mod load;
mod report;
mod server;
mod soak;
mod workloads;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::alone::Alone;
use crate::load::Served;
use crate::report::{Goal, Row, Spread};
use crate::workloads::{Figures, Setup, Side};

#[derive(Parser)]
#[command(name = "serve", about = "Load on `jamba serve`, beside llama-server")]
struct Args {
    /// The plan under load
    plan: PathBuf,
    /// A plan of a small model with a long context, for W6 and W7
    #[arg(long)]
    long: Option<PathBuf>,
    /// llama-server
    #[arg(long, requires = "gguf")]
    peer: Option<PathBuf>,
    /// Its model: the same checkpoint
    #[arg(long)]
    gguf: Option<PathBuf>,
    /// Some of W1,W2,…
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Time of a closed loop, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Pairs of runs
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Threads of each engine
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Clients that vanish
    #[arg(long, default_value_t = 10_000)]
    vanish: usize,
    /// Short prompts and loops; figures mean nothing
    #[arg(long)]
    smoke: bool,
    /// Run a mixed load for this many minutes, and no workload
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// Pause between two requests of a client of `--soak`, in milliseconds
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Write the table into this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Workload = fn(&Setup, Side) -> Result<(Figures, Served)>;

/// Bars of the paired workloads: measure, on our value, on the ratio.
const BARS: &[(&str, &str, Option<Goal>, Option<Goal>)] = &[
    ("W1", "new tokens per second", None, Some(Goal::Least(3.0))),
    ("W2", "gap of the streams, p99, ms", Some(Goal::Most(150.0)), Some(Goal::Most(0.05))),
    ("W2", "first token of the long prompts, p50, ms", None, Some(Goal::Most(0.6))),
    ("W3", "the rest relative to cold", Some(Goal::Most(0.1)), None),
    ("W3", "cached tokens, least, less those of the system text", Some(Goal::Least(-1.0)), None),
    ("W4", "prompt tokens read relative to new ones", Some(Goal::Most(1.05)), None),
];

struct Run {
    setup: Setup,
    args: Args,
    alone: Alone,
    alone_long: Option<Alone>,
    rows: Vec<Row>,
    n_checked: usize,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, client, address, prompt] = &words[..]
        && client == soak::CLIENT
    {
        return soak::client(address, prompt);
    }
    let args = Args::parse();
    if let Some(minutes) = args.soak {
        let (time, pause) = (Duration::from_secs(60 * minutes), Duration::from_millis(args.pause));
        let table = report::table(&soak::soak(&args.plan, args.threads, time, pause)?);
        println!("{table}");
        return args.out.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, &table)?));
    }
    let smoke = args.smoke;
    let setup = Setup {
        vocab: workloads::vocab(&args.plan)?,
        plan: args.plan.clone(),
        long: args.long.clone(),
        peer: args.peer.clone().zip(args.gguf.clone()),
        threads: args.threads,
        time: if smoke { Duration::from_secs(2) } else { Duration::from_secs(args.seconds) },
        scale: if smoke { 0.125 } else { 1.0 },
    };
    let alone = Alone::open(&args.plan, args.threads)?;
    let alone_long = args.long.as_ref().map(|plan| Alone::open(plan, args.threads)).transpose()?;
    let mut run = Run { setup, args, alone, alone_long, rows: Vec::new(), n_checked: 0 };
    run.all()?;
    let table = report::table(&run.rows);
    println!("{table}\n{} answers had the tokens of their request alone; none had others.", run.n_checked);
    if let Some(path) = &run.args.out {
        std::fs::write(path, table)?;
    }
    Ok(())
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.args.only.is_empty() || self.args.only.iter().any(|wanted| wanted == name)
    }

    fn all(&mut self) -> Result<()> {
        let paired: [(&'static str, Workload); 4] =
            [("W1", workloads::w1), ("W2", workloads::w2), ("W3", workloads::w3), ("W4", workloads::w4)];
        for (name, workload) in paired {
            if self.wants(name) {
                self.pairs(name, workload)?;
            }
        }
        let smoke = self.args.smoke;
        if self.wants("W5") {
            let known = self.rows.iter().find(|row| row.measure == "new tokens per second").map(|row| row.ours);
            let capacity = match known {
                Some(capacity) => capacity,
                None => workloads::w1(&self.setup, Side::Ours)?.0[0].1,
            };
            let (rows, served) = workloads::w5(&self.setup, capacity)?;
            self.keep("W5", rows, &served, false)?;
        }
        if self.wants("W6") {
            let n = if smoke { 200 } else { self.args.vanish };
            let (rows, served) = workloads::w6(&self.setup, n)?;
            self.keep("W6", rows, &served, self.setup.long.is_some())?;
        }
        if self.wants("W7") && self.setup.long.is_some() {
            let (rows, served) = workloads::w7(&self.setup)?;
            self.keep("W7", rows, &served, true)?;
        }
        if self.wants("W8") {
            let (rows, served) = workloads::w8(&self.setup)?;
            self.keep("W8", rows, &served, false)?;
        }
        if self.wants("W9") {
            let rows = workloads::w9(&self.setup, if smoke { 1 } else { self.args.pairs })?;
            self.keep("W9", rows, &Vec::new(), false)?;
        }
        if self.wants("W10") {
            let row = workloads::w10(&self.setup)?;
            self.keep("W10", vec![row], &Vec::new(), false)?;
        }
        Ok(())
    }

    /// Adds rows after comparing the answers with those alone.
    fn keep(&mut self, name: &str, rows: Vec<Row>, served: &Served, long: bool) -> Result<()> {
        let alone = if long { self.alone_long.as_mut() } else { Some(&mut self.alone) };
        self.n_checked += alone.ok_or("a plan with a long context is missing")?.check(name, served)?;
        eprint!("{}", report::table(&rows));
        self.rows.extend(rows);
        Ok(())
    }

    /// Runs a workload on both servers in turn, and adds the medians.
    fn pairs(&mut self, name: &'static str, workload: Workload) -> Result<()> {
        let n_pairs = if self.args.smoke { 1 } else { self.args.pairs };
        let (mut ours, mut theirs): (Vec<Figures>, Vec<Figures>) = (Vec::new(), Vec::new());
        for pair in 0..n_pairs {
            let sides = [Side::Ours, Side::Theirs];
            for side in if pair % 2 == 0 { sides } else { [sides[1], sides[0]] } {
                if side == Side::Theirs && self.setup.peer.is_none() {
                    continue;
                }
                let (figures, served) = workload(&self.setup, side)?;
                if side == Side::Ours {
                    self.n_checked += self.alone.check(name, &served)?;
                    ours.push(figures);
                } else {
                    theirs.push(figures);
                }
            }
        }
        let median = |values: Vec<f64>| Spread::of(values).map(|spread| spread.median);
        let mut rows = Vec::new();
        for (index, &(measure, _)) in ours[0].iter().enumerate() {
            let of = |side: &[Figures]| side.iter().map(|figures| figures[index].1).collect::<Vec<f64>>();
            let ratios = of(&ours).iter().zip(of(&theirs)).map(|(ours, theirs)| ours / theirs).collect();
            let bars = BARS.iter().find(|bar| (bar.0, bar.1) == (name, measure));
            let row = Row::new(name, measure, median(of(&ours)).unwrap_or(f64::NAN));
            let (goal, ratio_goal) = bars.map_or((None, None), |bar| (bar.2, bar.3));
            rows.push(Row { theirs: median(of(&theirs)), ratio: Spread::of(ratios), goal, ratio_goal, ..row });
        }
        self.keep(name, rows, &Vec::new(), false)
    }
}
