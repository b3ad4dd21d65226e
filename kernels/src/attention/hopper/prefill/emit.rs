//! The kernel body: one warp copies, two warpgroups multiply. Steps as in [`super`].

use super::{CONSUMERS, ROWS, Spec, TILE_PAGES, TILE_TOKENS, WARPS};
use crate::attention::hopper::softmax::{self, Update};
use crate::attention::hopper::{factor, page};
use crate::cpu::builder::Value;
use crate::hopper::fragment::{self, BLOCK, Fragment, half_of};
use crate::hopper::ring::{Ring, Slot};
use crate::hopper::roles::Role;
use crate::hopper::work::WorkList;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{BLOCK_BYTES, BLOCK_COLUMNS, MAX_D_HEAD, blocks, group_bytes, head_bytes};

/// Tokens, or columns of a head, per wgmma.
const STEP: usize = 2 * BLOCK;

/// Rows per piece of work.
const PIECE_ROWS: usize = CONSUMERS * ROWS;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    assert!(spec.d_head <= MAX_D_HEAD, "heads of {} dimensions", spec.d_head);
    let ring = Ring { barriers: b.shared_at(spec.barriers()), stages: spec.stages() };
    let prefill = Prefill { b, spec, ring, fragment: Fragment::of(b) };
    b.if_(b.thread().eq(0), || ring.init(b, (CONSUMERS * WARPS) as u32));
    b.sync();
    let warp = b.uniform_warp();
    let produce = || b.if_(warp.eq(0), || prefill.produce());
    Role::of(b).run(b, produce, |warpgroup| prefill.consume(warpgroup, warp - WARPS));
}

struct Prefill<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    ring: Ring,
    fragment: Fragment,
}

/// The rows of one work item: one sequence, one KV head, at most the rows of two warpgroups. All values are i32.
struct Piece {
    sequence: Value,
    kv_head: Value,
    /// Index of the part of the value columns.
    part: Value,
    first_row: Value,
    /// Number of rows of the sequence.
    n_rows: Value,
    /// Number of the sequence's tokens before this step.
    past: Value,
    /// Position of the token of its last row.
    last: Value,
}

/// A row of a piece.
struct Row {
    number: Value,
    /// Position of its token, i32.
    position: Value,
    /// Its byte offset in `q` and `out`.
    offset: Value,
}

/// Values that a thread carries from tile to tile.
struct State {
    /// The last tile.
    slot: Slot,
    rows: [softmax::Row; 2],
    /// Weighted sums of values.
    values: Vec<Value>,
    /// Probabilities of the last tile as a left operand; its values are not in the sums yet.
    probabilities: Vec<Value>,
}

impl State {
    fn all(&self) -> Vec<Value> {
        let [upper, lower] = self.rows;
        let rows = [upper.maximum, lower.maximum, upper.total, lower.total];
        [&self.slot.values()[..], &rows, &self.values, &self.probabilities].concat()
    }

    fn of(all: &[Value]) -> State {
        let (slot, rest) = all.split_at(2);
        let (rows, rest) = rest.split_at(4);
        let (values, probabilities) = rest.split_at(rest.len() - TILE_TOKENS / 4);
        State {
            slot: Slot::of(slot),
            rows: [0, 1].map(|half| softmax::Row { maximum: rows[half], total: rows[2 + half] }),
            values: values.to_vec(),
            probabilities: probabilities.to_vec(),
        }
    }
}

/// Work distribution.
impl Prefill<'_, '_> {
    /// Calls `body` for each piece of this block with a ring slot; `body` returns the next slot.
    fn for_each_piece(&self, body: impl FnOnce(Piece, Slot) -> Slot) {
        let &Prefill { b, spec, ring, .. } = self;
        let n_rows = |s| {
            let tokens = b.entry("starts", s + 1) - b.entry("starts", s);
            tokens * spec.group()
        };
        let row_tiles = |s| (n_rows(s) + (PIECE_ROWS - 1)) / PIECE_ROWS;
        let parts = blocks(spec.d_head) / spec.value_blocks();
        let list = WorkList::of_groups(b.count("sequences"), |s| row_tiles(s) * (spec.n_kv_heads * parts));
        list.for_each(b, ring.first(b), |at, slot| {
            let (s, number) = (at.group, at.in_group());
            let (n_rows, row_tiles, past) = (n_rows(s), row_tiles(s), b.entry("past", s));
            let (head, tile) = (number / row_tiles, number % row_tiles);
            let first_row = (row_tiles - 1 - tile) * PIECE_ROWS;
            let end = (first_row + PIECE_ROWS).min(n_rows);
            let piece = Piece {
                sequence: s,
                kv_head: head / parts,
                part: head % parts,
                first_row,
                n_rows,
                past,
                last: past + (end - 1) / spec.group(),
            };
            body(piece, slot)
        });
    }

    /// Number of tiles that the piece's last row sees.
    fn n_tiles(&self, piece: &Piece) -> Value {
        (piece.last + TILE_TOKENS) >> TILE_TOKENS.ilog2()
    }

