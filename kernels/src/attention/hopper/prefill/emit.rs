//! The body: a warp that copies, two warpgroups that multiply; see the steps of [`super`].

use super::{CONSUMERS, ROWS, Spec, TILE_PAGES, TILE_TOKENS, WARPS};
use crate::attention::hopper::{entry, factor, fragment, page, work};
use crate::cpu::builder::{Compare, Value};
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{BLOCK_BYTES, BLOCK_COLUMNS, MAX_D_HEAD, blocks, group_bytes, head_bytes};

/// Registers of a thread that copies, and of one that multiplies: 128 · 40 + 256 · 232 of 65536.
const PRODUCER_REGISTERS: u32 = 40;
const CONSUMER_REGISTERS: u32 = 232;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    assert!(spec.d_head <= MAX_D_HEAD, "heads of {} dimensions", spec.d_head);
    let prefill = Prefill { b, spec };
    b.if_(b.cmp(Compare::Eq, b.thread(), b.i32(0)), || {
        for stage in (0..spec.stages()).map(|stage| b.i32(stage as i32)) {
            b.mbarrier_init(prefill.full(stage), 1);
            b.mbarrier_init(prefill.empty(stage), (CONSUMERS * WARPS) as u32);
        }
        b.fence_mbarrier_init();
    });
    b.sync();
    let warp = b.uniform_warp();
    let is_producer = b.cmp(Compare::Lt, warp, b.i32(WARPS as i32));
    b.if_else(
        is_producer,
        || {
            b.setmaxnreg_dec(PRODUCER_REGISTERS);
            b.if_(b.cmp(Compare::Eq, warp, b.i32(0)), || prefill.produce());
            []
        },
        || {
            b.setmaxnreg_inc(CONSUMER_REGISTERS);
            prefill.consume(b.sub(warp, b.i32(WARPS as i32)));
            []
        },
    );
}

struct Prefill<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
}

/// 128 rows of a sequence and a KV head; all i32.
struct Piece {
    sequence: Value,
    kv_head: Value,
    /// Which columns of the values.
    part: Value,
    /// The first of its rows.
    first: Value,
    /// Rows of the sequence.
    rows: Value,
    /// The sequence's tokens before this step.
    past: Value,
    /// Tiles that its last row sees.
    tiles: Value,
}

/// Where in the ring: a place, and the parity of its phase.
#[derive(Clone, Copy)]
struct Turn {
    stage: Value,
    parity: Value,
}

/// Of a thread, whose rows of a product are one in the first eight of its warp's 16 and one in the last eight.
struct Row {
    /// Its number in the sequence.
    number: Value,
    /// Its position: the last key that it sees.
    position: Value,
    /// Where its queries begin in `q`, and its results in `out`.
    offset: Value,
}

/// What a thread carries from tile to tile.
struct State {
    turn: Turn,
    /// Greatest score of each of its two rows.
    maxima: Vec<Value>,
    /// Sum of the probabilities of its columns.
    totals: Vec<Value>,
    /// Weighted sums of values, an accumulator.
    values: Vec<Value>,
    /// Probabilities of the last tile, fragments of a product's left side, which are not in the sums of values yet.
    probabilities: Vec<Value>,
}

impl State {
    fn all(&self) -> Vec<Value> {
        let turn = [self.turn.stage, self.turn.parity];
        [&turn[..], &self.maxima, &self.totals, &self.values, &self.probabilities].concat()
    }

    fn of(all: &[Value]) -> State {
        let (turn, rest) = all.split_at(2);
        let (maxima, rest) = rest.split_at(2);
        let (totals, rest) = rest.split_at(2);
        let (values, probabilities) = rest.split_at(rest.len() - TILE_TOKENS / 4);
        State {
            turn: Turn { stage: turn[0], parity: turn[1] },
            maxima: maxima.to_vec(),
            totals: totals.to_vec(),
            values: values.to_vec(),
            probabilities: probabilities.to_vec(),
        }
    }
}

