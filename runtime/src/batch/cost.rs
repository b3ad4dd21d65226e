//! The time of a step, learned from the times of earlier steps.
//!
//! ```text
//! seconds = a + b · decoders + c · prompt tokens + d · context
//! ```
//!
//! Recursive least squares: a step's weight decays with every later step, so the prices follow the machine. The estimate is
//! drawn to the previous one with a small weight, so parts that do not occur for long keep their prices.

/// What a step has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Sequences with one token.
    pub(super) decoders: f64,
    /// Tokens of prompts.
    pub(super) prompt: f64,
    /// Attended tokens, summed over all tokens of the step.
    pub(super) context: f64,
}

impl Load {
    /// Adds the next token of a sequence of `past` tokens.
    pub(super) fn decode(&mut self, past: usize) {
        self.decoders += 1.0;
        self.context += past as f64 + 1.0;
    }

    /// This load and `n` prompt tokens of a sequence of `past` tokens.
    pub(super) fn and_prompt(self, n: usize, past: usize) -> Load {
        let (n, past) = (n as f64, past as f64);
        Load { prompt: self.prompt + n, context: self.context + n * past + n * (n + 1.0) / 2.0, ..self }
    }

    /// The parts in units of typical sizes, which keeps the equations well conditioned.
    fn parts(self) -> [f64; N] {
        [1.0, self.decoders / 8.0, self.prompt / 256.0, self.context / 65_536.0]
    }
}

/// Number of prices.
const N: usize = 4;

/// Weight of a step relative to the next one.
const DECAY: f64 = 0.97;

/// Weight of the previous estimate.
const INERTIA: f64 = 1e-4;

/// A step may have this many times the prompt tokens of the largest step so far: prices are not trusted beyond.
const GROWTH: f64 = 4.0;

/// Prices of the parts of a step.
#[derive(Debug, Default)]
pub(super) struct CostModel {
    /// Weighted sum of parts · partsᵀ.
    squares: [[f64; N]; N],
    /// Weighted sum of parts · seconds.
    products: [f64; N],
    prices: [f64; N],
    /// Prompt tokens of the largest step.
    largest: f64,
}

impl CostModel {
    /// Learns from a step.
    pub(super) fn observe(&mut self, load: Load, seconds: f64) {
        let parts = load.parts();
        self.largest = self.largest.max(load.prompt);
        for i in 0..N {
            for j in 0..N {
                self.squares[i][j] = DECAY * self.squares[i][j] + parts[i] * parts[j];
            }
            self.products[i] = DECAY * self.products[i] + parts[i] * seconds;
        }
        let mut squares = self.squares;
        let mut products = self.products;
        for i in 0..N {
            squares[i][i] += INERTIA;
            products[i] += INERTIA * self.prices[i];
        }
        self.prices = solve(squares, products).map(|price| price.max(0.0));
    }

    /// Expected time of a step, in seconds.
    pub(super) fn predict(&self, load: Load) -> f64 {
        load.parts().iter().zip(self.prices).map(|(part, price)| part * price).sum()
    }

    /// How many of `most` prompt tokens of a sequence of `past` tokens can be added to a step so that it takes at most
    /// `target` seconds. If the rest of the step takes most of that time, a step has `least` prompt tokens all the same, fewer
    /// if these alone take longer than `target`, but always one.
    pub(super) fn fit(&self, load: Load, past: usize, most: usize, (target, least): (f64, usize)) -> usize {
        let largest = (self.largest * GROWTH).max(least as f64);
        let rest = self.predict(load);
        let fits = |n: usize| {
            let load = load.and_prompt(n, past);
            let seconds = self.predict(load);
            load.prompt <= 1.0
                || (load.prompt <= least as f64 && seconds - rest <= target)
                || (load.prompt <= largest && seconds <= target)
        };
        // The largest n that fits: all smaller ones do too.
        let (mut fitting, mut too_many) = (0, most + 1);
        while too_many - fitting > 1 {
            let middle = fitting.midpoint(too_many);
            if fits(middle) { fitting = middle } else { too_many = middle }
        }
        fitting
    }

    /// As [`CostModel::fit`], for a prompt that does not end, in a step in which another does: the step takes at most twice its time
    /// without this prompt. So the first token of a short prompt next to a long one does not wait for the target.
    pub(super) fn fit_beside_an_end(&self, load: Load, past: usize, most: usize, target: f64) -> usize {
        match self.predict(load) {
            // Nothing is known yet.
            0.0 => most,
            rest => self.fit(load, past, most, (target.min(2.0 * rest), 0)),
        }
    }
}