    /// Keys and values of a tile in shared memory.
    fn tile(&self, slot: Slot) -> Value {
        self.b.at(self.b.shared(), slot.stage * self.spec.stage_bytes())
    }
}

/// Producer warp.
impl Prefill<'_, '_> {
    fn produce(&self) {
        let &Prefill { b, spec, ring, .. } = self;
        let (bytes, page_bytes) = (b.i32(spec.stage_bytes() as i32), b.i32(head_bytes(spec.d_head) as i32));
        self.for_each_piece(|piece, slot| {
            let last_page = piece.last >> PAGE_TOKENS.ilog2();
            let slot = b.for_range(b.i32(0), self.n_tiles(&piece), 1, slot.values(), |tile, slot| {
                let slot = Slot::of(&slot);
                ring.wait_empty(b, slot);
                let full = ring.full(b, slot);
                let is_first = b.lane().eq(0);
                b.if_(is_first, || b.mbarrier_arrive_expect_tx(full, bytes));
                b.sync_warp();
                b.if_(b.lane().lt(TILE_PAGES), || {
                    let nth = (tile * TILE_PAGES + b.lane()).min(last_page);
                    let from = page(b, spec.d_head, piece.sequence, nth, piece.kv_head);
                    let to = b.at(self.tile(slot), b.lane() * head_bytes(spec.d_head));
                    b.cp_async_bulk(to, from, page_bytes, full);
                });
                ring.next(slot).values()
            });
            Slot::of(&slot)
        });
    }
}

/// Consumer warpgroups.
impl Prefill<'_, '_> {
    /// `warpgroup` and `warp` count the consumers' warpgroups and warps.
    fn consume(&self, warpgroup: Value, warp: Value) {
        let &Prefill { b, spec, ring, fragment } = self;
        self.for_each_piece(|piece, slot| {
            // 1. queries; rows beyond the last repeat the last row
            let rows = [0, 1].map(|half| {
                let in_piece = warp * (2 * BLOCK) + fragment.row_in(half);
                self.row(&piece, piece.first_row + in_piece)
            });
            let starts = rows.each_ref().map(|row| b.at(b.pointer("q"), row.offset));
            let queries = fragment::load(b, spec.d_head, &starts);
            let first = piece.first_row + warpgroup * ROWS;
            let first = first.min(piece.n_rows - 1) / spec.group();
            // Number of tiles that all rows see completely.
            let whole = (piece.past + first + 1) >> TILE_TOKENS.ilog2();

            // 2. the first tile
            ring.wait_full(b, slot);
            b.wgmma_fence();
            let scores = self.scores(&queries, slot);
            b.wgmma_commit();
            b.wgmma_wait(0);
            let scores = self.mask(&scores, &rows, b.i32(0));
            let updates = self.softmax(&scores, [softmax::Row::empty(b); 2]);
            let probabilities = self.left_operand(&updates);
            let state = State {
                slot,
                rows: updates.map(|update| update.row),
                values: vec![b.f32(0.0); spec.value_blocks() * BLOCK_COLUMNS / 2],
                probabilities,
            };

            // 3. further tiles
            let one = b.i32(1);
            let state = b.for_range_vec(one, whole, 1, &state.all(), |_, state| {
                self.step(&piece, &queries, State::of(state), |scores| scores).all()
            });
            let state = b.for_range_vec(one.max(whole), self.n_tiles(&piece), 1, &state, |tile, state| {
                self.step(&piece, &queries, State::of(state), |scores| self.mask(&scores, &rows, tile)).all()
            });

            // 4. the last tile's values
            let state = State::of(&state);
            b.wgmma_fence();
            let values = self.add_values(&piece, &state);
            b.wgmma_commit();
            b.wgmma_wait(0);
            ring.release(b, state.slot.stage);
            for (half, row) in rows.iter().enumerate() {
                let total = fragment::quad_sum(b, state.rows[half].total);
                self.store(&piece, (row, half), b.reciprocal(total), &values);
            }
            ring.next(state.slot)
        });
    }

    /// Row `number`, which may be beyond the last.
    fn row(&self, piece: &Piece, number: Value) -> Row {
        let &Prefill { b, spec, .. } = self;
        let group = b.i32(spec.group() as i32);
        let existing = number.min(piece.n_rows - 1);
        let (token, head) = (existing / group, existing % group);
        let head = piece.kv_head * spec.group() + head;
        let t = b.entry("starts", piece.sequence) + token;
        let stride = b.i64(2 * row_stride(Elem::Bf16, spec.n_heads * spec.d_head) as i64);
        let offset = t.to_i64() * stride + (head * (2 * spec.d_head)).to_i64();
        Row { number, position: piece.past + token, offset }
    }

