//! Matrix fragments and products: ldmatrix, stmatrix, mma.sync by warps, wgmma by warpgroups.
//!
//! A fragment register holds two bf16 (i32) or one f32. Lane l of a warp holds row l / 4 and column pair l mod 4 of each 8
//! × 8 matrix.

use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::asm::Effect;

/// Warp-level instructions.
impl Builder<'_> {
    /// Loads four 8 × 8 matrices of 16-bit elements: lane l provides the 16-byte-aligned address of row l mod 8 of matrix l
    /// / 8.
    #[track_caller]
    pub fn ldmatrix_x4(&self, row: Value) -> [Value; 4] {
        four(self.asm(Effect::Memory, &ldmatrix(""), &[row], &[Type::scalar(Num::I32); 4]))
    }

    /// Like [`ldmatrix_x4`](Self::ldmatrix_x4), with each matrix transposed.
    #[track_caller]
    pub fn ldmatrix_x4_trans(&self, row: Value) -> [Value; 4] {
        four(self.asm(Effect::Memory, &ldmatrix(".trans"), &[row], &[Type::scalar(Num::I32); 4]))
    }

    /// Stores four 8 × 8 matrices of 16-bit elements, with the addressing of [`ldmatrix_x4`](Self::ldmatrix_x4).
    #[track_caller]
    pub fn stmatrix_x4(&self, row: Value, [a, b, c, d]: [Value; 4]) {
        let text = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};";
        self.asm0(text, &[row, a, b, c, d]);
    }

    /// Like [`stmatrix_x4`](Self::stmatrix_x4), with each matrix transposed.
    #[track_caller]
    pub fn stmatrix_x4_trans(&self, row: Value, [a, b, c, d]: [Value; 4]) {
        let text = "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [$0], {$1, $2, $3, $4};";
        self.asm0(text, &[row, a, b, c, d]);
    }

    /// `c + a · b`: a 16 × 16 row-major, b 16 × 8 column-major, both bf16; c 16 × 8 f32.
    #[track_caller]
    pub fn mma_m16n8k16(&self, a: [Value; 4], b: [Value; 2], c: [Value; 4]) -> [Value; 4] {
        let operands = [a.as_slice(), &b, &c].concat();
        four(self.intrinsic_all("llvm.nvvm.mma.m16n8k16.row.col.bf16", &operands, &[Type::scalar(Num::F32); 4]))
    }
}

