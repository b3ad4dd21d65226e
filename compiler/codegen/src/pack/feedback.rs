//! Quantization with error feedback: the rounding error of an input is compensated by the inputs that are rounded after it.
//!
//! ```text
//! error of a row:  Σ over rows of x of (Σⱼ (w[j] − ŵ[j]) · x[j])² = (w − ŵ) · H · (w − ŵ)ᵀ      H = Σ xᵀ · x, the second moments
//! ```
//!
//! Inputs are taken in blocks of [`BLOCK`] columns, H is kept for pairs of inputs in the same block. Within a block (GPTQ,
//! arXiv 2210.17323, algorithm 1), with U the upper Cholesky factor of (H + λI)⁻¹:
//!
//! ```text
//! q[j] = round(w[j] / scale)     e = (w[j] − scale · q[j]) / U[j, j]     w[l] −= e · U[j, l] for l > j
//! ```
//!
//! then, with the scales kept, each integer in turn moves to the value that minimizes the error given all others, a fixed number of
//! times (coordinate descent, arXiv 2309.01885).

use std::ops::Range;

use jamba_plan::format::WeightFormat;
use jamba_plan::quantize::{self, GROUP};

/// Inputs that compensate each other's errors.
pub const BLOCK: usize = 128;

/// λ relative to the mean of the diagonal of H.
const DAMPING: f64 = 0.01;

/// Rounds of coordinate descent.
const ROUNDS: usize = 3;

/// Scales that are tried for a group of int4, relative to the scale that maps the largest value to −8.
const INT4_SCALES: [f32; 9] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, -1.14, -1.06, -0.98];

/// The same for int3, relative to the scale that maps the largest value to −4: the largest becomes −4 or 3. Smaller scales, which clip it,
/// lower the error that is minimized here but raise the divergence.
const INT3_SCALES: [f32; 2] = [1.0, -1.33];

/// Second moments of the inputs of a matrix, in blocks on the diagonal.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    k: usize,
    n_rows: u64,
    /// \[blocks\]\[BLOCK\]\[BLOCK\]. Only the upper triangle counts.
    sums: Vec<f32>,
}

impl Moments {
    /// No rows of `k` inputs.
    pub fn new(k: usize) -> Moments {
        Moments { k, n_rows: 0, sums: vec![0.0; k.div_ceil(BLOCK) * BLOCK * BLOCK] }
    }

    /// Adds rows of `k` inputs that are `stride` elements apart, in this order. All cores add; each sum is that of one core.
    /// Calls with multiples of 4 rows give the sums of one call.
    pub fn add(&mut self, rows: &[f32], stride: usize) {
        let k = self.k;
        let n_blocks = k.div_ceil(BLOCK);
        let n_threads = super::n_cores().min(n_blocks);
        let add = |first: usize, blocks: &mut [f32]| {
            for (block, sums) in (first..).zip(blocks.chunks_exact_mut(BLOCK * BLOCK)) {
                add_to_block(sums, rows, stride, block * BLOCK..k.min((block + 1) * BLOCK));
            }
        };
        if n_threads == 1 || rows.len() * BLOCK < SMALL {
            add(0, &mut self.sums);
        } else {
            let share = n_blocks.div_ceil(n_threads);
            let shares = self.sums.chunks_mut(share * BLOCK * BLOCK).enumerate();
            let add = &add;
            std::thread::scope(|scope| {
                shares.for_each(|(index, blocks)| drop(scope.spawn(move || add(index * share, blocks))));
            });
        }
        self.n_rows += (rows.len() / stride) as u64;
    }

    /// Rows so far.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }
}

/// Number of products below which one thread adds them all.
const SMALL: usize = 1 << 22;

/// Rows whose products are summed before they are added to a sum.
const TOGETHER: usize = 4;