/// The work.
impl Prefill<'_, '_> {
    /// Calls `body` for each piece of this block with where the ring is at its beginning; gives where it is at its end.
    fn pieces(&self, body: impl FnOnce(Piece, Turn) -> Turn) {
        let &Prefill { b, spec } = self;
        let zero = b.i32(0);
        let rows = |s| b.scaled(b.sub(entry(b, "starts", b.add(s, b.i32(1))), entry(b, "starts", s)), spec.group());
        let per_piece = CONSUMERS * ROWS;
        let tiles = |s| b.div(b.add(rows(s), b.i32(per_piece as i32 - 1)), b.i32(per_piece as i32));
        let parts = blocks(spec.d_head) / spec.value_blocks();
        let pieces = |s| b.scaled(tiles(s), spec.n_kv_heads * parts);
        work::deal(b, pieces, &[zero, zero], |s, number, turn| {
            let (rows, tiles, past) = (rows(s), tiles(s), entry(b, "past", s));
            let (head, tile) = (b.div(number, tiles), b.rem(number, tiles));
            let first = b.scaled(b.sub(b.sub(tiles, b.i32(1)), tile), per_piece);
            let last = b.min(b.add(first, b.i32(per_piece as i32)), rows);
            let last = b.div(b.sub(last, b.i32(1)), b.i32(spec.group() as i32));
            let visible = b.add(b.add(past, last), b.i32(TILE_TOKENS as i32));
            let piece = Piece {
                sequence: s,
                kv_head: b.div(head, b.i32(parts as i32)),
                part: b.rem(head, b.i32(parts as i32)),
                first,
                rows,
                past,
                tiles: b.shr(visible, TILE_TOKENS.ilog2()),
            };
            let turn = body(piece, Turn { stage: turn[0], parity: turn[1] });
            vec![turn.stage, turn.parity]
        });
    }

    fn full(&self, stage: Value) -> Value {
        let barriers = self.b.shared_at(self.spec.barriers());
        self.b.at(barriers, self.b.scaled(stage, 8))
    }

    fn empty(&self, stage: Value) -> Value {
        self.b.at_byte(self.full(stage), 8 * self.spec.stages())
    }

    fn tile(&self, stage: Value) -> Value {
        self.b.at(self.b.shared(), self.b.scaled(stage, self.spec.stage_bytes()))
    }

    fn next(&self, turn: Turn) -> Turn {
        let b = self.b;
        let stage = b.add(turn.stage, b.i32(1));
        let wraps = b.cmp(Compare::Eq, stage, b.i32(self.spec.stages() as i32));
        Turn {
            stage: b.select(wraps, b.i32(0), stage),
            parity: b.select(wraps, b.xor(turn.parity, b.i32(1)), turn.parity),
        }
    }
}

/// The warp that copies.
impl Prefill<'_, '_> {
    fn produce(&self) {
        let &Prefill { b, spec } = self;
        let (bytes, page_bytes) = (b.i32(spec.stage_bytes() as i32), b.i32(head_bytes(spec.d_head) as i32));
        self.pieces(|piece, turn| {
            let last_row = b.sub(b.min(b.add(piece.first, b.i32((CONSUMERS * ROWS) as i32)), piece.rows), b.i32(1));
            let last = b.add(piece.past, b.div(last_row, b.i32(spec.group() as i32)));
            let last_page = b.shr(last, PAGE_TOKENS.ilog2());
            let init = [turn.stage, turn.parity];
            let [stage, parity] = b.for_range(b.i32(0), piece.tiles, 1, init, |tile, [stage, parity]| {
                let turn = Turn { stage, parity };
                b.mbarrier_wait(self.empty(stage), b.xor(parity, b.i32(1)));
                let is_first = b.cmp(Compare::Eq, b.lane(), b.i32(0));
                b.if_(is_first, || b.mbarrier_arrive_expect_tx(self.full(stage), bytes));
                b.sync_warp();
                b.if_(b.cmp(Compare::Lt, b.lane(), b.i32(TILE_PAGES as i32)), || {
                    let nth = b.min(b.add(b.scaled(tile, TILE_PAGES), b.lane()), last_page);
                    let from = page(b, spec.d_head, piece.sequence, nth, piece.kv_head);
                    let to = b.at(self.tile(stage), b.scaled(b.lane(), head_bytes(spec.d_head)));
                    b.cp_async_bulk(to, from, page_bytes, self.full(stage));
                });
                let next = self.next(turn);
                [next.stage, next.parity]
            });
            Turn { stage, parity }
        });
    }
}

