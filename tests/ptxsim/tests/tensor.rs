//! `ldmatrix`, `stmatrix`, `mma.sync`, `wgmma`: compared with a scalar product, and without their fences and waits.

mod support;

use ptxsim::{FaultKind, Swizzle};
use support::{Device, HEAD, kernel, numbers, product};

#[test]
fn matrices_go_to_registers_and_back() {
    // 32 rows of 16 bytes, loaded as four matrices.
    for (load, store, transposed) in
        [("", "", false), (".trans", "", true), ("", ".trans", true), (".trans", ".trans", false)]
    {
        let body = format!(
            "shl.b32 %r4, %r1, 4;\nadd.u32 %r5, %r3, %r4;\ncvt.u64.u32 %rd4, %r4;\nadd.s64 %rd5, %rd1, %rd4;\n\
             ld.global.v4.u32 {{%r10, %r11, %r12, %r13}}, [%rd5];\nst.shared.v4.u32 [%r5], {{%r10, %r11, %r12, %r13}};\n\
             ldmatrix.sync.aligned.m8n8.x4{load}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r5];\n\
             stmatrix.sync.aligned.m8n8.x4{store}.shared.b16 [%r5+1024], {{%r20, %r21, %r22, %r23}};\n\
             ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r5+1024];\nadd.s64 %rd6, %rd3, %rd4;\n\
             st.global.v4.u32 [%rd6], {{%r10, %r11, %r12, %r13}};"
        );
        let mut device = Device::new(1);
        let halves: Vec<u16> = (0..256).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let (a, c) = (device.bytes("a", &bytes), device.gpu.alloc("c", 512));
        device.run(&kernel(&body), 1, 32, &[a, a, c]).expect("runs");
        let got = device.words(c, 128).expect("written");
        for at in 0..256usize {
            let (piece, row, col) = (at / 64, at / 8 % 8, at % 8);
            let from = if transposed { piece * 64 + col * 8 + row } else { at };
            assert_eq!(got[at / 2] >> (16 * (at % 2)) & 0xffff, from as u32, "{load} {store} {at}");
        }
    }
}

#[test]
fn lane_fragments_of_ldmatrix() {
    // Lane l of matrix j has row l / 4, columns 2 (l mod 4) and 2 (l mod 4) + 1.
    let body = "shl.b32 %r4, %r1, 4;\nadd.u32 %r5, %r3, %r4;\nmov.u32 %r6, 0;\nL:\nadd.u32 %r7, %r5, %r6;\n\
        shl.b32 %r8, %r1, 3;\nshr.u32 %r9, %r6, 1;\nadd.u32 %r8, %r8, %r9;\ncvt.u16.u32 %h1, %r8;\n\
        st.shared.u16 [%r7], %h1;\nadd.u32 %r6, %r6, 2;\nsetp.lt.u32 %p1, %r6, 16;\n@%p1 bra L;\n\
        ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r20, %r21}, [%r5];\nshl.b32 %r10, %r1, 2;\ncvt.u64.u32 %rd4, %r10;\n\
        add.s64 %rd5, %rd3, %rd4;\nst.global.u32 [%rd5], %r21;";
    let mut device = Device::new(1);
    let c = device.gpu.alloc("c", 128);
    device.run(&kernel(body), 1, 32, &[c, c, c]).expect("runs");
    let got = device.words(c, 32).expect("written");
    for (lane, word) in got.iter().enumerate() {
        let first = 64 + lane / 4 * 8 + 2 * (lane % 4);
        assert_eq!(*word, (first | (first + 1) << 16) as u32);
    }
}

