//! Copies of a stretch's inputs to shared memory, in pieces of 16 bytes.

use super::{Layout, STAGES, STRETCH, Spec, shape};
use crate::cpu::builder::Value;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;

/// A block's inputs.
pub(super) struct Inputs<'a, 'm> {
    pub(super) b: &'a Builder<'m>,
    pub(super) spec: &'a Spec,
    pub(super) layout: Layout,
    /// The first of the block's channels.
    pub(super) channel: Value,
    /// The sequence's first token, and the token after its last.
    pub(super) tokens: [Value; 2],
}

/// A rectangle of an operand to copy: a byte range of each token's row.
struct Rectangle {
    name: &'static str,
    elem: Elem,
    cols: usize,
    /// Bytes per row that are copied: whole pieces.
    bytes: usize,
    /// Row stride in shared memory, in bytes.
    pitch: usize,
    /// Its offset in a stage.
    at: usize,
    /// Whether the row starts at the block's channels.
    by_channel: bool,
}

/// Bytes per piece.
const PIECE: usize = 16;

impl Inputs<'_, '_> {
    /// The start of stage `number` (i32).
    pub(super) fn stage(&self, number: Value) -> Value {
        let b = self.b;
        b.at(b.shared(), b.rem_unsigned(number, STAGES as u32) * self.layout.bytes)
    }

    /// Starts the copies of a stretch's inputs, as one group. Rows after the sequence's last token are zeroed up to a whole
    /// group of tokens.
    pub(super) fn fetch(&self, stretch: Value) {
        let b = self.b;
        let first = self.tokens[0] + stretch * STRETCH;
        let left = self.tokens[1] - first;
        let stage = self.stage(stretch);
        for rectangle in self.rectangles() {
            self.copy(&rectangle, stage, first, left);
        }
        b.cp_async_commit();
    }

    fn rectangles(&self) -> Vec<Rectangle> {
        let Spec { channels, d_state, gated, .. } = *self.spec;
        let Layout { dt, b, c, u, z, state_row, .. } = self.layout;
        let own = shape(self.spec).channels();
        let by_channel = |name, elem: Elem, at| {
            let bytes = elem.bytes() * own;
            Rectangle { name, elem, cols: channels, bytes, pitch: bytes, at, by_channel: true }
        };
        let by_state = |name, at| {
            let bytes = (4 * d_state).next_multiple_of(PIECE);
            Rectangle { name, elem: Elem::F32, cols: d_state, bytes, pitch: state_row, at, by_channel: false }
        };
        let mut all = vec![by_channel("dt", Elem::F32, dt), by_state("b", b), by_state("c", c)];
        all.push(by_channel("u", Elem::Bf16, u));
        all.extend(gated.then(|| by_channel("z", Elem::Bf16, z)));
        all
    }

    fn copy(&self, rectangle: &Rectangle, stage: Value, first: Value, left: Value) {
        let (b, threads) = (self.b, shape(self.spec).threads as usize);
        let Rectangle { name, elem, cols, bytes, pitch, at, by_channel } = *rectangle;
        let per_row = bytes / PIECE;
        let stride = elem.bytes() * row_stride(elem, cols);
        // Tokens after the last are zero up to a whole group of tokens.
        let group = shape(self.spec).lanes;
        let wanted = left.gt(0).select(left + (group - 1), 0);
        for piece in (0..STRETCH * per_row).step_by(threads) {
            let piece = b.thread() + piece;
            let (row, part) = (b.div_unsigned(piece, per_row as u32), b.rem_unsigned(piece, per_row as u32));
            let part = part * PIECE;
            let in_row = if by_channel { part + self.channel * elem.bytes() } else { part };
            let is_row = row.lt(wanted.min(STRETCH)) & in_row.lt(stride);
            b.if_(is_row, || {
                let is_token = row.lt(left);
                let token = first + is_token.select(row, 0);
                let from = b.at(b.row(b.pointer(name), token, stride), in_row);
                let to = b.at(b.at_byte(stage, at), row * pitch + part);
                b.cp_async_16_zfill(to, from, is_token.select(b.i32(PIECE as i32), 0));
            });
        }
    }
}