/// The warpgroups that multiply.
impl Prefill<'_, '_> {
    /// By warp `warp` of them.
    fn consume(&self, warp: Value) {
        let &Prefill { b, spec } = self;
        let warpgroup = b.shr(warp, WARPS.ilog2());
        self.pieces(|piece, turn| {
            // 1. queries; the last row stands in for those beyond
            let rows = [0, 8].map(|eight| {
                let in_warp = b.add(b.shr(b.lane(), 2), b.i32(eight));
                let number = b.add(piece.first, b.add(b.scaled(warp, 16), in_warp));
                self.row(&piece, number)
            });
            let starts = rows.each_ref().map(|row| b.at(b.pointer("q"), row.offset));
            let queries = fragment::load(b, spec.d_head, &starts);
            let first = b.add(piece.first, b.scaled(warpgroup, ROWS));
            let first = b.div(b.min(first, b.sub(piece.rows, b.i32(1))), b.i32(spec.group() as i32));
            // Tiles that all rows see whole.
            let whole = b.shr(b.add(b.add(piece.past, first), b.i32(1)), TILE_TOKENS.ilog2());

            // 2. the first tile
            b.mbarrier_wait(self.full(turn.stage), turn.parity);
            b.wgmma_fence();
            let scores = self.scores(&queries, turn);
            b.wgmma_commit();
            b.wgmma_wait(0);
            let masked = self.mask(&scores, &rows, b.i32(0));
            let none = (vec![b.f32(f32::NEG_INFINITY); 2], vec![b.f32(0.0); 2]);
            let (probabilities, maxima, totals, _) = self.softmax(&masked, &none.0, &none.1);
            let state = State {
                turn,
                maxima,
                totals,
                values: vec![b.f32(0.0); spec.value_blocks() * BLOCK_COLUMNS / 2],
                probabilities: self.pack(&probabilities),
            };

            // 3. further tiles
            let one = b.i32(1);
            let state = b.for_range_vec(one, whole, 1, &state.all(), |_, state| {
                self.step(&piece, &queries, State::of(state), |scores| scores).all()
            });
            let state = b.for_range_vec(b.max(one, whole), piece.tiles, 1, &state, |tile, state| {
                self.step(&piece, &queries, State::of(state), |scores| self.mask(&scores, &rows, tile)).all()
            });

            // 4. the last tile's values
            let state = State::of(&state);
            b.wgmma_fence();
            let values = self.add_values(&piece, &state);
            b.wgmma_commit();
            b.wgmma_wait(0);
            self.release(state.turn);
            for (half, row) in rows.iter().enumerate() {
                let total = b.group_sum(state.totals[half], 4);
                self.store(&piece, row, half, b.reciprocal(total), &values);
            }
            self.next(state.turn)
        });
    }

    /// Row `number`, which may lie beyond the last.
    fn row(&self, piece: &Piece, number: Value) -> Row {
        let &Prefill { b, spec } = self;
        let group = b.i32(spec.group() as i32);
        let existing = b.min(number, b.sub(piece.rows, b.i32(1)));
        let (token, head) = (b.div(existing, group), b.rem(existing, group));
        let head = b.add(b.scaled(piece.kv_head, spec.group()), head);
        let t = b.add(entry(b, "starts", piece.sequence), token);
        let stride = b.i64(2 * row_stride(Elem::Bf16, spec.n_heads * spec.d_head) as i64);
        let offset = b.add(b.mul(b.to_i64(t), stride), b.to_i64(b.scaled(head, 2 * spec.d_head)));
        Row { number, position: b.add(piece.past, token), offset }
    }

    /// One further tile: its part of the softmax, and the values of the tile before.
    fn step(
        &self,
        piece: &Piece,
        queries: &[[Value; 4]],
        state: State,
        mask: impl FnOnce(Vec<Value>) -> Vec<Value>,
    ) -> State {
        let b = self.b;
        let turn = self.next(state.turn);
        b.mbarrier_wait(self.full(turn.stage), turn.parity);
        b.wgmma_fence();
        let scores = self.scores(queries, turn);
        b.wgmma_commit();
        let values = self.add_values(piece, &state);
        b.wgmma_commit();
        b.wgmma_wait(1);
        let scores = mask(scores);
        let (probabilities, maxima, totals, rescale) = self.softmax(&scores, &state.maxima, &state.totals);
        b.wgmma_wait(0);
        self.release(state.turn);
        let values = values.iter().enumerate().map(|(at, &x)| b.mul(x, rescale[at % 4 / 2])).collect();
        State { turn, maxima, totals, values, probabilities: self.pack(&probabilities) }
    }

    /// Scores of a tile, in flight.
    fn scores(&self, queries: &[[Value; 4]], turn: Turn) -> Vec<Value> {
        let &Prefill { b, spec } = self;
        let keys = b.descriptor(self.tile(turn.stage), BLOCK_BYTES, group_bytes(spec.d_head));
        let mut scores = Vec::new();
        for (step, &query) in queries.iter().enumerate() {
            let bytes = step / 4 * BLOCK_BYTES + step % 4 * 32;
            let keys = b.descriptor_at(keys, bytes);
            scores = match step {
                0 => b.wgmma_rs_first(TILE_TOKENS, query, keys),
                _ => b.wgmma_rs(&scores, query, keys, b.i32(1)),
            };
        }
        scores
    }