/// Runs one `mma`. `a` and `b` have the fragments of each lane, the result has four words per lane.
fn mma(instruction: &str, n_a: usize, a: &[u32], b: &[u32]) -> Vec<u32> {
    let loads = |base: &str, first: usize, n: usize| {
        (0..n)
            .map(|i| {
                format!(
                    "mad.wide.u32 %rd5, %r1, {}, {base};\nld.global.u32 %r{}, [%rd5+{}];\n",
                    4 * n,
                    first + i,
                    4 * i
                )
            })
            .collect::<String>()
    };
    let list = |first: usize, n: usize| (first..first + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let body = format!(
        "{}{}mov.u32 %r30, 0;\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\n\
         {instruction} {{%r30, %r31, %r32, %r33}}, {{{}}}, {{{}}}, {{%r30, %r31, %r32, %r33}};\n\
         mad.wide.u32 %rd5, %r1, 16, %rd3;\nst.global.v4.u32 [%rd5], {{%r30, %r31, %r32, %r33}};",
        loads("%rd1", 10, n_a),
        loads("%rd2", 20, n_a / 2),
        list(10, n_a),
        list(20, n_a / 2),
    );
    let mut device = Device::new(1);
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let (a, b) = (device.bytes("a", &bytes(a)), device.bytes("b", &bytes(b)));
    let c = device.gpu.alloc("c", 512);
    device.run(&kernel(&body), 1, 32, &[a, b, c]).expect("runs");
    device.words(c, 128).expect("written")
}

#[test]
fn mma_is_a_scalar_product() {
    let (a, b) = (numbers(16 * 16, 1), numbers(8 * 16, 2));
    let bf = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
    let pair = |row: &[f32], at: usize| bf(row[at]) | bf(row[at + 1]) << 16;
    let (mut wa, mut wb) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (row, k) in [(g, 2 * t), (g + 8, 2 * t), (g, 2 * t + 8), (g + 8, 2 * t + 8)] {
            wa.push(pair(&a[row * 16..], k));
        }
        wb.extend([pair(&b[g * 16..], 2 * t), pair(&b[g * 16..], 2 * t + 8)]);
    }
    let got = mma("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 4, &wa, &wb);
    let expected = product(&a, &b, [16, 8, 16]);
    for (at, word) in got.iter().enumerate() {
        let (lane, i) = (at / 4, at % 4);
        let place = (lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2;
        assert_eq!(f32::from_bits(*word), expected[place]);
    }
}

#[test]
fn integer_mma_is_exact() {
    let a: Vec<i8> = (0..16 * 32).map(|i| (i * 37 % 256) as u8 as i8).collect();
    let b: Vec<i8> = (0..8 * 32).map(|i| (i * 91 % 256) as u8 as i8).collect();
    let four = |row: &[i8], at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| row[at + j] as u8));
    let (mut wa, mut wb) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (row, k) in [(g, 4 * t), (g + 8, 4 * t), (g, 4 * t + 16), (g + 8, 4 * t + 16)] {
            wa.push(four(&a[row * 32..], k));
        }
        wb.extend([four(&b[g * 32..], 4 * t), four(&b[g * 32..], 4 * t + 16)]);
    }
    let got = mma("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", 4, &wa, &wb);
    for (at, word) in got.iter().enumerate() {
        let (lane, i) = (at / 4, at % 4);
        let (m, n) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
        let expected: i32 = (0..32).map(|k| i32::from(a[m * 32 + k]) * i32::from(b[n * 32 + k])).sum();
        assert_eq!(*word as i32, expected);
    }
}

/// Layout of a tile of [rows, 16] bf16 in shared memory.
#[derive(Clone, Copy, Debug)]
struct Tile {
    swizzle: Swizzle,
    /// Rows are contiguous, not K.
    outer: bool,
}

impl Tile {
    /// Byte offset of an element, for the offsets in the descriptor.
    fn place(self, row: usize, k: usize) -> usize {
        let span = self.swizzle.span().unwrap_or(16);
        match (self.outer, self.swizzle) {
            // 8 × 8 matrices of 128 bytes, two along K.
            (false, Swizzle::None) => row / 8 * 256 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2,
            (false, swizzle) => swizzle.apply(row / 8 * 8 * span + row % 8 * span + k * 2),
            (true, Swizzle::None) => row / 8 * 256 + k / 8 * 128 + k % 8 * 16 + row % 8 * 2,
            // Patterns of 8 along K by `span` bytes of rows. The second half of K follows after all of them.
            (true, swizzle) => {
                let (pattern, within) = (row * 2 / span, row * 2 % span);
                swizzle.apply(pattern * 8 * span + k / 8 * 16384 + k % 8 * span + within)
            }
        }
    }

    /// The descriptor without its address.
    fn descriptor(self) -> u64 {
        let span = self.swizzle.span().unwrap_or(16);
        let (leading, stride) = match (self.outer, self.swizzle) {
            (false, Swizzle::None) => (128, 256),
            (false, _) => (16, 8 * span),
            (true, Swizzle::None) => (128, 256),
            (true, _) => (8 * span, 16384),
        };
        let mode = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        (leading as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | mode << 62
    }

    /// The tile as bytes.
    fn bytes(self, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; 32768];
        for (at, value) in values.iter().enumerate() {
            let place = self.place(at / 16, at % 16);
            out[place..place + 2].copy_from_slice(&half::bf16::from_f32(*value).to_le_bytes());
        }
        out
    }
}

