//! A kernel's cost as the plan states it: the coefficients of [`jamba_plan::cost::Amount`], read off [`Kernel::cost`].

use jamba_plan::cost::{Amount, Cost};

use crate::kernel::{Counts, Kernel};

/// So many tokens that every expert has some.
const MANY: usize = 1 << 20;

impl Kernel {
    /// Bytes and operations that the kernel cannot do without, as functions of a step's size.
    pub fn amounts(&self) -> Cost {
        Cost { bytes: amount(|counts| self.cost(counts).bytes), operations: amount(|counts| self.cost(counts).flops) }
    }
}

/// The coefficients of a function that has the form of an [`Amount`].
fn amount(of: impl Fn(Counts) -> f64) -> Amount {
    let none = Counts { tokens: 0, sequences: 0, outputs: 0, context: 0 };
    let of_tokens = |tokens: usize| of(Counts { tokens, ..none });
    let constant = of(none);
    let tokens = (of_tokens(2 * MANY) - of_tokens(MANY)) / MANY as f64;
    let sequences = of(Counts { sequences: 1, ..none }) - constant;
    Amount {
        constant,
        tokens,
        sequences,
        outputs: of(Counts { outputs: 1, ..none }) - constant,
        sequence_context: of(Counts { sequences: 1, context: 1, ..none }) - constant - sequences,
        token_context: of(Counts { tokens: 1, context: 1, ..none }) - of_tokens(1),
        first_token: of_tokens(1) - constant - tokens,
        most: of_tokens(MANY) - constant - tokens * MANY as f64,
    }
}

#[cfg(test)]
mod tests {
    use jamba_plan::cost::Size;

    use crate::cases;
    use crate::kernel::Counts;

    #[test]
    fn amounts_are_what_the_kernels_say() {
        for case in cases::all() {
            let amounts = case.kernel.amounts();
            for (tokens, sequences, outputs, context) in
                [(1, 1, 1, 1), (7, 2, 3, 100), (512, 1, 1, 256), (3000, 40, 16, 9)]
            {
                let counts = Counts { tokens, sequences, outputs, context };
                let size = Size {
                    tokens: tokens as f64,
                    sequences: sequences as f64,
                    outputs: outputs as f64,
                    context: context as f64,
                };
                let cost = case.kernel.cost(counts);
                let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected;
                assert!(close(amounts.bytes.at(size), cost.bytes), "{} bytes at {counts:?}", case.kernel.symbol());
                assert!(
                    close(amounts.operations.at(size), cost.flops),
                    "{} operations at {counts:?}",
                    case.kernel.symbol()
                );
            }
        }
    }
}
