//! Measures this CPU's peak bandwidth and peak f32 arithmetic, for comparison with benchmarks.
//!
//! Bandwidth: each thread reads its part of an array larger than the caches, in 1, 4 or 8 streams; the fastest counts.
//! Arithmetic: independent multiply-adds in the widest vector registers. Each is the median of several tries; on a shared
//! machine the best try is not sustainable.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Peak rates of several threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Number of threads.
    pub n_threads: usize,
    /// Bytes read per second.
    pub bytes_per_s: f64,
    /// f32 operations per second; a multiply-add counts as two.
    pub operations_per_s: f64,
}

/// Size of the array, much larger than the caches.
const READ_BYTES: usize = 256 << 20;

/// u64 words per cache line.
const LINE: usize = 8;

/// Multiply-adds per accumulator.
const ROUNDS: usize = 4 << 20;

/// Independent accumulators: at least 2 units × 4 cycles of latency (4 units on Arm), and no more than fit in registers.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 20 } else { 10 };

const TRIES: usize = 5;

impl Peaks {
    /// Measures the peaks. Uses 256 MiB of memory and takes about a second.
    pub fn measure(n_threads: usize) -> Peaks {
        let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
        let parts: Vec<&[u64]> = memory.chunks(memory.len().div_ceil(n_threads)).collect();
        let part = |thread: usize| parts.get(thread).copied().unwrap_or(&[]);
        let reads: [fn(&[u64]) -> u64; 3] = [sum::<1>, sum::<4>, sum::<8>];
        let times = reads.map(|read| seconds(n_threads, &|thread| _ = black_box(read(part(thread)))));
        let bytes_per_s = READ_BYTES as f64 / times.into_iter().fold(f64::INFINITY, f64::min);
        let (multiply_adds, lanes) = widest();
        let operations = (n_threads * ROUNDS * SUMS * lanes * 2) as f64;
        let operations_per_s = operations / seconds(n_threads, &|_| multiply_adds());
        Peaks { n_threads, bytes_per_s, operations_per_s }
    }
}

impl Peaks {
    /// The median of each rate of several measurements with the same number of threads; `None` of none.
    pub fn median(of: &[Peaks]) -> Option<Peaks> {
        let n_threads = of.first()?.n_threads;
        let median = |rate: fn(&Peaks) -> f64| {
            let mut rates: Vec<f64> = of.iter().map(rate).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (bytes_per_s, operations_per_s) = (median(|x| x.bytes_per_s), median(|x| x.operations_per_s));
        Some(Peaks { n_threads, bytes_per_s, operations_per_s })
    }
}

/// Median time in which all threads finish their parts, in seconds.
fn seconds(n_threads: usize, part: &(dyn Fn(usize) + Sync)) -> f64 {
    let barrier = Barrier::new(n_threads);
    let work = |thread: usize| {
        let mut times = [0.0; TRIES];
        for time in &mut times {
            barrier.wait();
            let began = Instant::now();
            part(thread);
            barrier.wait();
            *time = began.elapsed().as_secs_f64();
        }
        times.sort_by(f64::total_cmp);
        times[TRIES / 2]
    };
    std::thread::scope(|scope| {
        (1..n_threads).for_each(|thread| drop(scope.spawn(move || work(thread))));
        work(0)
    })
}

/// Sums all words, read in `STREAMS` concurrent streams. Ignores incomplete lines at the ends of streams.
fn sum<const STREAMS: usize>(words: &[u64]) -> u64 {
    let (lines, _) = words.as_chunks::<LINE>();
    let of_stream = lines.len() / STREAMS;
    let streams: [&[[u64; LINE]]; STREAMS] = std::array::from_fn(|stream| &lines[stream * of_stream..][..of_stream]);
    let mut sums = [0_u64; LINE];
    for line in 0..of_stream {
        for stream in streams {
            sums.iter_mut().zip(&stream[line]).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
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

#[cfg(target_arch = "aarch64")]
fn widest() -> (fn(), usize) {
    (arm::multiply_adds_128, 4)
}

/// Other CPUs: one lane.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn widest() -> (fn(), usize) {
    let multiply_adds = || {
        let mut sums = [1.0_f32; SUMS];
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = *sum * 0.5 + 0.25));
        black_box(sums);
    };
    (multiply_adds, 1)
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::{ROUNDS, SUMS};

    pub(super) fn multiply_adds_128() {
        // SAFETY: every 64-bit Arm CPU that runs Linux has these vectors.
        unsafe {
            let (scale, shift) = (vdupq_n_f32(0.5), vdupq_n_f32(0.25));
            let mut sums = [shift; SUMS];
            (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(shift, *sum, scale)));
            black_box(sums);
        }
    }
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
    fn peaks_are_rates() {
        let peaks = Peaks::measure(2);
        assert_eq!(peaks.n_threads, 2);
        // Any speed will do; the upper bounds catch a wrong unit.
        assert!(peaks.bytes_per_s > 0.0 && peaks.bytes_per_s < 1e13, "{peaks:?}");
        assert!(peaks.operations_per_s > 0.0 && peaks.operations_per_s < 1e13, "{peaks:?}");
    }

    #[test]
    fn every_word_is_read() {
        assert_eq!([sum::<1>(&[1; 64]), sum::<4>(&[1; 64]), sum::<8>(&[1; 64])], [64; 3]);
    }
}