    /// Processes one further tile: its part of the softmax, and the values of the previous tile.
    fn step(
        &self,
        piece: &Piece,
        queries: &[[Value; 4]],
        state: State,
        mask: impl FnOnce(Vec<Value>) -> Vec<Value>,
    ) -> State {
        let &Prefill { b, ring, .. } = self;
        let slot = ring.next(state.slot);
        ring.wait_full(b, slot);
        b.wgmma_fence();
        let scores = self.scores(queries, slot);
        b.wgmma_commit();
        let values = self.add_values(piece, &state);
        b.wgmma_commit();
        b.wgmma_wait(1);
        let updates = self.softmax(&mask(scores), state.rows);
        ring.retest_full(b, slot);
        b.wgmma_wait(0);
        // Not earlier: the products read the registers of the older probabilities.
        let probabilities = self.left_operand(&updates);
        ring.release(b, state.slot.stage);
        let values = values.iter().enumerate().map(|(i, &x)| x * updates[half_of(i)].rescale).collect();
        State { slot, rows: updates.map(|update| update.row), values, probabilities }
    }

    /// Starts the scores of a tile.
    fn scores(&self, queries: &[[Value; 4]], slot: Slot) -> Vec<Value> {
        let &Prefill { b, spec, .. } = self;
        let keys = b.descriptor(self.tile(slot), BLOCK_BYTES, group_bytes(spec.d_head));
        let mut scores = Vec::new();
        for (step, &query) in queries.iter().enumerate() {
            let column = STEP * step;
            let keys = b.descriptor_at(
                keys,
                column / BLOCK_COLUMNS * BLOCK_BYTES + column % BLOCK_COLUMNS * Elem::Bf16.bytes(),
            );
            scores = match step {
                0 => b.wgmma_rs_first(TILE_TOKENS, query, keys),
                _ => b.wgmma_rs(&scores, query, keys, b.i32(1)),
            };
        }
        scores
    }

    /// Starts adding the values of the state's tile to the sums.
    fn add_values(&self, piece: &Piece, state: &State) -> Vec<Value> {
        let &Prefill { b, spec, .. } = self;
        let group = group_bytes(spec.d_head);
        let part = piece.part * (spec.value_blocks() * BLOCK_BYTES);
        let values = b.at(b.at_byte(self.tile(state.slot), blocks(spec.d_head) * BLOCK_BYTES), part);
        let values = b.descriptor(values, BLOCK_BYTES, group);
        let mut sums = state.values.clone();
        for (step, &p) in state.probabilities.as_chunks::<4>().0.iter().enumerate() {
            sums = b.wgmma_rs_by_rows(&sums, p, b.descriptor_at(values, STEP / BLOCK * step * group));
        }
        sums
    }

    /// Sets the scores of keys after their row's position to −∞.
    fn mask(&self, scores: &[Value], rows: &[Row; 2], tile: Value) -> Vec<Value> {
        let &Prefill { b, fragment, .. } = self;
        let first = tile * TILE_TOKENS + fragment.first_column();
        let visible = rows.each_ref().map(|row| row.position - first);
        let mask = |(i, &score): (usize, &Value)| {
            let column = b.i32(fragment::column_of(i) as i32);
            column.le(visible[half_of(i)]).select(score, f32::NEG_INFINITY)
        };
        scores.iter().enumerate().map(mask).collect()
    }

    /// Updates both rows with the scores of a tile.
    fn softmax(&self, scores: &[Value], rows: [softmax::Row; 2]) -> [Update; 2] {
        [0, 1].map(|half| {
            let of_row: Vec<Value> = (0..scores.len()).filter(|&i| half_of(i) == half).map(|i| scores[i]).collect();
            rows[half].update(self.b, factor(self.spec.scale), &of_row)
        })
    }

    /// The probabilities of a tile as a left operand.
    fn left_operand(&self, updates: &[Update; 2]) -> Vec<Value> {
        let [upper, lower] = updates.each_ref().map(|update| update.probabilities.as_chunks::<2>().0);
        let probabilities: Vec<Value> = upper.iter().zip(lower).flat_map(|(x, y)| [*x, *y]).flatten().collect();
        fragment::pack(self.b, &probabilities)
    }

    /// Stores the results of the lane's row in a half, if it exists.
    fn store(&self, piece: &Piece, (row, half): (&Row, usize), scale: Value, values: &[Value]) {
        let &Prefill { b, spec, fragment, .. } = self;
        b.if_(row.number.lt(piece.n_rows), || {
            let out = b.at(b.pointer("out"), row.offset);
            let width = spec.value_blocks() * BLOCK_COLUMNS;
            for part in 0..blocks(spec.d_head) / spec.value_blocks() {
                b.if_(piece.part.eq(part), || {
                    for i in (0..values.len()).step_by(2).filter(|&i| half_of(i) == half) {
                        let pair = [values[i], values[i + 1]].map(|x| x * scale);
                        let first = part * width + fragment::column_of(i);
                        fragment::store_pair(b, spec.d_head, out, fragment.first_column(), first, pair);
                    }
                });
            }
        });
    }
}
