//! Thread indices, barriers, and warp and block shuffles and reductions.

use super::asm::Effect;
use super::{Builder, WARP};
use crate::cpu::builder::{Num, Type, Value};

/// Mask of all lanes of a warp.
const ALL: i32 = -1;

/// Indices; i32.
impl Builder<'_> {
    /// Thread index in the block.
    #[track_caller]
    pub fn thread(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", &[], Num::I32)
    }

    /// Lane index in the warp.
    #[track_caller]
    pub fn lane(&self) -> Value {
        self.thread() & (WARP - 1)
    }

    /// Warp index in the block.
    #[track_caller]
    pub fn warp(&self) -> Value {
        self.thread() >> WARP.ilog2()
    }

    /// Warp index in the block, as a warp-uniform value for the compiler.
    #[track_caller]
    pub fn uniform_warp(&self) -> Value {
        self.shuffle_idx(self.warp(), self.i32(0))
    }

    /// Block index along x.
    #[track_caller]
    pub fn block(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", &[], Num::I32)
    }

    /// Block index along y.
    #[track_caller]
    pub fn block_y(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.y", &[], Num::I32)
    }

    /// Block index along z.
    #[track_caller]
    pub fn block_z(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.z", &[], Num::I32)
    }

    /// Number of blocks along x.
    #[track_caller]
    pub fn n_blocks(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.nctaid.x", &[], Num::I32)
    }

    /// Number of blocks along y.
    #[track_caller]
    pub fn n_blocks_y(&self) -> Value {
        self.intrinsic("llvm.nvvm.read.ptx.sreg.nctaid.y", &[], Num::I32)
    }

    /// Exits the thread if the condition is true. No later barrier may wait for it.
    #[track_caller]
    pub fn exit_if(&self, condition: Value) {
        self.asm0("{ .reg .pred p; setp.ne.b32 p, $0, 0; @p exit; }", &[condition]);
    }
}

/// Block barriers.
impl Builder<'_> {
    /// Block barrier; orders the memory accesses of its threads.
    #[track_caller]
    pub fn sync(&self) {
        self.intrinsic0("llvm.nvvm.barrier0", &[]);
    }

    /// Waits at barrier `id` (0 … 15, a constant or an i32) for `threads` threads, whole warps.
    #[track_caller]
    pub fn sync_threads(&self, id: Value, threads: u32) {
        self.intrinsic0("llvm.nvvm.barrier", &[id, self.i32(threads as i32)]);
    }

    /// Warp barrier; orders the memory accesses of its lanes.
    #[track_caller]
    pub fn sync_warp(&self) {
        self.intrinsic0("llvm.nvvm.bar.warp.sync", &[self.i32(ALL)]);
    }
}

