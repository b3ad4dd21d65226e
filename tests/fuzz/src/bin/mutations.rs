//! Runs a target on mutations of its seeds for some seconds, on the stable toolchain and without libFuzzer:
//! `mutations TARGET SECONDS SEED`. Prints the number of executions. The input of the running execution is in `TARGET.input`, so that one
//! that ends the process is not lost; one that panics or takes more than ten seconds is kept as `TARGET-N.finding`.

use std::time::{Duration, Instant};

use jambac_fuzz::{mutate::Mutator, regressions, target};

/// An input that takes longer is a finding.
const SLOW: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, seconds, seed] = &arguments[..] else { panic!("expected: mutations TARGET SECONDS SEED") };
    let target = target(name);
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let mut inputs = (target.seeds)();
    inputs.extend(regressions(name).iter().map(|path| std::fs::read(path).expect("a regression")));
    let mut mutator = Mutator::new(inputs, seed.parse().expect("a number"));
    let (mut n, mut n_findings) = (0_u64, 0);
    // Writing each input would take longer than most executions.
    let writes = ["constraint", "template", "tokenizer", "state"].contains(&name.as_str());
    while Instant::now() < end {
        let input = mutator.input();
        if writes {
            std::fs::write(format!("{name}.input"), &input).expect("the folder is writable");
        }
        let run = || {
            let begun = Instant::now();
            (std::panic::catch_unwind(|| (target.check)(&input)).is_ok(), begun.elapsed())
        };
        let (is_fine, time) = run();
        n += 1;
        // On a busy machine a process may not run for seconds: a slow input is slow twice.
        if !is_fine || (time > SLOW && run().1 > SLOW) {
            n_findings += 1;
            std::fs::write(format!("{name}-{n}.finding"), &input).expect("the folder is writable");
            println!("{name}: execution {n}: {} after {time:?}", if is_fine { "slow" } else { "a panic" });
            if n_findings == 20 {
                break;
            }
        }
    }
    println!("{name}: {n} executions, {n_findings} findings");
}