/// Solves symmetric, positive definite equations by elimination.
fn solve(mut squares: [[f64; N]; N], mut products: [f64; N]) -> [f64; N] {
    for i in 0..N {
        let (pivot, product) = (squares[i], products[i]);
        for (row, below) in squares.iter_mut().zip(&mut products).skip(i + 1) {
            let factor = row[i] / pivot[i];
            row.iter_mut().zip(pivot).for_each(|(entry, of_pivot)| *entry -= factor * of_pivot);
            *below -= factor * product;
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|k| squares[i][k] * products[k]).sum();
        products[i] = (products[i] - known) / squares[i][i];
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of a step on a made-up machine.
    fn seconds(load: Load) -> f64 {
        0.004 + 0.003 * load.decoders + 0.002 * load.prompt + 1e-7 * load.context
    }

    /// The nth of a sequence of loads in which all parts vary.
    fn load(n: usize) -> Load {
        let mut load = Load::default();
        (0..n * 7 % 9).for_each(|decoder| load.decode(100 * decoder + n * 13 % 500));
        load.and_prompt(n * 31 % 200, n * 17 % 3000)
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.02, "{found}, expected {expected}");
    }

    #[test]
    fn prices_are_learned_and_followed() {
        let mut model = CostModel::default();
        (0..60).for_each(|n| model.observe(load(n), seconds(load(n))));
        (100..140).for_each(|n| close(model.predict(load(n)), seconds(load(n))));
        // The machine becomes half as fast.
        (0..150).for_each(|n| model.observe(load(n), 2.0 * seconds(load(n))));
        (100..140).for_each(|n| close(model.predict(load(n)), 2.0 * seconds(load(n))));
    }

    #[test]
    fn parts_that_do_not_occur_keep_their_prices() {
        let mut model = CostModel::default();
        (0..60).for_each(|n| model.observe(load(n), seconds(load(n))));
        for n in 0..20_000 {
            let mut decoding = Load::default();
            (0..4).for_each(|_| decoding.decode(n % 1000));
            model.observe(decoding, seconds(decoding));
        }
        let mixed = load(8).and_prompt(100, 50);
        close(model.predict(mixed), seconds(mixed));
    }

    #[test]
    fn steps_keep_to_the_target() {
        const TARGET: f64 = 0.1;
        let mut model = CostModel::default();
        let (mut past, mut too_long, mut read) = (0, 0, 0);
        for n in 0..400 {
            let mut load = Load::default();
            (0..n / 40).for_each(|_| load.decode(500));
            let tokens = model.fit(load, past, 512, (TARGET, 16));
            let load = load.and_prompt(tokens, past);
            let noise = 1.0 + 0.05 * ((n * 7919 % 101) as f64 / 50.0 - 1.0);
            let taken = seconds(load) * noise;
            model.observe(load, taken);
            too_long += usize::from(taken > 1.1 * TARGET);
            (past, read) = ((past + tokens) % 4000, read + tokens);
            assert!(tokens >= 16);
        }
        assert!(too_long <= 4, "{too_long} of 400 steps");
        // Up to 48 tokens fit beside no decoder, 33 beside nine.
        assert!(read > 400 * 33, "{read} tokens");
    }

    #[test]
    fn steps_grow_slowly_and_never_below_the_least() {
        let mut model = CostModel::default();
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let n = model.fit(Load::default(), 0, 512, (1.0, 16));
            sizes.push(n);
            model.observe(Load::default().and_prompt(n, 0), 1e-6);
        }
        assert_eq!(sizes, [16, 64, 256, 512]);
    }

    #[test]
    fn a_step_in_which_a_prompt_ends_is_short() {
        let mut model = CostModel::default();
        let ending = Load::default().and_prompt(24, 0);
        assert_eq!(model.fit_beside_an_end(ending, 0, 300, 0.5), 300);
        (0..60).for_each(|n| model.observe(load(n), seconds(load(n))));
        // 24 tokens take 52 ms and leave as much to the long prompt; it has 247 tokens of a step of 500 ms otherwise.
        let beside = model.fit_beside_an_end(ending, 0, 300, 0.5);
        assert!((25..=26).contains(&beside), "{beside}");
        assert!(seconds(ending.and_prompt(beside, 0)) <= 2.0 * seconds(ending));
        assert!(model.fit(ending, 0, 300, (0.5, 16)) > 200);
        // The target holds too.
        assert!((3..=4).contains(&model.fit_beside_an_end(ending, 0, 300, 0.06)));
        assert_eq!(model.fit_beside_an_end(ending, 0, 300, 0.05), 0);
    }

    #[test]
    fn long_steps_have_the_least_that_fits_the_target() {
        let mut model = CostModel::default();
        (0..60).for_each(|n| model.observe(load(n), seconds(load(n))));
        // 50 decoders take 154 ms, 16 tokens 32 ms.
        let mut decoding = Load::default();
        (0..50).for_each(|_| decoding.decode(0));
        assert_eq!(model.fit(decoding, 0, 512, (0.1, 16)), 16);
        assert_eq!(model.fit(decoding.and_prompt(10, 0), 0, 512, (0.1, 16)), 6);
        assert_eq!(model.fit(decoding.and_prompt(16, 0), 0, 512, (0.1, 16)), 0);
        assert_eq!(model.fit(decoding, 0, 9, (0.1, 16)), 9);
        // Each token behind 200,000 others takes 22 ms.
        assert_eq!(model.fit(decoding, 200_000, 512, (0.1, 16)), 4);
        assert_eq!(model.fit(Load::default(), 200_000, 512, (0.1, 16)), 4);
        assert_eq!(model.fit(decoding, 200_000, 512, (0.01, 16)), 1);
    }
}
