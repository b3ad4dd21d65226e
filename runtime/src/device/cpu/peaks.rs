//! What this CPU can do at best, measured: the peaks that benchmarks are compared with.
//!
//! Bandwidth is that of reading memory that no cache holds, every thread a part of its own, in several streams: one alone is up
//! to a sixth slower. Arithmetic is that of independent multiply-adds in registers, as wide as the CPU has them. The best of a
//! few tries, as nothing makes either faster than it is.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Peaks of a number of threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Threads.
    pub n_threads: usize,
    /// Bytes read a second.
    pub bytes_per_s: f64,
    /// f32 operations a second, a multiply-add counting two.
    pub operations_per_s: f64,
}

/// Bytes that all threads read together: many times any cache.
const READ_BYTES: usize = 256 << 20;

/// Places at which a thread reads side by side.
const STREAMS: usize = 8;

/// Words of a cache line.
const LINE: usize = 8;

/// Rounds of multiply-adds.
const ROUNDS: usize = 4 << 20;

/// Independent sums: more than the latency of two units of four cycles, fewer than the registers.
const SUMS: usize = 10;

const TRIES: usize = 4;

impl Peaks {
    /// Measures the peaks; takes a quarter of a gigabyte and about half a second.
    pub fn measure(n_threads: usize) -> Peaks {
        let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
        let parts: Vec<&[u64]> = memory.chunks(memory.len().div_ceil(n_threads)).collect();
        let read = |thread: usize| black_box(sum(parts.get(thread).copied().unwrap_or(&[])));
        let bytes_per_s = READ_BYTES as f64 / seconds(n_threads, &|thread| _ = read(thread));
        let (multiply_adds, lanes) = widest();
        let operations = (n_threads * ROUNDS * SUMS * lanes * 2) as f64;
        let operations_per_s = operations / seconds(n_threads, &|_| multiply_adds());
        Peaks { n_threads, bytes_per_s, operations_per_s }
    }
}

/// Seconds that threads need for their parts together: the best try.
fn seconds(n_threads: usize, part: &(dyn Fn(usize) + Sync)) -> f64 {
    let barrier = Barrier::new(n_threads);
    let work = |thread: usize| {
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            barrier.wait();
            let began = Instant::now();
            part(thread);
            barrier.wait();
            best = best.min(began.elapsed().as_secs_f64());
        }
        best
    };
    std::thread::scope(|scope| {
        (1..n_threads).for_each(|thread| drop(scope.spawn(move || work(thread))));
        work(0)
    })
}

/// The sum of all words but what is left of the streams' last lines.
fn sum(words: &[u64]) -> u64 {
    let of_stream = words.len() / STREAMS;
    let mut streams: [_; STREAMS] =
        std::array::from_fn(|stream| words[stream * of_stream..][..of_stream].chunks_exact(LINE));
    let mut sums = [0_u64; LINE];
    for _ in 0..of_stream / LINE {
        for line in streams.iter_mut().filter_map(Iterator::next) {
            sums.iter_mut().zip(line).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// The widest multiply-adds of this CPU, and their lanes.
#[cfg(target_arch = "x86_64")]
fn widest() -> (fn(), usize) {
    use std::arch::is_x86_feature_detected;
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the feature that the function needs.
        (|| unsafe { x86::multiply_adds_512() }, 16)
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the features that the function needs.
        (|| unsafe { x86::multiply_adds_256() }, 8)
    } else {
        (x86::multiply_adds_128, 4)
    }
}

/// Other CPUs: one lane.
#[cfg(not(target_arch = "x86_64"))]
fn widest() -> (fn(), usize) {
    let multiply_adds = || {
        let mut sums = [1.0_f32; SUMS];
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = *sum * 0.5 + 0.25));
        black_box(sums);
    };
    (multiply_adds, 1)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ROUNDS, SUMS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_adds_512() {
        let (scale, shift) = (_mm512_set1_ps(0.5), _mm512_set1_ps(0.25));
        let mut sums = [shift; SUMS];
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, scale, shift)));
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_adds_256() {
        let (scale, shift) = (_mm256_set1_ps(0.5), _mm256_set1_ps(0.25));
        let mut sums = [shift; SUMS];
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, scale, shift)));
        black_box(sums);
    }

    /// The baseline: a product and a sum each.
    pub(super) fn multiply_adds_128() {
        // SAFETY: every x86-64 CPU has SSE2.
        unsafe {
            let (scale, shift) = (_mm_set1_ps(0.5), _mm_set1_ps(0.25));
            let mut sums = [shift; SUMS];
            (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm_add_ps(_mm_mul_ps(*sum, scale), shift)));
            black_box(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_those_of_a_computer() {
        let peaks = Peaks::measure(2);
        assert_eq!(peaks.n_threads, 2);
        assert!((1e8..1e13).contains(&peaks.bytes_per_s), "{peaks:?}");
        assert!((1e8..1e13).contains(&peaks.operations_per_s), "{peaks:?}");
    }

    #[test]
    fn every_word_is_read() {
        assert_eq!(sum(&[1; 64]), 64);
    }
}