/// Adds the products of the inputs in `columns` to the upper triangle of a block.
fn add_to_block(sums: &mut [f32], rows: &[f32], stride: usize, columns: Range<usize>) {
    let n = columns.len();
    // The columns of a few rows, copied to consecutive memory.
    let mut x = [[0.0; BLOCK]; TOGETHER];
    for rows in rows.chunks(stride * TOGETHER) {
        x.iter_mut().for_each(|x| x.fill(0.0));
        for (x, row) in x.iter_mut().zip(rows.chunks(stride)) {
            x[..n].copy_from_slice(&row[columns.clone()]);
        }
        let [x0, x1, x2, x3] = &x;
        for (i, sums) in sums.chunks_exact_mut(BLOCK).enumerate().take(n) {
            let (a0, a1, a2, a3) = (x0[i], x1[i], x2[i], x3[i]);
            // From a multiple of 8, so that whole vectors are added.
            let first = i / 8 * 8;
            let inputs = x0[first..].iter().zip(&x1[first..]).zip(&x2[first..]).zip(&x3[first..]);
            for (sum, (((b0, b1), b2), b3)) in sums[first..].iter_mut().zip(inputs) {
                *sum += (a0 * b0 + a1 * b1) + (a2 * b2 + a3 * b3);
            }
        }
    }
}

/// What error feedback needs of the moments of a matrix.
pub(crate) struct Feedback {
    k: usize,
    /// H + λI of each block, all of it, \[blocks\]\[BLOCK\]\[BLOCK\].
    damped: Vec<f32>,
    /// U of each block.
    factors: Vec<f32>,
}

impl Feedback {
    /// Factors the moments; `None` if no input was ever other than zero.
    pub(crate) fn new(moments: &Moments) -> Option<Feedback> {
        let size = BLOCK * BLOCK;
        let k = moments.k;
        let diagonal = |block: usize, j: usize| f64::from(moments.sums[block * size + j * BLOCK + j]);
        let mean = (0..k).map(|j| diagonal(j / BLOCK, j % BLOCK)).sum::<f64>() / k as f64;
        if mean.is_nan() || mean <= 0.0 || mean.is_infinite() {
            return None;
        }
        let (mut damped, mut factors) = (vec![0.0; moments.sums.len()], vec![0.0; moments.sums.len()]);
        let blocks = damped.chunks_exact_mut(size).zip(factors.chunks_exact_mut(size));
        for (block, (damped, factor)) in blocks.enumerate() {
            let n = BLOCK.min(k - block * BLOCK);
            let sums = &moments.sums[block * size..][..size];
            let mut h = vec![0.0; n * n];
            for i in 0..n {
                for j in i..n {
                    let sum = f64::from(sums[i * BLOCK + j]) + if i == j { DAMPING * mean } else { 0.0 };
                    (h[i * n + j], h[j * n + i]) = (sum, sum);
                    (damped[i * BLOCK + j], damped[j * BLOCK + i]) = (sum as f32, sum as f32);
                }
            }
            let upper = upper_factor_of_inverse(&h, n);
            for i in 0..n {
                (i..n).for_each(|j| factor[i * BLOCK + j] = upper[i * n + j] as f32);
            }
        }
        Some(Feedback { k, damped, factors })
    }

    /// Quantizes a row of `k` values. Replaces `scales` by the scales of the row and fills `q`.
    pub(crate) fn row(&self, format: WeightFormat, row: &[f32], scales: &mut Vec<f32>, q: &mut [i8]) {
        scales.clear();
        if format == WeightFormat::Int8 {
            scales.extend(quantize::row_scales(format, row));
        }
        for block in 0..self.k.div_ceil(BLOCK) {
            let columns = block * BLOCK..self.k.min((block + 1) * BLOCK);
            self.block(block, format, &row[columns.clone()], scales, &mut q[columns]);
        }
    }