/// A warpgroup copies A (32 KiB at `dyn`) and B (32 KiB after it), multiplies once, and stores D as f32 [64, n] to `c`.
fn wgmma_text(n: usize, a: Tile, b: Tile, from_registers: bool) -> String {
    let sums: Vec<String> = (0..n / 2).map(|i| format!("%f{i}")).collect();
    let sums = sums.join(", ");
    let copy = "mov.u32 %r4, 0;\nC:\nmad.lo.u32 %r5, %r1, 16, %r4;\ncvt.u64.u32 %rd4, %r5;\nadd.s64 %rd5, %rd1, %rd4;\n\
        ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd5];\nadd.u32 %r6, %r3, %r5;\n\
        st.shared.v4.u32 [%r6], {%r10, %r11, %r12, %r13};\nadd.s64 %rd5, %rd2, %rd4;\n\
        ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd5];\nst.shared.v4.u32 [%r6+32768], {%r10, %r11, %r12, %r13};\n\
        add.u32 %r4, %r4, 2048;\nsetp.lt.u32 %p1, %r4, 32768;\n@%p1 bra C;\nfence.proxy.async;\nbar.sync 0;\n";
    let transposed = i32::from(b.outer);
    let (a_operand, flags, fragments) = if from_registers {
        // K contiguous, no swizzle. Each lane reads its four words.
        let load = "shr.u32 %r7, %r1, 5;\nshl.b32 %r7, %r7, 9;\nshr.u32 %r8, %r2, 2;\nmad.lo.u32 %r7, %r8, 16, %r7;\n\
            and.b32 %r8, %r2, 3;\nmad.lo.u32 %r7, %r8, 4, %r7;\nadd.u32 %r7, %r7, %r3;\nld.shared.u32 %r20, [%r7];\n\
            ld.shared.u32 %r21, [%r7+256];\nld.shared.u32 %r22, [%r7+128];\nld.shared.u32 %r23, [%r7+384];\n";
        ("{%r20, %r21, %r22, %r23}".to_owned(), format!("1, 1, {transposed}"), load)
    } else {
        ("%rd8".to_owned(), format!("1, 1, {}, {transposed}", i32::from(a.outer)), "")
    };
    let stores: String = (0..n / 2)
        .map(|i| format!("st.global.f32 [%rd{}+{}], %f{i};\n", 12 + i % 4 / 2, 32 * (i / 4) + 4 * (i % 2)))
        .collect();
    kernel(&format!(
        "{copy}{fragments}shr.u32 %r7, %r3, 4;\ncvt.u64.u32 %rd8, %r7;\nor.b64 %rd8, %rd8, {};\nadd.u32 %r7, %r7, 2048;\n\
         cvt.u64.u32 %rd9, %r7;\nor.b64 %rd9, %rd9, {};\nsetp.ne.b32 %p2, 0, 0;\nwgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{sums}}}, {a_operand}, %rd9, %p2, {flags};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
         shr.u32 %r7, %r1, 5;\nshl.b32 %r7, %r7, 4;\nshr.u32 %r8, %r2, 2;\nadd.u32 %r7, %r7, %r8;\n\
         mul.lo.u32 %r7, %r7, {};\nand.b32 %r8, %r2, 3;\nmad.lo.u32 %r7, %r8, 8, %r7;\ncvt.u64.u32 %rd11, %r7;\n\
         add.s64 %rd12, %rd3, %rd11;\nadd.s64 %rd13, %rd12, {};\n{stores}",
        a.descriptor() as i64,
        b.descriptor() as i64,
        4 * n,
        32 * n,
    ))
}

fn wgmma(n: usize, a: Tile, b: Tile, from_registers: bool, seed: u64) {
    let (va, vb) = (numbers(64 * 16, seed + 1), numbers(n * 16, seed + 2));
    let mut device = Device::new(seed);
    let (pa, pb) = (device.bytes("a", &a.bytes(&va)), device.bytes("b", &b.bytes(&vb)));
    let c = device.gpu.alloc("c", 64 * 4 * n as u64);
    let text = wgmma_text(n, a, b, from_registers);
    device.run(&text, 1, 128, &[pa, pb, c]).unwrap_or_else(|fault| panic!("{n} {a:?} {b:?}: {fault}"));
    assert_eq!(device.floats(c, 64 * n).expect("written"), product(&va, &vb, [64, n, 16]), "{n} {a:?} {b:?}");
}

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

