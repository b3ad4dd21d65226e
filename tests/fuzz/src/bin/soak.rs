//! Random load on one engine: `soak PLAN MINUTES SEED`. Prints counts and the resident memory every minute.

use std::path::Path;
use std::time::{Duration, Instant};

use jambac_fuzz::soak::{Soak, resident};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, plan, minutes, seed] = &arguments[..] else { panic!("expected: soak PLAN MINUTES SEED") };
    let begin = Instant::now();
    let minutes: u64 = minutes.parse().expect("a number of minutes");
    let mut soak = Soak::new(Path::new(plan), seed.parse().expect("a number"));
    for minute in 1..=minutes {
        while begin.elapsed() < Duration::from_secs(60 * minute) {
            soak.round();
        }
        println!("minute {minute}: {} KiB resident, {:?}", resident() >> 10, soak.counts);
    }
}