    /// Quantizes the columns of a block.
    fn block(&self, block: usize, format: WeightFormat, row: &[f32], scales: &mut Vec<f32>, q: &mut [i8]) {
        let n = row.len();
        let factor = &self.factors[block * BLOCK * BLOCK..][..BLOCK * BLOCK];
        let damped = &self.damped[block * BLOCK * BLOCK..][..BLOCK * BLOCK];
        let has_groups = format != WeightFormat::Int8;
        // The scale of each column.
        let mut steps = [0.0; BLOCK];
        let mut w = [0.0; BLOCK];
        w[..n].copy_from_slice(row);

        // Error feedback.
        for j in 0..n {
            if has_groups && j.is_multiple_of(GROUP) {
                let group = j..n.min(j + GROUP);
                let importance = |l: usize| factor[l * BLOCK + l].powi(-2);
                scales.push(group_scale(format, &w[group.clone()], |l| importance(j + l)));
            }
            let scale = if has_groups { scales[scales.len() - 1] } else { scales[0] };
            steps[j] = scale;
            q[j] = quantize::number(format, w[j], scale);
            let u = &factor[j * BLOCK..][..n];
            let error = (w[j] - scale * f32::from(q[j])) / u[j];
            w[j + 1..n].iter_mut().zip(&u[j + 1..]).for_each(|(w, u)| *w -= error * u);
        }

        // Coordinate descent. gradient[j] = Σ H[j, l] · (w[l] − ŵ[l])
        let mut gradient = [0.0; BLOCK];
        for j in 0..n {
            let error = row[j] - steps[j] * f32::from(q[j]);
            let h = &damped[j * BLOCK..][..n];
            gradient[..n].iter_mut().zip(h).for_each(|(gradient, h)| *gradient += h * error);
        }
        for _ in 0..ROUNDS {
            for j in 0..n {
                let h = &damped[j * BLOCK..][..n];
                let best = quantize::number(format, steps[j] * f32::from(q[j]) + gradient[j] / h[j], steps[j]);
                if best != q[j] {
                    let moved = steps[j] * (f32::from(best) - f32::from(q[j]));
                    q[j] = best;
                    gradient[..n].iter_mut().zip(h).for_each(|(gradient, h)| *gradient -= h * moved);
                }
            }
        }
    }
}