/// Warpgroup-level instructions, by four warps; the number of the first is a multiple of four.
impl Builder<'_> {
    /// Orders register accesses to accumulators and A before the following products.
    #[track_caller]
    pub fn wgmma_fence(&self) {
        self.asm0("wgmma.fence.sync.aligned;", &[]);
    }

    /// Ends a group of products.
    #[track_caller]
    pub fn wgmma_commit(&self) {
        self.asm0("wgmma.commit_group.sync.aligned;", &[]);
    }

    /// Waits until at most `pending` groups are in flight.
    #[track_caller]
    pub fn wgmma_wait(&self, pending: u32) {
        self.asm0(&format!("wgmma.wait_group.sync.aligned {pending};"), &[]);
    }

    /// Zeros in n / 2 registers, which are written here and not between products in flight.
    #[track_caller]
    pub fn wgmma_zeros(&self, n: usize) -> Vec<Value> {
        let zeros: Vec<String> = (0..n / 2).map(|number| format!("mov.f32 ${number}, 0f00000000;")).collect();
        self.asm(Effect::Memory, &zeros.join(" "), &[], &vec![Type::scalar(Num::F32); n / 2])
    }

    /// `a · b + c`, or `a · b` if `keep` (i1 or i32) is 0. a is 64 × 16 and b 16 × n, both bf16, K-major in shared memory,
    /// given by descriptors (i64). c is n / 2 f32 per thread (see `hopper::fragment`), in flight until the group is
    /// awaited.
    #[track_caller]
    pub fn wgmma_ss(&self, c: &[Value], a: Value, b: Value, keep: Value) -> Vec<Value> {
        let at = 2 * c.len();
        let text = wgmma_where(at + 2, &wgmma(c.len(), &format!("${at}"), at + 1, "p, 1, 1, 0, 0"));
        self.asm_tied(Effect::Memory, &text, c, &[a, b, keep], &[])
    }

    /// Like [`wgmma_ss`](Self::wgmma_ss) with a in registers, which must not change until the group is awaited.
    #[track_caller]
    pub fn wgmma_rs(&self, c: &[Value], a: [Value; 4], b: Value, keep: Value) -> Vec<Value> {
        let at = 2 * c.len();
        let text = wgmma_where(at + 5, &wgmma(c.len(), &operands(at, 4), at + 4, "p, 1, 1, 0"));
        self.asm_tied(Effect::Memory, &text, c, &[&a[..], &[b, keep]].concat(), &[])
    }

    /// `a · b` into new registers, with b as in [`wgmma_rs`](Self::wgmma_rs).
    #[track_caller]
    pub fn wgmma_rs_first(&self, n: usize, a: [Value; 4], b: Value) -> Vec<Value> {
        let text = wgmma(n / 2, &operands(n / 2, 4), n / 2 + 4, "0, 1, 1, 0");
        self.asm(Effect::Memory, &text, &[&a[..], &[b]].concat(), &vec![Type::scalar(Num::F32); n / 2])
    }

    /// `a · b + c` with b stored as 16 consecutive rows of n elements (MN-major) in shared memory.
    #[track_caller]
    pub fn wgmma_rs_by_rows(&self, c: &[Value], a: [Value; 4], b: Value) -> Vec<Value> {
        let at = 2 * c.len();
        let text = wgmma(c.len(), &operands(at, 4), at + 4, "1, 1, 1, 1");
        self.asm_tied(Effect::Memory, &text, c, &[&a[..], &[b]].concat(), &[])
    }

    /// The descriptor (i64) of a matrix in shared memory with the 128-byte swizzle: blocks of 8 rows of 128 bytes, aligned
    /// to 1024 bytes. `stride` is the distance in bytes between blocks along the rows, `leading` the distance along the 128
    /// bytes, which is used only if the matrix is read by rows.
    #[track_caller]
    pub fn descriptor(&self, pointer: Value, leading: usize, stride: usize) -> Value {
        let field = |bytes: usize| (bytes / 16) as i64 & 0x3fff;
        let constant = 1 << 62 | field(stride) << 32 | field(leading) << 16;
        let address = (self.address(pointer) >> 4) & 0x3fff;
        address.to_i64() | constant
    }

    /// The descriptor of the same matrix, advanced by `bytes`, a multiple of 16.
    #[track_caller]
    pub fn descriptor_at(&self, descriptor: Value, bytes: usize) -> Value {
        descriptor + (bytes / 16) as i64
    }
}

fn ldmatrix(how: &str) -> String {
    format!("ldmatrix.sync.aligned.m8n8.x4{how}.shared.b16 {{$0, $1, $2, $3}}, [$4];")
}

/// PTX of a product into the first registers of the text. `b` is the operand number of b; `flags` are the scale of c
/// (whether it is added), then the signs and the orders of a and b.
fn wgmma(accumulators: usize, a: &str, b: usize, flags: &str) -> String {
    let n = 2 * accumulators;
    assert!(n.is_multiple_of(8) && (8..=256).contains(&n), "wgmma of {n} columns");
    let c = operands(0, accumulators);
    format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {c}, {a}, ${b}, {flags};")
}

/// Wraps a text in a scope whose predicate p is true if operand number `keep` is not 0.
fn wgmma_where(keep: usize, text: &str) -> String {
    format!("{{ .reg .pred p; setp.ne.b32 p, ${keep}, 0; {text} }}")
}

/// Operands `first …` as a vector.
fn operands(first: usize, count: usize) -> String {
    let operands: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    format!("{{{}}}", operands.join(", "))
}

fn four(values: Vec<Value>) -> [Value; 4] {
    values.try_into().expect("four results")
}