    /// The sums with the values of the state's tile, in flight.
    fn add_values(&self, piece: &Piece, state: &State) -> Vec<Value> {
        let &Prefill { b, spec } = self;
        let group = group_bytes(spec.d_head);
        let part = b.scaled(piece.part, spec.value_blocks() * BLOCK_BYTES);
        let values = b.at(b.at_byte(self.tile(state.turn.stage), blocks(spec.d_head) * BLOCK_BYTES), part);
        let values = b.descriptor(values, BLOCK_BYTES, group);
        let mut sums = state.values.clone();
        for (step, p) in state.probabilities.chunks(4).enumerate() {
            let p = [p[0], p[1], p[2], p[3]];
            sums = b.wgmma_rs_by_rows(&sums, p, b.descriptor_at(values, 2 * step * group));
        }
        sums
    }

    /// Scores with −∞ for keys behind their row's position.
    fn mask(&self, scores: &[Value], rows: &[Row; 2], tile: Value) -> Vec<Value> {
        let b = self.b;
        let quad = b.scaled(b.and(b.thread(), b.i32(3)), 2);
        let first = b.add(b.scaled(tile, TILE_TOKENS), quad);
        let visible = rows.each_ref().map(|row| b.sub(row.position, first));
        let mask = |(at, &score): (usize, &Value)| {
            let column = b.i32((at / 4 * 8 + at % 2) as i32);
            b.select(b.cmp(Compare::Le, column, visible[at % 4 / 2]), score, b.f32(f32::NEG_INFINITY))
        };
        scores.iter().enumerate().map(mask).collect()
    }

    /// Probabilities relative to the new maxima; the maxima; the totals; what to multiply older sums by.
    fn softmax(
        &self,
        scores: &[Value],
        maxima: &[Value],
        totals: &[Value],
    ) -> (Vec<Value>, Vec<Value>, Vec<Value>, Vec<Value>) {
        let b = self.b;
        let c = b.f32(factor(self.spec.scale));
        let mut probabilities = scores.to_vec();
        let (mut new_maxima, mut new_totals, mut rescale) = (Vec::new(), Vec::new(), Vec::new());
        for half in 0..2 {
            let places: Vec<usize> = (0..scores.len()).filter(|at| at % 4 / 2 == half).collect();
            let of_row: Vec<Value> = places.iter().map(|&at| scores[at]).collect();
            let greatest = pairwise(of_row, |x, y| b.greater(x, y));
            let greatest = [1, 2].into_iter().fold(greatest, |x, mask| b.greater(x, b.shuffle_xor(x, mask)));
            let max = b.greater(maxima[half], greatest);
            let below = b.neg(b.mul(max, c));
            let older = b.exp2(b.fma(maxima[half], c, below));
            for &at in &places {
                probabilities[at] = b.exp2(b.fma(scores[at], c, below));
            }
            let total = pairwise(places.iter().map(|&at| probabilities[at]).collect(), |x, y| b.add(x, y));
            new_maxima.push(max);
            new_totals.push(b.fma(totals[half], older, total));
            rescale.push(older);
        }
        (probabilities, new_maxima, new_totals, rescale)
    }

    /// An accumulator, rounded to bf16, as fragments of the left side of a product over its columns.
    fn pack(&self, x: &[Value]) -> Vec<Value> {
        x.chunks(2).map(|pair| self.b.pack_bf16(pair[0], pair[1])).collect()
    }

    /// The warp is done with a tile.
    fn release(&self, turn: Turn) {
        let b = self.b;
        b.mbarrier_arrive_if(self.empty(turn.stage), b.cmp(Compare::Eq, b.lane(), b.i32(0)));
    }

    /// A row's results, where it exists.
    fn store(&self, piece: &Piece, row: &Row, half: usize, scale: Value, values: &[Value]) {
        let &Prefill { b, spec } = self;
        let quad = b.scaled(b.and(b.thread(), b.i32(3)), 2);
        b.if_(b.cmp(Compare::Lt, row.number, piece.rows), || {
            let out = b.at(b.pointer("out"), row.offset);
            let width = spec.value_blocks() * BLOCK_COLUMNS;
            for part in 0..blocks(spec.d_head) / spec.value_blocks() {
                b.if_(b.cmp(Compare::Eq, piece.part, b.i32(part as i32)), || {
                    for (nth, four) in values.chunks(4).enumerate() {
                        let pair = [0, 1].map(|e| b.mul(four[2 * half + e], scale));
                        fragment::store_pair(b, spec.d_head, out, quad, part * width + 8 * nth, pair);
                    }
                });
            }
        });
    }
}

/// Two by two, then the results two by two: as many as a power of two.
fn pairwise(mut values: Vec<Value>, combine: impl Fn(Value, Value) -> Value) -> Value {
    while values.len() > 1 {
        values = values.chunks(2).map(|pair| combine(pair[0], pair[1])).collect();
    }
    values[0]
}
