//! Tokens picked by a plan on the simulated device: equal to the host's picks, four bytes each.

use std::ops::ControlFlow;

use gpu_bench::checks;
use jamba_runtime::{DebugOptions, Engine, GenerateOptions, OpenOptions};

use super::plan::{check, open};
use crate::fixtures::Fixture;

#[test]
fn tokens_are_those_that_the_host_picks() {
    check(11, |subject| {
        let found = checks::picks(subject)?;
        assert_eq!(found.note, "5 greedy and 30 drawn tokens");
        Ok(found)
    });
}

/// A step returns a token per row, and the rows that the host needs.
#[test]
fn logits_stay_on_the_device() {
    let ids = Fixture::open("tiny").prompt(17).ids;
    let run = |options: &GenerateOptions, pick_on_host: bool| {
        let (mut engine, counters) = open(
            12,
            OpenOptions { debug: DebugOptions { pick_on_host, ..DebugOptions::default() }, ..OpenOptions::default() },
        );
        generate(&mut engine, &ids, options);
        let counts = counters.read();
        let launches = |op: &str| {
            let of_op = counts.kernels.iter().filter(|(symbol, _)| symbol.starts_with(op));
            of_op.map(|(_, kernel)| kernel.launches).sum::<u64>()
        };
        (counts.downloaded_bytes, launches("sample_argmax"), launches("sample_draw"))
    };
    let vocab = open(12, OpenOptions::default()).0.manifest().model.vocab;
    let [greedy, drawn, .., penalised, told] = &checks::requests()[..] else { panic!("seven kinds") };
    assert_eq!(run(greedy, false), (5 * 4, 5, 0));
    assert_eq!(run(drawn, false), (5 * 4, 0, 5));
    for (options, pick_on_host) in [(penalised, false), (told, false), (greedy, true), (drawn, true)] {
        assert_eq!(run(options, pick_on_host), (5 * 4 * vocab, 0, 0));
    }
}

fn generate(engine: &mut Engine, prompt: &[u32], options: &GenerateOptions) {
    engine.generate(prompt, options, |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"));
}
