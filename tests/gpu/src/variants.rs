//! Other texts of the same kernels, for finding out on a device why one fails. They compute the same.

use std::fmt;
use std::str::FromStr;

/// An edit of PTX text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Every wait for an mbarrier ends: after so many tries, the kernel traps. With `only`, the other waits return from the kernel, so
    /// that a trap names its wait.
    Bounded { tries: u32, only: Option<usize> },
    /// Products are awaited one batch at a time: `wgmma.wait_group` leaves none in flight.
    Cautious,
}

/// Tries on a device: some milliseconds.
pub const TRIES: u32 = 1 << 20;

/// Tries on the simulator, of which each lets all warps run.
pub const SIMULATED_TRIES: u32 = 1 << 14;

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Variant, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("found {text:?}, expected the number of a wait"));
        match text.split_once(':') {
            None if text == "bounded" => Ok(Variant::Bounded { tries: TRIES, only: None }),
            Some(("bounded", only)) => Ok(Variant::Bounded { tries: TRIES, only: Some(number(only)?) }),
            None if text == "cautious" => Ok(Variant::Cautious),
            _ => Err(format!("found {text:?}, expected bounded, bounded:WAIT or cautious")),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Bounded { only: None, .. } => f.write_str("bounded"),
            Variant::Bounded { only: Some(only), .. } => write!(f, "bounded:{only}"),
            Variant::Cautious => f.write_str("cautious"),
        }
    }
}

/// What the builder of kernels writes for a wait (`kernels/src/hopper/nvvm/barrier.rs`), up to the instruction's operands.
const WAIT: &str = "{ .reg .pred p; wait: mbarrier.try_wait.parity.shared::cta.b64 p,";
const WAIT_END: &str = "@p bra done; bra wait; done: }";

impl Variant {
    /// The variant for the simulator.
    pub fn with_fewer_tries(self) -> Variant {
        match self {
            Variant::Bounded { only, .. } => Variant::Bounded { tries: SIMULATED_TRIES, only },
            other => other,
        }
    }

    /// The text of the variant. Line numbers do not change.
    pub fn apply(self, ptx: &str) -> String {
        match self {
            Variant::Cautious => {
                let mut text = String::with_capacity(ptx.len());
                for line in ptx.split_inclusive('\n') {
                    match line.find("wgmma.wait_group.sync.aligned ") {
                        Some(at) => {
                            let number = at + "wgmma.wait_group.sync.aligned ".len();
                            let end =
                                line[number..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |n| number + n);
                            text.push_str(&line[..number]);
                            text.push('0');
                            text.push_str(&line[end..]);
                        }
                        None => text.push_str(line),
                    }
                }
                text
            }
            Variant::Bounded { tries, only } => {
                let mut text = String::with_capacity(ptx.len() + ptx.len() / 8);
                for (index, part) in ptx.split(WAIT).enumerate() {
                    let Some(wait) = index.checked_sub(1) else {
                        text.push_str(part);
                        continue;
                    };
                    let (operands, rest) = part.split_once(WAIT_END).unwrap_or((part, ""));
                    let end = if only.is_none_or(|only| only == wait) { "trap;" } else { "exit;" };
                    text.push_str(&format!(
                        "{{ .reg .pred p; .reg .u32 n; mov.u32 n, {tries}; wait: mbarrier.test_wait.parity.shared::cta.b64 p,\
                         {operands}@p bra done; add.u32 n, n, -1; setp.ne.u32 p, n, 0; @p bra wait; {end} done: }}{rest}"
                    ));
                }
                text
            }
        }
    }
}

/// The lines of the waits of a text, from one, by number.
pub fn waits(ptx: &str) -> Vec<usize> {
    let starts = ptx.match_indices(WAIT).map(|(at, _)| at);
    starts.map(|at| 1 + ptx[..at].matches('\n').count()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a;\n{ .reg .pred p; wait: mbarrier.try_wait.parity.shared::cta.b64 p, [%r1], %r2; @p bra done; bra wait; done: }\n\
                        wgmma.wait_group.sync.aligned 1;\nb;\n";

    #[test]
    fn waits_end() {
        let bounded = Variant::Bounded { tries: 9, only: None }.apply(TEXT);
        assert_eq!(
            bounded.lines().nth(1).unwrap(),
            "{ .reg .pred p; .reg .u32 n; mov.u32 n, 9; wait: mbarrier.test_wait.parity.shared::cta.b64 p, [%r1], %r2; @p bra \
             done; add.u32 n, n, -1; setp.ne.u32 p, n, 0; @p bra wait; trap; done: }"
        );
        assert!(Variant::Bounded { tries: 9, only: Some(1) }.apply(TEXT).contains("exit;"));
        assert_eq!(waits(TEXT), [2]);
        assert_eq!(bounded.lines().count(), TEXT.lines().count());
    }

    #[test]
    fn products_are_awaited_one_by_one() {
        assert_eq!(Variant::Cautious.apply(TEXT), TEXT.replace("aligned 1;", "aligned 0;"));
        for text in ["bounded", "bounded:3", "cautious"] {
            assert_eq!(text.parse::<Variant>().unwrap().to_string(), text);
        }
        assert!("bounded:x".parse::<Variant>().is_err());
    }
}
