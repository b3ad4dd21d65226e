//! Numbers to test with, and comparisons of results.

use half::bf16;
use jambac_reference::{Tolerance, compare};

/// Numbers between −1 and 1, always the same for a seed (xorshift64*, arXiv 1402.6246).
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Numbers from 0 to below `end`.
pub fn random_indices(seed: u64, n: usize, end: usize) -> Vec<i32> {
    random(seed, n).iter().map(|x| (((x + 1.0) / 2.0 * end as f32) as usize).min(end - 1) as i32).collect()
}

/// Panics with the differences when found is not close to expected.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: Tolerance) {
    let report = compare(found, expected, tolerance);
    println!("{what}: max |Δ| {:.1e}, relative RMS {:.1e}", report.max_abs, report.nmse.sqrt());
    assert!(report.ok(), "{what}: {report}");
}

/// Panics when the bits differ.
#[track_caller]
pub fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    let differs = found.iter().zip(expected).position(|(found, expected)| found.to_bits() != expected.to_bits());
    if let Some(at) = differs {
        panic!("{what}: element {at} is {:e}, expected the bits of {:e}", found[at], expected[at]);
    }
}

/// The nearest bf16.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}
