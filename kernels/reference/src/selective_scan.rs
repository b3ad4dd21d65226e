//! The Mamba-1 recurrence (arXiv 2312.00752, equation 2 with the discretisation of section 3.6) over a ragged batch.
//!
//! ```text
//! h[c, n] = exp(dt[t, c] · A[c, n]) · h[c, n] + dt[t, c] · u[t, c] · b[t, n]        A = −exp(a_log)
//! y[t, c] = Σₙ h[c, n] · c[t, n]
//! ```
//!
//! and, if gated, (y + d · u) · silu(z). h is rounded to f32 after every token, as between steps.

use crate::activation::silu;

/// Operands of the scans; C is `d_inner`, N is `d_state`.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Step sizes after softplus, `[T, C]`.
    pub dt: &'a [f32],
    /// Inputs after convolution and SiLU, `[T, C]`.
    pub u: &'a [f32],
    /// log(−A), `[C, N]`.
    pub a_log: &'a [f32],
    /// `[T, N]`.
    pub b: &'a [f32],
    /// `[T, N]`.
    pub c: &'a [f32],
    /// h, `[S, C, N]`.
    pub state: &'a [f32],
    /// Tokens of each sequence in this step; their sum is T.
    pub lengths: &'a [usize],
    /// C.
    pub d_inner: usize,
    /// N.
    pub d_state: usize,
}

/// y `[T, C]` and the next state `[S, C, N]`.
pub fn selective_scan(scan: &Scan) -> (Vec<f32>, Vec<f32>) {
    let &Scan { dt, u, a_log, b, c, state, lengths, d_inner, d_state } = scan;
    assert_eq!(state.len(), lengths.len() * d_inner * d_state);
    let a: Vec<f64> = a_log.iter().map(|&a_log| -f64::from(a_log).exp()).collect();
    let mut h = state.to_vec();
    let mut y = vec![0.0; u.len()];
    let mut t = 0;
    for (h, &length) in h.chunks_exact_mut(d_inner * d_state).zip(lengths) {
        for _ in 0..length {
            let (b, c) = (&b[t * d_state..][..d_state], &c[t * d_state..][..d_state]);
            for channel in 0..d_inner {
                let (dt, u) = (f64::from(dt[t * d_inner + channel]), f64::from(u[t * d_inner + channel]));
                let mut sum = 0.0;
                for n in 0..d_state {
                    let lane = channel * d_state + n;
                    h[lane] = ((dt * a[lane]).exp() * f64::from(h[lane]) + dt * u * f64::from(b[n])) as f32;
                    sum += f64::from(h[lane]) * f64::from(c[n]);
                }
                y[t * d_inner + channel] = sum as f32;
            }
            t += 1;
        }
    }
    (y, h)
}

/// (selective_scan + d · u) · silu(z), with d `[C]` and z `[T, C]`; each of the four steps rounds, as separate ops would.
pub fn gated_selective_scan(scan: &Scan, d: &[f32], z: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut y, state) = selective_scan(scan);
    for (i, y) in y.iter_mut().enumerate() {
        *y = (*y + d[i % scan.d_inner] * scan.u[i]) * silu(z[i]);
    }
    (y, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    // One channel, two states; A = −1 and −2, so that with dt = ln 2 the decays are 1/2 and 1/4.
    const LN_2: f32 = std::f32::consts::LN_2;
    const BASE: Scan = Scan {
        dt: &[LN_2, LN_2],
        u: &[1.0, 2.0],
        a_log: &[0.0, LN_2],
        b: &[1.0, 0.0, 0.0, 1.0],
        c: &[1.0, 1.0, 1.0, 1.0],
        state: &[8.0, 16.0],
        lengths: &[2],
        d_inner: 1,
        d_state: 2,
    };

    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-6 * e.abs()), "{found:?} {expected:?}");
    }

    #[test]
    fn worked_numbers() {
        let (y, h) = selective_scan(&BASE);
        // t = 0: h = [8/2 + ln2·1·1, 16/4] = [4.6931, 4]; t = 1: h = [2.3466, 1 + ln2·2·1] = [2.3466, 2.3863].
        near(&y, &[8.693_147, 4.732_868]);
        near(&h, &[2.346_573_6, 2.386_294_4]);
    }

    #[test]
    fn gate_and_skip() {
        let (y, _) = gated_selective_scan(&BASE, &[0.5], &[1.0, -2.0]);
        // (8.6931 + 0.5·1) · silu(1) = 9.1931 · 0.73106; (4.7329 + 0.5·2) · silu(−2) = 5.7329 · −0.23841.
        near(&y, &[6.720_728, -1.366_749]);
    }

    #[test]
    fn two_sequences_do_not_meet() {
        let ragged = Scan { lengths: &[1, 1], state: &[8.0, 16.0, 0.0, 0.0], ..BASE };
        let (y, h) = selective_scan(&ragged);
        near(&y, &[8.693_147, 1.386_294_4]);
        near(&h, &[4.693_147, 4.0, 0.0, 1.386_294_4]);
    }

    #[test]
    fn chunks_give_the_same_bits() {
        let (y, h) = selective_scan(&BASE);
        let first =
            Scan { dt: &BASE.dt[..1], u: &BASE.u[..1], b: &BASE.b[..2], c: &BASE.c[..2], lengths: &[1], ..BASE };
        let (y0, h0) = selective_scan(&first);
        let rest = Scan {
            dt: &BASE.dt[1..],
            u: &BASE.u[1..],
            b: &BASE.b[2..],
            c: &BASE.c[2..],
            lengths: &[1],
            state: &h0,
            ..BASE
        };
        let (y1, h1) = selective_scan(&rest);
        assert_eq!((y, h), ([y0, y1].concat(), h1));
    }
}