/// The scale of a group with the least error, where the error of input `l` counts `importance(l)`.
fn group_scale(format: WeightFormat, group: &[f32], importance: impl Fn(usize) -> f32) -> f32 {
    let largest = quantize::group_scale(format, group);
    if largest == 0.0 {
        return 0.0;
    }
    // Zeros behind a short group have no error.
    let (mut w, mut counts) = ([0.0; GROUP], [0.0; GROUP]);
    w[..group.len()].copy_from_slice(group);
    counts.iter_mut().enumerate().take(group.len()).for_each(|(l, count)| *count = importance(l));
    let (least, most) = quantize::range(format);
    let error = |scale: f32| -> f32 {
        let inverse = 1.0 / scale;
        let mut errors = [0.0; GROUP];
        for ((error, &w), &count) in errors.iter_mut().zip(&w).zip(&counts) {
            let rest = w - scale * quantize::nearest((w * inverse).clamp(least, most));
            *error = count * rest * rest;
        }
        errors.iter().sum()
    };
    let factors: &[f32] = if format == WeightFormat::Int3 { &INT3_SCALES } else { &INT4_SCALES };
    let mut best = (f32::INFINITY, largest);
    for scale in factors.iter().map(|factor| half::bf16::from_f32(largest * factor).to_f32()) {
        let error = error(scale);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// The upper triangular U with Uᵀ · U = H⁻¹, for a symmetric, positive definite H of n rows.
fn upper_factor_of_inverse(h: &[f64], n: usize) -> Vec<f64> {
    // H = L · Lᵀ with rows and columns in reverse order gives H = V · Vᵀ with V upper triangular, so H⁻¹ = V⁻ᵀ · V⁻¹ and U = V⁻¹.
    let at = |i: usize, j: usize| h[(n - 1 - i) * n + (n - 1 - j)];
    let mut lower = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|l| lower[i * n + l] * lower[j * n + l]).sum();
            let rest = at(i, j) - sum;
            lower[i * n + j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / lower[j * n + j] };
        }
    }
    // The inverse of V by back substitution, column by column.
    let v = |i: usize, j: usize| lower[(n - 1 - i) * n + (n - 1 - j)];
    let mut inverse = vec![0.0; n * n];
    for column in 0..n {
        inverse[column * n + column] = 1.0 / v(column, column);
        for i in (0..column).rev() {
            let sum: f64 = (i + 1..=column).map(|l| v(i, l) * inverse[l * n + column]).sum();
            inverse[i * n + column] = -sum / v(i, i);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of inputs whose neighbors are alike: x[j] = 0.9 · x[j − 1] + noise, by an LCG (Knuth, MMIX).
    fn correlated(n_rows: usize, k: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut rows = Vec::new();
        for _ in 0..n_rows {
            let mut x = noise();
            rows.extend((0..k).map(|_| {
                x = 0.9 * x + noise();
                x
            }));
        }
        rows
    }

    /// Σ over rows of x of (Σⱼ (w[j] − ŵ[j]) · x[j])².
    fn error(rows: &[f32], w: &[f32], scales: &[f32], q: &[i8]) -> f64 {
        let of_row = |x: &[f32]| -> f64 {
            let each = x.iter().enumerate().map(|(j, &x)| {
                let scale = scales[if scales.len() == 1 { 0 } else { j / GROUP }];
                f64::from(w[j] - scale * f32::from(q[j])) * f64::from(x)
            });
            each.sum::<f64>().powi(2)
        };
        rows.chunks_exact(w.len()).map(of_row).sum()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        const N: usize = 7;
        let rows = correlated(40, N, 3);
        let mut h = vec![0.0; N * N];
        for x in rows.chunks_exact(N) {
            (0..N * N).for_each(|at| h[at] += f64::from(x[at / N]) * f64::from(x[at % N]));
        }
        let u = upper_factor_of_inverse(&h, N);
        for i in 0..N {
            for j in 0..N {
                // (H · Uᵀ · U)[i, j]
                let product: f64 =
                    (0..N).map(|l| h[i * N + l] * (0..N).map(|m| u[m * N + l] * u[m * N + j]).sum::<f64>()).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-9, "{i} {j}: {product}");
                assert!(i <= j || u[i * N + j] == 0.0);
            }
        }
    }

    /// Errors of new inputs fall, also where the last block and the last group are partial.
    #[test]
    fn errors_compensate_each_other() {
        for (format, k, most) in [
            (WeightFormat::Int4, 300, 0.4),
            (WeightFormat::Int8, 300, 0.4),
            (WeightFormat::Int4, 70, 0.4),
            (WeightFormat::Int3, 300, 0.4),
        ] {
            let mut moments = Moments::new(k);
            moments.add(&correlated(2000, k, 1), k);
            assert_eq!(moments.n_rows(), 2000);
            let feedback = Feedback::new(&moments).expect("inputs that are not zero");
            let (w, fresh) = (correlated(1, k, 5), correlated(500, k, 9));
            let nearest_scales = quantize::row_scales(format, &w);
            let (mut nearest, mut q, mut scales) = (vec![0; k], vec![0; k], Vec::new());
            quantize::row(format, &w, &nearest_scales, &mut nearest);
            feedback.row(format, &w, &mut scales, &mut q);
            assert_eq!(scales.len(), nearest_scales.len());
            let (before, after) = (error(&fresh, &w, &nearest_scales, &nearest), error(&fresh, &w, &scales, &q));
            assert!(after < most * before, "{format:?} {k}: {after} of {before}");
        }
    }

    #[test]
    fn rows_with_gaps_are_added_without_them() {
        let (k, stride, n) = (130, 144, 70);
        let rows = correlated(n, stride, 2);
        let dense: Vec<f32> = rows.chunks_exact(stride).flat_map(|row| &row[..k]).copied().collect();
        let (mut with_gaps, mut without) = (Moments::new(k), Moments::new(k));
        with_gaps.add(&rows, stride);
        dense.chunks(k * 2 * TOGETHER).for_each(|rows| without.add(rows, k));
        assert_eq!(with_gaps, without);
    }

    #[test]
    fn inputs_that_are_zero_or_no_numbers_give_no_feedback() {
        for value in [0.0, f32::NAN, f32::INFINITY] {
            let mut moments = Moments::new(40);
            moments.add(&[value; 40], 40);
            assert!(Feedback::new(&moments).is_none(), "{value}");
        }
    }
}
