//! The body of the kernel that draws weights.

use super::Spec;
use crate::cpu::builder::{Num, Value};
use crate::hopper::asm::Effect;
use crate::hopper::{Builder, rows};
use crate::kernel::Elem;
use jamba_plan::quantize::{COLUMN_GROUP, column};
use jamba_plan::synthetic::{INDEX_FACTOR, MIX_FACTORS, MIX_SHIFTS, STORE_BYTES, SUM_MEAN};

/// The distribution of the values.
#[derive(Clone, Copy)]
enum Distribution {
    Normal,
    Uniform,
}

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let draw = |distribution| Rows::new(b, spec.format, distribution).draw();
    b.if_else(b.scalar("normal").ne(0), || draw(Distribution::Normal), || draw(Distribution::Uniform));
}

struct Rows<'a, 'm> {
    b: &'a Builder<'m>,
    format: Elem,
    distribution: Distribution,
    scale: Value,
    offset: Value,
    unit: Value,
}

impl<'a, 'm> Rows<'a, 'm> {
    fn new(b: &'a Builder<'m>, format: Elem, distribution: Distribution) -> Self {
        let float = |name: &str| b.scalar(name).to_i32().bitcast(Num::F32);
        Rows { b, format, distribution, scale: float("scale"), offset: float("offset"), unit: float("unit") }
    }

    /// Values that a thread stores at once.
    fn lanes(&self) -> usize {
        STORE_BYTES as usize / self.format.bytes()
    }

    fn draw(&self) {
        let b = self.b;
        let [rows, stride, run, run_stride] =
            ["rows", "stride", "run", "run_stride"].map(|name| b.scalar(name).to_i32());
        let [key, first, n, cols] = ["key", "first", "n", "cols"].map(|name| b.scalar(name).to_i64());
        b.while_(
            b.block(),
            |row| row.lt(rows),
            |row| {
                // 1. find the row
                let place = row / run * run_stride + row % run;
                let row_bytes = stride.to_i64() * self.format.bytes();
                let to = b.at(b.pointer("out"), place.to_i64() * row_bytes);
                let before = row.to_i64() * cols;
                let left = (n - before).min(cols).max(0).to_i32();
                let counter = self.counter(key, first + before);

                let at_once = self.lanes() * b.threads_per_block() as usize;
                b.for_each(b.thread() * self.lanes(), stride, at_once, |at| {
                    // 2. draw
                    let (column, offsets) = self.columns(at);
                    let (counter, left) = (self.counter(counter, column.to_i64()), left - column);
                    let values = offsets.into_iter().map(|offset| {
                        let is_inside = b.i32(offset as i32).lt(left);
                        let counter = self.counter(counter, b.i64(offset as i64));
                        is_inside.select(self.value(counter), 0.0)
                    });
                    // 3. store
                    let packed = self.packed(&values.collect::<Vec<_>>());
                    b.store(packed, b.at(to, at * self.format.bytes()));
                });
                row + b.n_blocks()
            },
        );
    }

    /// The first column of the values stored from element `at` on, and the column offsets of all of them.
    fn columns(&self, at: Value) -> (Value, Vec<usize>) {
        if !matches!(self.format, Elem::I8 | Elem::F8) {
            return (at, (0..self.lanes()).collect());
        }
        // The columns of the first 16 bytes of a group; each further 16 bytes hold the same columns plus two.
        let stored: Vec<usize> = (0..COLUMN_GROUP).filter(|&j| column(j) < self.lanes()).collect();
        let mut offsets = stored.clone();
        offsets.sort_by_key(|&j| column(j));
        let group = at & -(COLUMN_GROUP as i32);
        let two_each = (at - group) >> (self.lanes().ilog2() - 1);
        (group + two_each, offsets)
    }

    /// The counter `steps` draws after `counter`.
    fn counter(&self, counter: Value, steps: Value) -> Value {
        counter + steps * INDEX_FACTOR as i64
    }

