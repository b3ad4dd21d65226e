//! The mapped bytes of a tensor, and its elements as f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::blocks;
use crate::index::{DType, TensorInfo, Values};

/// A parameter of an open checkpoint, with its mapped bytes. Elements of 8 bits are widened without their scales, blocks with them.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    pub info: &'a TensorInfo,
    /// Row-major, little-endian, without alignment.
    pub bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Size of the first dimension; 1 for a scalar.
    pub fn n_rows(&self) -> usize {
        self.info.shape.first().copied().unwrap_or(1)
    }

    /// Number of elements per index of the first dimension.
    pub fn row_len(&self) -> usize {
        self.info.shape.iter().skip(1).product()
    }

    /// The bytes of row `row` of the first dimension, as stored.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        let row_bytes = self.info.dtype.bytes_of(self.row_len());
        assert!(row < self.n_rows(), "{} has {} rows, not {row}", self.info.name, self.n_rows());
        &self.bytes[row * row_bytes..][..row_bytes]
    }

    /// Widens row `row` of the first dimension into `out`, which takes [`TensorView::row_len`] elements.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        widen(self.info.dtype, self.row_bytes(row), out);
        restore(self.info.values, out);
    }

    /// Row `row` of the first dimension, if elements are 8-bit integers.
    pub fn row_i8(&self, row: usize) -> Option<impl ExactSizeIterator<Item = i8> + use<'a>> {
        (self.info.dtype == DType::I8).then(|| self.row_bytes(row).iter().map(|&byte| byte as i8))
    }

    /// Widens the elements from `start` (in the flat, row-major order) into all of `out`.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn range_f32(&self, start: usize, out: &mut [f32]) {
        let (dtype, (in_block, size)) = (self.info.dtype, self.info.dtype.block());
        let (mut at, mut rest) = (start, &mut *out);
        while !rest.is_empty() {
            let (lead, begin) = (at % in_block, at / in_block * size);
            let in_blocks = if lead == 0 { rest.len() / in_block * in_block } else { 0 };
            let n = if in_blocks > 0 { in_blocks } else { rest.len().min(in_block - lead) };
            let (taken, after) = rest.split_at_mut(n);
            if in_blocks > 0 {
                widen(dtype, &self.bytes[begin..begin + dtype.bytes_of(n)], taken);
            } else {
                let mut block = [0.0; blocks::MOST];
                blocks::widen(dtype, &self.bytes[begin..begin + size], &mut block[..in_block]);
                taken.copy_from_slice(&block[lead..lead + n]);
            }
            (at, rest) = (at + n, after);
        }
        restore(self.info.values, out);
    }

    /// All elements, widened.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.info.n_elements()];
        self.range_f32(0, &mut out);
        out
    }

    /// The elements one by one, widened, row-major.
    pub fn iter_f32(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        let view = *self;
        (0..self.info.n_elements()).map(move |at| {
            let mut element = [0.0];
            view.range_f32(at, &mut element);
            element[0]
        })
    }
}

/// The values that `Values` says the elements are made of.
fn restore(values: Values, out: &mut [f32]) {
    match values {
        Values::Same => {}
        Values::NegatedExponentials => out.iter_mut().for_each(|element| *element = logarithm(*element)),
    }
}

/// The shortest number whose negated exponential, rounded to f32, is `element`, give or take a bit; NaN unless that is negative.
fn logarithm(element: f32) -> f32 {
    let exact = f64::from(-element).ln();
    let is_it = |found: f32| {
        let error = f64::from(found).exp() / -f64::from(element) - 1.0;
        error.abs() <= 2.0 * f64::from(f32::EPSILON)
    };
    let short = [bf16::from_f64(exact).to_f32(), f16::from_f64(exact).to_f32()];
    short.into_iter().find(|&found| is_it(found)).unwrap_or(exact as f32)
}

/// Decodes `bytes` into `out`. Types of single elements widen to f32 exactly; of blocks, each product and sum is rounded to f32.
fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), dtype.bytes_of(out.len()), "bytes of as many {dtype} elements as there is room for");
    match dtype {
        DType::F32 => {
            let (elements, _) = bytes.as_chunks();
            elements.iter().zip(out).for_each(|(element, out)| *out = f32::from_le_bytes(*element));
        }
        DType::Bf16 => {
            let (elements, _) = bytes.as_chunks();
            elements.iter().zip(out).for_each(|(element, out)| *out = bf16::from_le_bytes(*element).to_f32());
        }
        DType::F16 => {
            // In blocks, so that half can use the processor's conversion; elements may be unaligned in the file.
            const BLOCK: usize = 256;
            let mut block = [f16::ZERO; BLOCK];
            for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
                let (elements, _) = bytes.as_chunks();
                elements.iter().zip(&mut block).for_each(|(element, half)| *half = f16::from_le_bytes(*element));
                block[..out.len()].convert_to_f32_slice(out);
            }
        }
        DType::I8 | DType::F8E4M3 | DType::F8E5M2 => {
            let values: [f32; 256] = std::array::from_fn(|byte| widen_byte(dtype, byte as u8));
            bytes.iter().zip(out).for_each(|(&byte, out)| *out = values[usize::from(byte)]);
        }
        DType::U8 | DType::I32 | DType::U32 | DType::I64 => unreachable!("{dtype} has no values"),
        blocks => {
            let (elements, size) = blocks.block();
            let pairs = bytes.chunks_exact(size).zip(out.chunks_exact_mut(elements));
            pairs.for_each(|(block, out)| blocks::widen(dtype, block, out));
        }
    }
}

