//! The body of the kernel that draws weights.

use super::Spec;
use crate::cpu::builder::{Compare, Num, Value};
use crate::hopper::asm::Effect;
use crate::hopper::{Builder, rows};
use crate::kernel::Elem;
use jamba_plan::quantize::{COLUMN_GROUP, column};
use jamba_plan::synthetic::{INDEX_FACTOR, MIX_FACTORS, MIX_SHIFTS, STORE_BYTES, SUM_MEAN};

/// The distributions that values are drawn from.
#[derive(Clone, Copy)]
enum Distribution {
    Normal,
    Uniform,
}

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let is_normal = b.cmp(Compare::Ne, b.scalar("normal"), b.index(0));
    let draw = |distribution| Rows::new(b, spec.format, distribution).draw();
    b.if_else(
        is_normal,
        || {
            draw(Distribution::Normal);
            []
        },
        || {
            draw(Distribution::Uniform);
            []
        },
    );
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
        let float = |name: &str| b.bitcast(b.to_i32(b.scalar(name)), Num::F32);
        Rows { b, format, distribution, scale: float("scale"), offset: float("offset"), unit: float("unit") }
    }

    /// Values that a thread stores at once.
    fn lanes(&self) -> usize {
        STORE_BYTES as usize / self.format.bytes()
    }

    fn draw(&self) {
        let b = self.b;
        let [rows, stride, run, run_stride] =
            ["rows", "stride", "run", "run_stride"].map(|name| b.to_i32(b.scalar(name)));
        let [key, first, n, cols] = ["key", "first", "n", "cols"].map(|name| b.to_i64(b.scalar(name)));
        b.while_(
            [b.block()],
            |[row]| b.cmp(Compare::Lt, row, rows),
            |[row]| {
                // 1. where
                let place = b.add(b.mul(b.div(row, run), run_stride), b.rem(row, run));
                let row_bytes = b.mul(b.to_i64(stride), b.i64(self.format.bytes() as i64));
                let to = b.at(b.pointer("out"), b.mul(b.to_i64(place), row_bytes));
                let before = b.mul(b.to_i64(row), cols);
                let left = b.to_i32(b.max(b.min(b.sub(n, before), cols), b.i64(0)));
                let counter = self.counter(key, b.add(first, before));

                let at_once = self.lanes() * b.threads_per_block() as usize;
                b.for_each(b.scaled(b.thread(), self.lanes()), stride, at_once, |at| {
                    // 2. draw
                    let (column, offsets) = self.columns(at);
                    let (counter, left) = (self.counter(counter, b.to_i64(column)), b.sub(left, column));
                    let values = offsets.into_iter().map(|offset| {
                        let is_inside = b.cmp(Compare::Lt, b.i32(offset as i32), left);
                        let counter = self.counter(counter, b.i64(offset as i64));
                        b.select(is_inside, self.value(counter), b.f32(0.0))
                    });
                    // 3. store
                    let packed = self.packed(&values.collect::<Vec<_>>());
                    b.store(packed, b.at(to, b.scaled(at, self.format.bytes())));
                });
                [b.add(row, b.n_blocks())]
            },
        );
    }

    /// The first column of those stored from element `at` on, and how far behind it they are.
    fn columns(&self, at: Value) -> (Value, Vec<usize>) {
        let b = self.b;
        if self.format != Elem::I8 {
            return (at, (0..self.lanes()).collect());
        }
        // The columns of the first 16 bytes of a group; of the next 16 they are each two further.
        let stored: Vec<usize> = (0..COLUMN_GROUP).filter(|&j| column(j) < self.lanes()).collect();
        let mut offsets = stored.clone();
        offsets.sort_by_key(|&j| column(j));
        let group = b.and(at, b.i32(-(COLUMN_GROUP as i32)));
        let two_each = b.shr(b.sub(at, group), self.lanes().ilog2() - 1);
        (b.add(group, two_each), offsets)
    }

    /// The counter `steps` draws behind another.
    fn counter(&self, counter: Value, steps: Value) -> Value {
        let b = self.b;
        b.add(counter, b.mul(steps, b.i64(INDEX_FACTOR as i64)))
    }

    /// The value that a counter stands for.
    fn value(&self, counter: Value) -> Value {
        let b = self.b;
        let folded = |x: Value, bits: u32| b.xor(x, b.shr(x, bits));
        let [first, second, last] = MIX_SHIFTS;
        let x = b.mul(folded(counter, first), b.i64(MIX_FACTORS[0] as i64));
        let x = b.mul(folded(x, second), b.i64(MIX_FACTORS[1] as i64));
        let bits = folded(x, last);
        let integer = match self.distribution {
            Distribution::Normal => {
                let halves = [b.to_i32(bits), b.to_i32(b.shr(bits, 32))];
                let sums = halves.map(|half| b.add(b.and(half, b.i32(0xffff)), b.shr(half, 16)));
                b.sub(b.add(sums[0], sums[1]), b.i32(SUM_MEAN))
            }
            Distribution::Uniform => b.to_i32(b.shr(bits, 40)),
        };
        let scaled = self.rounded("mul", b.to_f32(integer), self.scale);
        self.rounded("add", scaled, self.offset)
    }

    /// An operation rounded by itself, to subnormals too.
    fn rounded(&self, operation: &str, x: Value, y: Value) -> Value {
        self.b.asm1(Effect::Pure, &format!("{operation}.rn.f32 $0, $1, $2;"), &[x, y], Num::F32)
    }

    /// Values as 16 bytes.
    fn packed(&self, values: &[Value]) -> Value {
        let b = self.b;
        match self.format {
            Elem::F32 => rows::vector(b, values),
            Elem::Bf16 => {
                let pairs: Vec<Value> = values.chunks_exact(2).map(|pair| b.pack_bf16(pair[0], pair[1])).collect();
                rows::vector(b, &pairs)
            }
            Elem::I8 => {
                let word = |four: &[Value]| {
                    let bytes = four.iter().zip([0, 8, 16, 24]).map(|(&x, bits)| {
                        let integer = self.integer(x);
                        if bits == 24 { b.shl(integer, bits) } else { b.shl(b.and(integer, b.i32(0xff)), bits) }
                    });
                    bytes.reduce(|x, y| b.or(x, y)).expect("four bytes")
                };
                rows::vector(b, &values.chunks_exact(4).map(word).collect::<Vec<_>>())
            }
            other => panic!("weights of {} are not drawn", other.name()),
        }
    }

    /// The int8 that stands for a value, as an i32.
    fn integer(&self, x: Value) -> Value {
        let b = self.b;
        let quotient = self.rounded("div", x, self.unit);
        let nearest = b.asm1(Effect::Pure, "cvt.rni.s32.f32 $0, $1;", &[quotient], Num::I32);
        b.max(b.min(nearest, b.i32(127)), b.i32(-127))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Rows::columns`] makes of the order of int8: 16 bytes further, the same columns two further.
    #[test]
    fn sixteen_bytes_hold_the_columns_of_the_first_two_further() {
        for j in (0..3 * COLUMN_GROUP).filter(|j| j % 8 < 6) {
            assert_eq!(column(j + 2), column(j) + 16);
        }
    }
}