    /// The value of a counter.
    fn value(&self, counter: Value) -> Value {
        let folded = |x: Value, bits: u32| x ^ (x >> bits);
        let [first, second, last] = MIX_SHIFTS;
        let x = folded(counter, first) * MIX_FACTORS[0] as i64;
        let x = folded(x, second) * MIX_FACTORS[1] as i64;
        let bits = folded(x, last);
        let integer = match self.distribution {
            Distribution::Normal => {
                let halves = [bits.to_i32(), (bits >> 32).to_i32()];
                let sums = halves.map(|half| (half & 0xffff) + (half >> 16));
                sums[0] + sums[1] - SUM_MEAN
            }
            Distribution::Uniform => (bits >> 40).to_i32(),
        };
        let scaled = self.rounded("mul", integer.to_f32(), self.scale);
        self.rounded("add", scaled, self.offset)
    }

    /// An operation with its own rounding that keeps subnormals.
    fn rounded(&self, operation: &str, x: Value, y: Value) -> Value {
        self.b.asm1(Effect::Pure, &format!("{operation}.rn.f32 $0, $1, $2;"), &[x, y], Num::F32)
    }

    /// Packs values into 16 bytes.
    fn packed(&self, values: &[Value]) -> Value {
        let b = self.b;
        match self.format {
            Elem::F32 => rows::vector(values),
            Elem::Bf16 => {
                let pairs: Vec<Value> = values.chunks_exact(2).map(|pair| b.pack_bf16(pair[0], pair[1])).collect();
                rows::vector(&pairs)
            }
            Elem::I8 | Elem::F8 => {
                let word = |four: &[Value]| {
                    let bytes = four.iter().zip([0, 8, 16, 24]).map(|(&x, bits)| {
                        let integer = if self.format == Elem::F8 { self.e4m3(x) } else { self.integer(x) };
                        if bits == 24 { integer << bits } else { (integer & 0xff) << bits }
                    });
                    bytes.reduce(|x, y| x | y).expect("four bytes")
                };
                rows::vector(&values.chunks_exact(4).map(word).collect::<Vec<_>>())
            }
            other => panic!("weights of {} are not drawn", other.name()),
        }
    }

    /// Quantizes a value to E4M3 and returns the bits, as [`jamba_plan::quantize::e4m3`] does.
    fn e4m3(&self, x: Value) -> Value {
        let b = self.b;
        let bits = self.rounded("div", x, self.unit).bitcast(Num::I32);
        let magnitude = (bits & 0x7fff_ffff).min(448f32.to_bits() as i32);
        let exponent = ((magnitude >> 23) - 127).max(-6);
        // Times 2^(3 − exponent): at most 16 steps of the exponent.
        let unit = ((b.i32(127 + 3) - exponent) << 23).bitcast(Num::F32);
        let steps = self.rounded("mul", magnitude.bitcast(Num::F32), unit);
        let steps = b.asm1(Effect::Pure, "cvt.rni.s32.f32 $0, $1;", &[steps], Num::I32);
        // A scale of 0 has the unit infinity, and all its numbers are 0.
        let sign = self.unit.lt(f32::INFINITY).select((bits >> 24) & 0x80, 0);
        (((exponent + 6) << 3) + steps) | sign
    }

    /// Quantizes a value to int8, as an i32.
    fn integer(&self, x: Value) -> Value {
        let b = self.b;
        let quotient = self.rounded("div", x, self.unit);
        let nearest = b.asm1(Effect::Pure, "cvt.rni.s32.f32 $0, $1;", &[quotient], Num::I32);
        nearest.min(127).max(-127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The assumption of [`Rows::columns`] about the int8 order: 16 bytes later, the same columns plus two.
    #[test]
    fn sixteen_bytes_hold_the_columns_of_the_first_two_further() {
        for j in (0..3 * COLUMN_GROUP).filter(|j| j % 8 < 6) {
            assert_eq!(column(j + 2), column(j) + 16);
        }
    }
}
