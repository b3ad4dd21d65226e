//! Mixture of experts: routing of tokens, products of experts, and the weighted sum.
//!
//! ```text
//! weights, experts = top_k(p)                           largest first, ties to the lower index
//! slot t·k + j belongs to expert experts[t, j]; slots sorted by expert; offsets where each expert's begin
//! y[slot] = x[row of slot] · weight[expert]ᵀ
//! out[t]  = Σⱼ weights[t, j] · y[t, j]
//! ```

use crate::linear::dot;

/// The `k` largest of each row of `cols`: their values `[T, k]` and indices `[T, k]`.
pub fn top_k(p: &[f32], cols: usize, k: usize) -> (Vec<f32>, Vec<i32>) {
    let (mut weights, mut experts) = (Vec::new(), Vec::new());
    for row in p.chunks_exact(cols) {
        let mut order: Vec<usize> = (0..cols).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        weights.extend(order[..k].iter().map(|&e| row[e]));
        experts.extend(order[..k].iter().map(|&e| e as i32));
    }
    (weights, experts)
}

/// Slots `[T, k]` in order of expert (equal experts in order of slot), and the first of each expert `[E + 1]`.
///
/// # Errors
/// The first index that is not an expert.
pub fn moe_permute(experts: &[i32], n_experts: usize) -> Result<(Vec<i32>, Vec<i32>), i32> {
    let mut offsets = vec![0i32; n_experts + 1];
    for &expert in experts {
        let end = usize::try_from(expert).ok().and_then(|expert| offsets.get_mut(expert + 1)).ok_or(expert)?;
        *end += 1;
    }
    for expert in 0..n_experts {
        offsets[expert + 1] += offsets[expert];
    }
    let mut slots: Vec<i32> = (0..experts.len() as i32).collect();
    slots.sort_by_key(|&slot| experts[slot as usize]);
    Ok((slots, offsets))
}

/// Operands of [`grouped_linear`].
#[derive(Clone, Copy, Debug)]
pub struct GroupedLinear<'a> {
    /// `[T, I]` (one row for all slots of a token) or `[T, k, I]` (a row per slot).
    pub x: &'a [f32],
    /// `[E, N, I]`.
    pub weight: &'a [f32],
    /// `[T, k]`, from [`moe_permute`].
    pub slots: &'a [i32],
    /// `[E + 1]`, from [`moe_permute`].
    pub offsets: &'a [i32],
    /// I.
    pub n_in: usize,
    /// N.
    pub n_out: usize,
}

/// Each slot's row times the weight of the slot's expert: `[T, k, N]`.
pub fn grouped_linear(grouped: &GroupedLinear) -> Vec<f32> {
    let &GroupedLinear { x, weight, slots, offsets, n_in, n_out } = grouped;
    let n_rows = x.len() / n_in;
    let mut y = vec![0.0; slots.len() * n_out];
    for (expert, bounds) in offsets.windows(2).enumerate() {
        let weight = &weight[expert * n_out * n_in..][..n_out * n_in];
        for &slot in &slots[bounds[0] as usize..bounds[1] as usize] {
            let slot = slot as usize;
            // slots.len() / n_rows is k for rows per token, 1 for rows per slot.
            let row = slot / (slots.len() / n_rows);
            let x = &x[row * n_in..][..n_in];
            for (y, weight) in y[slot * n_out..][..n_out].iter_mut().zip(weight.chunks_exact(n_in)) {
                *y = dot(x, weight) as f32;
            }
        }
    }
    y
}

/// y `[T, k, D]` and weights `[T, k]` to `[T, D]`.
pub fn moe_combine(y: &[f32], weights: &[f32], k: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(y.len() / k);
    for (y, weights) in y.chunks_exact(k * cols).zip(weights.chunks_exact(k)) {
        for col in 0..cols {
            let sum: f64 = (0..k).map(|j| f64::from(weights[j]) * f64::from(y[j * cols + col])).sum();
            out.push(sum as f32);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_first_ties_low() {
        let (weights, experts) = top_k(&[0.1, 0.4, 0.1, 0.4, 0.3, 0.2, 0.3, 0.2], 4, 3);
        assert_eq!(experts, [1, 3, 0, 0, 2, 1]);
        assert_eq!(weights, [0.4, 0.4, 0.1, 0.3, 0.3, 0.2]);
    }

    #[test]
    fn slots_by_expert() {
        // Tokens 0, 1, 2 go to experts (2, 0), (2, 3), (0, 2): slots 0 … 5.
        let (slots, offsets) = moe_permute(&[2, 0, 2, 3, 0, 2], 4).unwrap();
        assert_eq!(slots, [1, 4, 0, 2, 5, 3]);
        assert_eq!(offsets, [0, 2, 2, 5, 6]);
        assert_eq!(moe_permute(&[0, 4], 4), Err(4));
        assert_eq!(moe_permute(&[-1], 4), Err(-1));
    }

    #[test]
    fn grouped_then_combined() {
        // Two tokens of [1] and [2]; expert e multiplies by [e + 1, 10 (e + 1)].
        let weight = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        let (slots, offsets) = moe_permute(&[2, 0, 1, 2], 3).unwrap();
        let base =
            GroupedLinear { x: &[1.0, 2.0], weight: &weight, slots: &slots, offsets: &offsets, n_in: 1, n_out: 2 };
        let y = grouped_linear(&base);
        assert_eq!(y, [3.0, 30.0, 1.0, 10.0, 4.0, 40.0, 6.0, 60.0]);
        assert_eq!(moe_combine(&y, &[0.5, 0.25, 1.0, 0.5], 2, 2), [1.75, 17.5, 7.0, 70.0]);
        // A row per slot.
        let y = grouped_linear(&GroupedLinear { x: &[1.0, 2.0, 3.0, 4.0], ..base });
        assert_eq!(y, [3.0, 30.0, 2.0, 20.0, 6.0, 60.0, 12.0, 120.0]);
    }
}