/// The value of an 8-bit element without its scale.
fn widen_byte(dtype: DType, byte: u8) -> f32 {
    match dtype {
        DType::I8 => f32::from(byte as i8),
        DType::F8E5M2 => f16::from_bits(u16::from(byte) << 8).to_f32(),
        DType::F8E4M3 => {
            let (exponent, mantissa) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
            let magnitude = match (exponent, mantissa) {
                (15, 7) => f32::NAN,
                (0, _) => mantissa as f32 / 512.0,
                _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
            };
            if byte < 128 { magnitude } else { -magnitude }
        }
        other => unreachable!("an element of {other} has no 8 bits"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A [rows, 3] tensor over `bytes`.
    fn info(dtype: DType, bytes: &[u8]) -> TensorInfo {
        let shape = vec![bytes.len() / dtype.block().1 / 3, 3];
        TensorInfo { name: "t".into(), shard_idx: 0, dtype, shape, byte_range: 0..bytes.len(), values: Values::Same }
    }

    /// Each element by `half` and the standard library, as bits, so that NaNs compare.
    fn one_by_one(dtype: DType, bytes: &[u8]) -> Vec<u32> {
        let widen = |element: &[u8]| match dtype {
            DType::F32 => f32::from_le_bytes(element.try_into().unwrap()),
            DType::Bf16 => bf16::from_bits(u16::from_le_bytes(element.try_into().unwrap())).to_f32_const(),
            DType::F16 => f16::from_bits(u16::from_le_bytes(element.try_into().unwrap())).to_f32_const(),
            _ => unreachable!("{dtype} has a test of its own"),
        };
        bytes.chunks_exact(dtype.block().1).map(|element| widen(element).to_bits()).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_half_widens_as_the_half_crate_says() {
        // One byte in front, so that no element is aligned; 3 · 21,845 + 1 elements, so the last is left out.
        let all: Vec<u8> = [0].into_iter().chain((0..u16::MAX).flat_map(u16::to_le_bytes)).collect();
        for dtype in [DType::Bf16, DType::F16] {
            let bytes = &all[1..];
            let info = info(dtype, bytes);
            let view = TensorView { info: &info, bytes };
            let expected = one_by_one(dtype, bytes);
            assert_eq!(bits(&view.to_f32_vec()), expected);
            assert_eq!(bits(&view.iter_f32().collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn elements_of_8_bits_are_the_numbers_that_their_formats_say() {
        let widen = |dtype, bytes: &[u8]| {
            let info = TensorInfo {
                name: "t".into(),
                shard_idx: 0,
                dtype,
                shape: vec![bytes.len()],
                byte_range: 0..bytes.len(),
                values: Values::Same,
            };
            let view = TensorView { info: &info, bytes };
            let whole = view.to_f32_vec();
            assert_eq!(bits(&view.iter_f32().collect::<Vec<_>>()), bits(&whole));
            whole
        };
        assert_eq!(widen(DType::I8, &[0, 1, 127, 128, 255]), [0.0, 1.0, 127.0, -128.0, -1.0]);
        // Zero, the smallest, the largest below normal, the smallest normal, 1, the largest, and a negative.
        let e4m3 = widen(DType::F8E4M3, &[0, 1, 7, 8, 0x38, 0x7e, 0xc4]);
        assert_eq!(e4m3, [0.0, 1.0 / 512.0, 7.0 / 512.0, 1.0 / 64.0, 1.0, 448.0, -3.0]);
        let e5m2 = widen(DType::F8E5M2, &[0, 1, 4, 0x3c, 0x7b, 0x7c, 0xc2]);
        assert_eq!(e5m2, [0.0, 1.0 / 65536.0, 1.0 / 16384.0, 1.0, 57344.0, f32::INFINITY, -3.0]);
        assert_eq!(widen(DType::F8E4M3, &[0x80])[0].to_bits(), (-0f32).to_bits());
        let all: Vec<u8> = (0..=255).collect();
        for (dtype, n_nans) in [(DType::F8E4M3, 2), (DType::F8E5M2, 6)] {
            let values = widen(dtype, &all);
            assert_eq!(values.iter().filter(|value| value.is_nan()).count(), n_nans, "{dtype}");
            assert!(values[..0x7c].is_sorted_by(|a, b| a < b), "{dtype} grows with its bits");
        }
    }

    proptest! {
        #[test]
        fn rows_and_ranges_are_parts_of_the_whole(
            dtype in prop::sample::select(vec![DType::F32, DType::Bf16, DType::F16]),
            mut bytes in prop::collection::vec(any::<u8>(), 1..4000),
        ) {
            bytes.truncate(bytes.len() / 12 * 12);
            let info = info(dtype, &bytes);
            let view = TensorView { info: &info, bytes: &bytes };
            let whole = one_by_one(dtype, &bytes);
            prop_assert_eq!(bits(&view.to_f32_vec()), &whole[..]);
            for row in 0..view.n_rows() {
                let mut out = [0.0; 3];
                view.row_f32(row, &mut out);
                prop_assert_eq!(bits(&out), &whole[3 * row..][..3]);
            }
            let mut out = vec![0.0; whole.len() / 2];
            view.range_f32(whole.len() / 3, &mut out);
            prop_assert_eq!(bits(&out), &whole[whole.len() / 3..][..out.len()]);
        }
    }
}