/// Warp-level exchange, in which all lanes must participate; of i32, i64, f32 or f64.
impl Builder<'_> {
    /// The value of lane `lane ^ mask`.
    #[track_caller]
    pub fn shuffle_xor(&self, x: Value, mask: u32) -> Value {
        self.shuffle_lanes("bfly", x, self.i32(mask as i32), WARP as i32 - 1)
    }

    /// The value of lane `lane`.
    #[track_caller]
    pub fn shuffle_idx(&self, x: Value, lane: Value) -> Value {
        self.shuffle_lanes("idx", x, lane, WARP as i32 - 1)
    }

    /// The value of the lane `delta` above; the lane's own value at the end of the warp.
    #[track_caller]
    pub fn shuffle_down(&self, x: Value, delta: u32) -> Value {
        self.shuffle_lanes("down", x, self.i32(delta as i32), WARP as i32 - 1)
    }

    /// The value of the lane `delta` below; the lane's own value at the beginning of the warp.
    #[track_caller]
    pub fn shuffle_up(&self, x: Value, delta: u32) -> Value {
        self.shuffle_lanes("up", x, self.i32(delta as i32), 0)
    }

    /// One bit per lane: the lane's condition.
    #[track_caller]
    pub fn ballot(&self, condition: Value) -> Value {
        self.intrinsic("llvm.nvvm.vote.ballot.sync", &[self.i32(ALL), condition], Num::I32)
    }

    /// Whether the hardware elected this lane.
    #[track_caller]
    pub fn elect(&self) -> Value {
        let text = "{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 $0, 1, 0, p; }";
        let chosen = self.asm1(Effect::Memory, text, &[], Num::I32);
        chosen.ne(0)
    }

    /// The sum over groups of `lanes` lanes, a power of two, in every lane. `lanes` determines the order, so all lanes get
    /// the same bits.
    #[track_caller]
    pub fn group_sum(&self, x: Value, lanes: u32) -> Value {
        self.butterfly(x, lanes, |x, y| x + y)
    }

    /// The sum over the warp, in every lane.
    #[track_caller]
    pub fn warp_sum(&self, x: Value) -> Value {
        self.group_sum(x, WARP)
    }

    /// The maximum over the warp, in every lane.
    #[track_caller]
    pub fn warp_max(&self, x: Value) -> Value {
        self.butterfly(x, WARP, |x, y| self.greater(x, y))
    }

    /// The sum over the block, in every thread. `scratch` is 4 bytes of shared memory per warp, which no thread may access
    /// before the next barrier.
    #[track_caller]
    pub fn block_sum(&self, x: Value, scratch: Value) -> Value {
        let n_warps = self.threads_per_block() / WARP;
        let sum = self.warp_sum(x);
        if n_warps == 1 {
            return sum;
        }
        let is_first = self.lane().eq(0);
        self.if_(is_first, || self.store(sum, self.at(scratch, self.warp() * 4)));
        self.sync();
        let sums = (0..n_warps).map(|warp| self.load(self.at_byte(scratch, 4 * warp as usize), Type::scalar(x.ty.num)));
        sums.reduce(|x, y| x + y).expect("a block has warps")
    }

    /// Reduction with `combine` over the block, in every thread and in a fixed order. `scratch` is 8 bytes of shared memory
    /// per warp, free again on return.
    #[track_caller]
    pub fn block_reduce(&self, x: Value, scratch: Value, combine: impl Fn(Value, Value) -> Value) -> Value {
        let n_warps = self.threads_per_block() / WARP;
        let of_warp = self.butterfly(x, WARP, &combine);
        if n_warps == 1 {
            return of_warp;
        }
        let is_first = self.lane().eq(0);
        self.if_(is_first, || self.store(of_warp, self.at(scratch, self.warp() * 8)));
        self.sync();
        let all = (0..n_warps).map(|warp| self.load(self.at_byte(scratch, 8 * warp as usize), Type::scalar(x.ty.num)));
        let all = all.reduce(&combine).expect("a block has warps");
        self.sync();
        all
    }

    /// f64 exclusive prefix sum over threads, and the sum over the block, in a fixed order; `scratch` as for
    /// [`block_reduce`](Self::block_reduce).
    #[track_caller]
    pub fn block_scan(&self, x: Value, scratch: Value) -> [Value; 2] {
        let zero = self.f64(0.0);
        let up_to_here = (0..WARP.ilog2()).fold(x, |sum, bit| {
            let below = self.shuffle_up(sum, 1 << bit);
            let has = self.lane().ge(1 << bit);
            sum + has.select(below, zero)
        });
        let is_last = self.lane().eq(WARP - 1);
        self.if_(is_last, || self.store(up_to_here, self.at(scratch, self.warp() * 8)));
        self.sync();
        let (mut before, mut total) = (zero, zero);
        for warp in 0..self.threads_per_block() / WARP {
            let sum = self.load(self.at_byte(scratch, 8 * warp as usize), Type::scalar(Num::F64));
            let is_before = self.i32(warp as i32).lt(self.warp());
            before = before + is_before.select(sum, zero);
            total = total + sum;
        }
        self.sync();
        let below = self.shuffle_up(up_to_here, 1);
        let is_above = self.lane().gt(0);
        [before + is_above.select(below, zero), total]
    }

    /// Population count of an i32.
    #[track_caller]
    pub fn count_ones(&self, x: Value) -> Value {
        self.op1("math.ctpop", &[x], x.ty, &[])
    }

    /// Bit mask of the lanes below this one.
    #[track_caller]
    pub fn lanes_below(&self) -> Value {
        let this = self.op1("arith.shli", &[self.i32(1), self.lane()], Type::scalar(Num::I32), &[]);
        this - 1
    }

    #[track_caller]
    fn butterfly(&self, x: Value, lanes: u32, combine: impl Fn(Value, Value) -> Value) -> Value {
        assert!(lanes.is_power_of_two() && lanes <= WARP, "a group of {lanes} lanes");
        let masks = (0..lanes.ilog2()).rev().map(|bit| 1 << bit);
        masks.fold(x, |x, mask| combine(x, self.shuffle_xor(x, mask)))
    }

    #[track_caller]
    fn shuffle_lanes(&self, how: &str, x: Value, lane: Value, clamp: i32) -> Value {
        match x.ty.num {
            Num::F64 => {
                let bits = self.shuffle_lanes(how, x.bitcast(Num::I64), lane, clamp);
                return bits.bitcast(Num::F64);
            }
            Num::I64 => {
                let halves = [x.to_i32(), (x >> 32).to_i32()];
                let [low, high] = halves.map(|half| self.shuffle_lanes(how, half, lane, clamp).to_i64());
                return low | (high << 32);
            }
            _ => {}
        }
        let suffix = match (x.ty.num, x.ty.lanes) {
            (Num::I32, None) => "i32",
            (Num::F32, None) => "f32",
            _ => panic!("a shuffle of {}", x.ty),
        };
        let operands = [self.i32(ALL), x, lane, self.i32(clamp)];
        self.intrinsic(&format!("llvm.nvvm.shfl.sync.{how}.{suffix}"), &operands, x.ty.num)
    }
}