#[test]
fn wgmma_of_every_width() {
    let tile = Tile { swizzle: Swizzle::Bytes128, outer: false };
    for n in (8..=256).step_by(8) {
        wgmma(n, tile, tile, false, n as u64);
    }
}

#[test]
fn wgmma_of_every_layout() {
    for swizzle in SWIZZLES {
        for outer in [false, true] {
            for outer_b in [false, true] {
                wgmma(64, Tile { swizzle, outer }, Tile { swizzle, outer: outer_b }, false, 5);
            }
        }
    }
}

#[test]
fn wgmma_with_a_in_registers() {
    let a = Tile { swizzle: Swizzle::None, outer: false };
    for outer in [false, true] {
        wgmma(128, a, Tile { swizzle: Swizzle::Bytes128, outer }, true, 3);
    }
}

#[test]
fn wgmma_without_its_fences_and_waits() {
    let tile = Tile { swizzle: Swizzle::Bytes128, outer: false };
    let plain = Tile { swizzle: Swizzle::None, outer: false };
    let (shared, registers) = (wgmma_text(64, tile, tile, false), wgmma_text(64, plain, tile, true));
    let commit = "wgmma.commit_group.sync.aligned;";
    let wait = "wgmma.wait_group.sync.aligned 0;";
    let cases = [
        (&shared, wait, "", FaultKind::InFlight),
        (&shared, wait, "wgmma.wait_group.sync.aligned 1;", FaultKind::InFlight),
        (&shared, commit, "", FaultKind::InFlight),
        (&shared, "wgmma.fence.sync.aligned;", "", FaultKind::MissingFence),
        (&shared, "fence.proxy.async;", "", FaultKind::MissingProxyFence),
        (&shared, "bar.sync 0;", "", FaultKind::Race),
        (
            &shared,
            "wgmma.fence.sync.aligned;",
            "wgmma.fence.sync.aligned;\nmov.f32 %f3, 0f00000000;",
            FaultKind::MissingFence,
        ),
        (&registers, commit, "wgmma.commit_group.sync.aligned;\nmov.u32 %r21, 0;", FaultKind::InFlight),
        (&shared, commit, "wgmma.commit_group.sync.aligned;\nst.shared.u32 [%r3+32768], %r1;", FaultKind::Race),
    ];
    for (text, from, to, kind) in cases {
        assert!(text.contains(from));
        for seed in 0..8 {
            let mut device = Device::new(seed);
            let (a, b) = (device.bytes("a", &[0; 32768]), device.bytes("b", &[0; 32768]));
            let c = device.gpu.alloc("c", 64 * 256);
            let fault = device.run(&text.replace(from, to), 1, 128, &[a, b, c]).expect_err("must fault");
            assert_eq!(fault.kind, kind, "{from} -> {to}: {fault}");
        }
    }
}

#[test]
fn unwritten_rows_spoil_their_sums_alone() {
    let tile = Tile { swizzle: Swizzle::Bytes128, outer: false };
    let mut device = Device::new(4);
    let (a, b) = (device.bytes("a", &tile.bytes(&numbers(1024, 1))), device.bytes("b", &tile.bytes(&numbers(1024, 2))));
    // Row 5 of B is bytes 640..768 of its first pattern.
    device.gpu.forget(b + 640, 128).expect("forgets");
    let c = device.gpu.alloc("c", 64 * 256);
    device.run(&wgmma_text(64, tile, tile, false), 1, 128, &[a, b, c]).expect("runs");
    let written = device.gpu.written(c, 64 * 256).expect("inside");
    for (at, written) in written.iter().enumerate() {
        assert_eq!(*written, at / 4 % 64 != 5, "byte {at}");
    }
}

#[test]
fn a_warpgroup_must_be_complete() {
    let text = format!(
        "{HEAD}.visible .entry k()\n{{\n.reg .b64 %d<2>;\n.reg .f32 %f<4>;\n.reg .pred %p;\nmov.b64 %d0, 64;\n\
         setp.ne.b32 %p, 0, 0;\nwgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %d0, %d0, %p, 1, 1, 0, 0;\nret;\n}}\n"
    );
    let fault = Device::new(1).run(&text, 1, 96, &[]).expect_err("must fault");
    assert_eq!(fault.kind, FaultKind::Divergence);
}
