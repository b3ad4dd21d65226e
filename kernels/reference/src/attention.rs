//! Causal attention with grouped queries over a KV cache, without positions (arXiv 2305.13245; Jamba has no rotary embedding).
//!
//! ```text
//! scores[j] = q[t, h] · k[j, g] · scale        g = h / (H / G), j up to and including the token itself
//! y[t, h]   = Σⱼ softmax(scores)[j] · v[j, g]
//! ```
//!
//! A sequence's cache is `[context, 2, G, E]`: per token the keys, then the values.

use jambac_graph::DType;

use crate::linear::dot;
use crate::softmax::probabilities;
use crate::tensor::round_to;

/// Appends the keys and values `[T, row]` of this step to each sequence's cache, rounded to the cache's dtype.
pub fn kv_append<C: AsRef<[f32]>>(
    caches: &[C],
    k: &[f32],
    v: &[f32],
    row: usize,
    lengths: &[usize],
    dtype: DType,
) -> Vec<Vec<f32>> {
    assert_eq!(caches.len(), lengths.len());
    let mut first = 0;
    let mut next = Vec::with_capacity(caches.len());
    for (cache, &length) in caches.iter().zip(lengths) {
        let mut cache = cache.as_ref().to_vec();
        for t in first..first + length {
            for values in [k, v] {
                cache.extend(values[t * row..(t + 1) * row].iter().map(|&x| round_to(dtype, x)));
            }
        }
        first += length;
        next.push(cache);
    }
    next
}

/// Heads of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// H, the heads of q.
    pub n_heads: usize,
    /// G, the heads of k and v; divides H.
    pub n_kv_heads: usize,
    /// E, elements of a head.
    pub d_head: usize,
    /// Multiplies the scores; E^−½ in Jamba.
    pub scale: f64,
}

/// q `[T, H·E]` over caches that include the tokens of this step; returns `[T, H·E]`.
pub fn attention<C: AsRef<[f32]>>(q: &[f32], caches: &[C], lengths: &[usize], heads: Heads) -> Vec<f32> {
    let Heads { n_heads, n_kv_heads, d_head, scale } = heads;
    let (q_row, kv_row) = (n_heads * d_head, n_kv_heads * d_head);
    let mut y = Vec::with_capacity(q.len());
    let mut first = 0;
    for (cache, &length) in caches.iter().zip(lengths) {
        let cache = cache.as_ref();
        let context = cache.len() / (2 * kv_row);
        let key = |j: usize, g: usize| &cache[j * 2 * kv_row + g * d_head..][..d_head];
        let value = |j: usize, g: usize| &cache[(j * 2 + 1) * kv_row + g * d_head..][..d_head];
        for t in 0..length {
            let visible = context - length + t + 1;
            for h in 0..n_heads {
                let g = h / (n_heads / n_kv_heads);
                let q = &q[(first + t) * q_row + h * d_head..][..d_head];
                let scores: Vec<f64> = (0..visible).map(|j| dot(q, key(j, g)) * scale).collect();
                let mut sums = vec![0.0f64; d_head];
                for (j, p) in probabilities(&scores).into_iter().enumerate() {
                    for (sum, &v) in sums.iter_mut().zip(value(j, g)) {
                        *sum += p * f64::from(v);
                    }
                }
                y.extend(sums.into_iter().map(|sum| sum as f32));
            }
        }
        first += length;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { n_heads: 2, n_kv_heads: 1, d_head: 1, scale: 1.0 };

    #[test]
    fn worked_numbers() {
        let ln_3 = 3f32.ln();
        // Keys 0 and ln 3, values 4 and 8; two query heads read the one KV head.
        let caches = kv_append(&[vec![]], &[0.0, ln_3], &[4.0, 8.0], 1, &[2], DType::F32);
        assert_eq!(caches, [[0.0, 4.0, ln_3, 8.0]]);
        // Token 0 sees itself alone. Token 1: head 0 weighs 1 : 3, so 1 + 6; head 1 (q = 0) weighs evenly.
        assert_eq!(attention(&[1.0, 0.0, 1.0, 0.0], &caches, &[2], HEADS), [4.0, 4.0, 7.0, 6.0]);
        // The same second token as a separate step.
        assert_eq!(attention(&[1.0, 0.0], &caches, &[1], HEADS), [7.0, 6.0]);
    }

    #[test]
    fn ragged() {
        let caches = kv_append(&[vec![1.0, 2.0], vec![]], &[0.0, 0.0], &[6.0, 9.0], 1, &[1, 1], DType::F32);
        assert_eq!(caches, [vec![1.0, 2.0, 0.0, 6.0], vec![0.0, 9.0]]);
        assert_eq!(attention(&[0.0, 0.0, 0.0, 0.0], &caches, &[1, 1], HEADS), [4.0, 4.0, 9.0, 9.0]);
    }

    #[test]
    fn query_heads_share_in_order() {
        // Four query heads, two KV heads: heads 0, 1 read the first, 2, 3 the second.
        let heads = Heads { n_heads: 4, n_kv_heads: 2, ..HEADS };
        let caches = kv_append(&[vec![]], &[0.0, 0.0], &[5.0, 7.0], 2, &[1], DType::F32);
        assert_eq!(attention(&[0.0; 4], &caches, &[1], heads), [5.0, 5.0, 7.0, 7.0]);
    }

    #[test]
    fn cache_rounds_what_joins_it() {
        // bf16 has 8 bits: 1 + 2⁻⁸ is a tie and goes to even.
        let caches = kv_append(&[vec![0.3, 0.7]], &[1.0 + 1.0 / 256.0], &[1.0 + 3.0 / 256.0], 1, &[1], DType::Bf16);
        assert_eq!(caches, [[0.3, 0.7, 1.0, 1.015_625]]);
    }
}
