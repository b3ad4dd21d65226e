//! Small kernels: arithmetic, memory, branches, barriers, shuffles, and their faults.

use ptxsim::{Fault, FaultKind, Gpu, Launch, Module, Options};

const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n";

/// A kernel with pointers `a`, `b`, `c` in `%rd1..3` and the thread in `%r1`.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<64>;\n.reg .f32 %f<64>;\n.reg .b64 %rd<32>;\n{declarations}\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\nmov.u32 %r1, %tid.x;\n\
         mul.wide.u32 %rd4, %r1, 4;\nadd.s64 %rd5, %rd1, %rd4;\nadd.s64 %rd6, %rd2, %rd4;\nadd.s64 %rd7, %rd3, %rd4;\n\
         {body}\nret;\n}}\n"
    )
}

struct Case {
    gpu: Gpu,
    arguments: [u64; 3],
}

/// `a` and `b` have values, `c` is unwritten; each has `n` words.
fn case(seed: u64, n: usize) -> Case {
    let mut gpu = Gpu::new(Options { seed, ..Options::default() });
    let arguments = ["a", "b", "c"].map(|name| gpu.alloc(name, 4 * n as u64));
    for (i, address) in arguments[..2].iter().enumerate() {
        let bytes: Vec<u8> = (0..n as u32).flat_map(|at| (at * 7 + 1000 * i as u32).to_le_bytes()).collect();
        gpu.write(*address, &bytes).expect("writes");
    }
    Case { gpu, arguments }
}

impl Case {
    fn run(&mut self, text: &str, grid: u32, threads: u32) -> Result<ptxsim::Stats, Fault> {
        let module = Module::parse(text).expect("parses");
        let launch = Launch { grid: [grid, 1, 1], block: [threads, 1, 1], shared_bytes: 1024 };
        self.gpu.launch(&module, "k", launch, &self.arguments)
    }

    fn result(&self, n: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * n];
        self.gpu.read(self.arguments[2], &mut bytes).expect("reads");
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
    }
}

/// The results of 64 threads.
fn words(body: &str) -> Vec<u32> {
    let mut case = case(3, 64);
    case.run(&kernel("", body), 1, 64).expect("runs");
    case.result(64)
}

fn kind(text: &str, threads: u32) -> FaultKind {
    case(5, 256).run(text, 1, threads).expect_err("must fault").kind
}

#[test]
fn adds_two_vectors() {
    let got = words(
        "ld.global.u32 %r2, [%rd5];\nld.global.nc.u32 %r3, [%rd6];\nadd.s32 %r4, %r2, %r3;\nst.global.u32 [%rd7], %r4;",
    );
    assert_eq!(got, (0..64).map(|i| 14 * i + 1000).collect::<Vec<_>>());
}

#[test]
fn integer_functions() {
    for (instruction, expected) in [
        ("mad.lo.s32 %r4, %r2, 3, -5;", (|x: u32| x.wrapping_mul(3).wrapping_sub(5)) as fn(u32) -> u32),
        ("shl.b32 %r4, %r2, 33;", |_| 0),
        ("shr.s32 %r4, %r2, 2;", |x| x >> 2),
        ("bfe.u32 %r4, %r2, 1, 4;", |x| x >> 1 & 15),
        ("bfe.s32 %r4, %r2, 0, 3;", |x| ((x << 29) as i32 >> 29) as u32),
        ("bfi.b32 %r4, %r2, 0, 4, 8;", |x| (x & 255) << 4),
        ("prmt.b32 %r4, %r2, 0, 0x4140;", |x| x & 255 | (x >> 8 & 255) << 16),
        ("lop3.b32 %r4, %r2, 0xff, 0xf000, 0xEA;", |x| x & 0xff | 0xf000),
        ("shf.l.wrap.b32 %r4, %r2, %r2, 8;", |x| x.rotate_left(8)),
        ("mul.hi.u32 %r4, %r2, 0x80000000;", |x| x >> 1),
        ("popc.b32 %r4, %r2;", u32::count_ones),
        ("clz.b32 %r4, %r2;", u32::leading_zeros),
        ("brev.b32 %r4, %r2;", u32::reverse_bits),
        ("div.u32 %r4, %r2, 10;", |x| x / 10),
        ("rem.s32 %r4, %r2, 10;", |x| x % 10),
        ("min.u32 %r4, %r2, 77;", |x| x.min(77)),
        ("not.b32 %r4, %r2;", |x| !x),
        ("abs.s32 %r4, %r2;", |x| x),
        ("cvt.u16.u32 %h1, %r2; mul.wide.u16 %r4, %h1, 300;", |x| x * 300),
        ("cvt.s64.s32 %rd8, %r2; shr.u64 %rd9, %rd8, 1; cvt.u32.u64 %r4, %rd9;", |x| x >> 1),
        ("setp.gt.u32 %p1, %r2, 100; selp.b32 %r4, 1, %r2, %p1;", |x| if x > 100 { 1 } else { x }),
        ("setp.lt.and.u32 %p2|%p3, %r2, 100, !%p4; selp.u32 %r4, 7, 9, %p2;", |x| if x < 100 { 7 } else { 9 }),
        ("slct.b32.s32 %r4, 5, 6, %r2;", |_| 5),
        ("mov.b32 {%h1, %h2}, %r2; mov.b32 %r4, {%h2, %h1};", |x| x.rotate_left(16)),
        ("dp4a.u32.u32 %r4, %r2, 0x01010101, 1;", |x| x.to_le_bytes().iter().map(|b| u32::from(*b)).sum::<u32>() + 1),
        ("cvt.rn.f32.u32 %f1, %r2; cvt.rn.bf16.f32 %h1, %f1; cvt.f32.bf16 %f2, %h1; cvt.rzi.s32.f32 %r4, %f2;", |x| {
            half::bf16::from_f32(x as f32).to_f32() as u32
        }),
    ] {
        let got = words(&format!(
            "setp.ne.s32 %p4, %r1, %r1;\nld.global.u32 %r2, [%rd5];\n{instruction}\nst.global.u32 [%rd7], %r4;"
        ));
        assert_eq!(got, (0..64).map(|i| expected(7 * i)).collect::<Vec<_>>(), "{instruction}");
    }
}

#[test]
fn halves() {
    let got = words(
        "cvt.rn.f32.u32 %f1, %r1;\nmov.f32 %f2, 0f40000000;\ncvt.rn.bf16x2.f32 %r2, %f1, %f2;\n\
         mov.b32 %r3, 0x3f803f80;\nfma.rn.bf16x2 %r4, %r2, %r2, %r3;\nst.global.u32 [%rd7], %r4;",
    );
    let bf = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
    assert_eq!(got, (0..64).map(|i| bf((i * i + 1) as f32) << 16 | bf(5.0)).collect::<Vec<_>>());
}

#[test]
fn loops_and_divergence_reconverge() {
    // Lane i sums 1 … i, then the warp adds the sums of all lanes.
    let got = words(
        "mov.u32 %r2, 0;\nmov.u32 %r3, %r1;\nL:\nsetp.eq.u32 %p1, %r3, 0;\n@%p1 bra D;\nadd.u32 %r2, %r2, %r3;\n\
         sub.u32 %r3, %r3, 1;\nbra L;\nD:\nshfl.sync.bfly.b32 %r4, %r2, 16, 31, -1;\nadd.u32 %r2, %r2, %r4;\n\
         shfl.sync.bfly.b32 %r4, %r2, 8, 31, -1;\nadd.u32 %r2, %r2, %r4;\nshfl.sync.bfly.b32 %r4, %r2, 4, 31, -1;\n\
         add.u32 %r2, %r2, %r4;\nshfl.sync.bfly.b32 %r4, %r2, 2, 31, -1;\nadd.u32 %r2, %r2, %r4;\n\
         shfl.sync.bfly.b32 %r4, %r2, 1, 31, -1;\nadd.u32 %r2, %r2, %r4;\nst.global.u32 [%rd7], %r2;",
    );
    let sum = |first: u32| (first..first + 32).map(|i| i * (i + 1) / 2).sum::<u32>();
    assert_eq!(got, (0..64).map(|i| sum(i / 32 * 32)).collect::<Vec<_>>());
}

#[test]
fn code_moved_behind_its_join_still_meets() {
    // The code of the odd lanes is after the shuffle of all lanes.
    let got = words(
        "and.b32 %r2, %r1, 1;\nsetp.ne.u32 %p1, %r2, 0;\nmov.u32 %r3, 5;\n@%p1 bra COLD;\nJOIN:\n\
         shfl.sync.idx.b32 %r4, %r3, 1, 31, -1;\nst.global.u32 [%rd7], %r4;\nret;\nCOLD:\nmov.u32 %r3, 9;\nbra JOIN;",
    );
    assert_eq!(got, vec![9; 64]);
}

#[test]
fn votes_and_reductions() {
    let got = words(
        "setp.lt.u32 %p1, %r1, 40;\nvote.sync.ballot.b32 %r2, %p1, -1;\nredux.sync.add.s32 %r3, %r1, -1;\n\
         elect.sync %r5|%p2, -1;\nselp.u32 %r6, 1000, 0, %p2;\npopc.b32 %r4, %r2;\nadd.u32 %r4, %r4, %r3;\n\
         add.u32 %r4, %r4, %r6;\nst.global.u32 [%rd7], %r4;",
    );
    let expected = |i: u32| {
        let first = i / 32 * 32;
        (if first == 0 { 32 } else { 8 })
            + (first..first + 32).sum::<u32>()
            + if i.is_multiple_of(32) { 1000 } else { 0 }
    };
    assert_eq!(got, (0..64).map(expected).collect::<Vec<_>>());
}

const EXCHANGE: &str = "ld.global.u32 %r2, [%rd5];\nshl.b32 %r3, %r1, 2;\nmov.u32 %r4, s;\nadd.u32 %r5, %r4, %r3;\n\
                        st.shared.u32 [%r5], %r2;\nbar.sync 0;\nsub.u32 %r6, 252, %r3;\nadd.u32 %r6, %r4, %r6;\n\
                        ld.shared.u32 %r7, [%r6];\nst.global.u32 [%rd7], %r7;";

#[test]
fn shared_memory_and_barrier() {
    let mut case = case(1, 64);
    case.run(&kernel(".shared .align 4 .b8 s[256];", EXCHANGE), 1, 64).expect("runs");
    assert_eq!(case.result(64), (0..64).map(|i| 7 * (63 - i)).collect::<Vec<_>>());
}

#[test]
fn a_missing_barrier_is_a_race_whatever_the_order() {
    let text = kernel(".shared .align 4 .b8 s[256];", &EXCHANGE.replace("bar.sync 0;", ""));
    for seed in 0..20 {
        let fault = case(seed, 64).run(&text, 1, 64).expect_err("must fault");
        // The first warp reads unwritten memory, the other one races.
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Poison), "{fault}");
    }
}

#[test]
fn a_buffer_used_again_too_early_is_a_race() {
    let text = kernel(".shared .align 4 .b8 s[256];", &format!("{EXCHANGE}\nst.shared.u32 [%r5], 0;"));
    assert_eq!(kind(&text, 64), FaultKind::Race);
}

#[test]
fn unwritten_memory_is_seen() {
    // Poison propagates to memory.
    let mut carried = case(1, 64);
    let body = "ld.global.u32 %r2, [%rd7];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%rd7], %r2;";
    carried.run(&kernel("", body), 1, 64).expect("runs");
    let fault = carried.gpu.read(carried.arguments[2], &mut [0; 4]).expect_err("unwritten");
    assert_eq!(fault.kind, FaultKind::Poison);
    let branch = "ld.global.u32 %r2, [%rd7];\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 bra L;\nL:";
    assert_eq!(kind(&kernel("", branch), 64), FaultKind::Poison);
    let address = "ld.global.u32 %r2, [%rd7];\ncvt.u64.u32 %rd8, %r2;\nst.global.u32 [%rd8], %r1;";
    assert_eq!(kind(&kernel("", address), 64), FaultKind::Poison);
    let dropped = "ld.global.u32 %r2, [%rd7];\nsetp.eq.u32 %p1, %r1, %r1;\nselp.u32 %r2, 4, %r2, %p1;\nst.global.u32 [%rd7], %r2;";
    assert_eq!(words(dropped), vec![4; 64]);
}

/// What the running grid has stored may be old in the non-coherent path: whole rows, single lanes and atomics, until the next grid.
#[test]
fn non_coherent_loads_of_stored_bytes_are_seen() {
    let store = "ld.global.nc.u32 %r2, [%rd5];\nst.global.u32 [%rd7], %r2;\n";
    let one = "setp.eq.u32 %p1, %r1, 3;\n@%p1 st.global.u8 [%rd7+1], %r1;\n";
    let atomic = "atom.global.add.u32 %r2, [%rd7], 1;\n";
    let with_zeros = || {
        let mut case = case(5, 256);
        case.gpu.write(case.arguments[2], &[0; 1024]).expect("writes");
        case
    };
    for first in [store, one, atomic] {
        for load in ["ld.global.nc.u32 %r3, [%rd7];", "ld.global.nc.u8 %r3, [%rd3+13];"] {
            let found = with_zeros().run(&kernel("", &format!("{first}{load}")), 1, 32).expect_err("must fault");
            assert_eq!(found.kind, FaultKind::NonCoherent, "{first}{load}: {found}");
            assert!(found.what.contains("`c`"), "{found}");
        }
        // Other bytes, the coherent path, and what an earlier grid has stored.
        for load in ["ld.global.nc.u32 %r3, [%rd6];", "ld.global.nc.u8 %r3, [%rd3+144];", "ld.global.u32 %r3, [%rd7];"]
        {
            let mut case = with_zeros();
            case.run(&kernel("", &format!("{first}{load}")), 1, 32).unwrap_or_else(|fault| panic!("{fault}"));
            case.run(&kernel("", "ld.global.nc.u32 %r3, [%rd7];"), 1, 32).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }
}

#[test]
fn bad_addresses_are_seen_with_their_place() {
    let text = kernel("", "st.global.u32 [%rd7+4], %r1;");
    let fault = case(1, 64).run(&text, 1, 64).expect_err("must fault");
    assert_eq!((fault.kind, fault.thread, fault.line), (FaultKind::OutOfBounds, Some(63), 20));
    assert!(fault.to_string().contains("`c` of 256 bytes"), "{fault}");
    assert_eq!(kind(&kernel("", "st.global.v2.u32 [%rd7], {%r1, %r1};"), 64), FaultKind::Misaligned);
    assert_eq!(kind(&kernel("", "mov.u32 %r2, 0;\nst.shared.u32 [%r2], %r1;"), 64), FaultKind::OutOfBounds);
    assert_eq!(kind(&kernel("", "st.global.u32 [%rd4], %r1;"), 64), FaultKind::OutOfBounds);
}

#[test]
fn a_barrier_that_not_all_reach_is_a_deadlock() {
    let body = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra L;\nbar.sync 1, 64;\nL:\nbar.sync 0;";
    let fault = case(1, 64).run(&kernel("", body), 1, 64).expect_err("must fault");
    assert_eq!(fault.kind, FaultKind::Deadlock);
    assert!(fault.what.contains("32 of 64 threads at barrier 1"), "{fault}");
    let diverged = "setp.lt.u32 %p1, %r1, 5;\n@%p1 bra L;\nbar.sync 0;\nret;\nL:\nbar.sync 0;";
    assert_eq!(kind(&kernel("", diverged), 64), FaultKind::Divergence);
}

#[test]
fn atomics_count_across_blocks() {
    let mut case = case(1, 64);
    case.gpu.write(case.arguments[2], &[0; 256]).expect("writes");
    let stats = case
        .run(&kernel("", "atom.global.add.u32 %r2, [%rd3], 1;\nred.global.max.u32 [%rd3+4], %r2;"), 9, 64)
        .expect("runs");
    assert_eq!(case.result(2), [576, 575]);
    assert_eq!(stats.of(ptxsim::Class::Atomic), 2 * 2 * 9);
}

#[test]
fn approximate_functions_err_within_bounds_by_seed() {
    let body = "cvt.rn.f32.u32 %f1, %r1;\nmul.rn.f32 %f2, %f1, 0f3dcccccd;\nex2.approx.ftz.f32 %f3, %f2;\nst.global.f32 [%rd7], %f3;";
    let run = |seed, exact_math| {
        let mut case = case(1, 64);
        let options = Options { seed, exact_math, ..Options::default() };
        case.gpu = Gpu::new(options);
        case.arguments = ["a", "b", "c"].map(|name| case.gpu.alloc(name, 256));
        case.run(&kernel("", body), 1, 64).expect("runs");
        case.result(64).into_iter().map(f32::from_bits).collect::<Vec<_>>()
    };
    let exact = run(1, true);
    assert!(exact.iter().enumerate().all(|(i, y)| *y == (f64::from(i as f32 * 0.1).exp2()) as f32));
    let (one, again, two) = (run(1, false), run(1, false), run(2, false));
    assert_eq!(one, again);
    assert!(one != two && one.iter().zip(&exact).all(|(a, b)| (a / b - 1.0).abs() < 2.4e-7 * 1.3), "{one:?}");
}

#[test]
fn unknown_text_is_an_error_with_its_line() {
    let error =
        Module::parse(&kernel("", "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%rd1, {%f1, %f2}];")).expect_err("unknown");
    assert_eq!(error.line, 20);
    assert!(error.what.contains("tex.2d"), "{error}");
    assert!(Module::parse(&kernel("", "add.s32 %r2, %r99, 1;")).expect_err("undeclared").what.contains("%r99"));
}

#[test]
fn cut_instructions_are_errors_not_panics() {
    let lines = [
        "mad.wide.s32 %rd8, %r2, %r3, %rd4",
        "setp.lt.and.u32 %p1|%p2, %r2, %r3, !%p3",
        "bfi.b32 %r2, %r3, %r4, 1, 2",
        "cvt.rn.bf16x2.f32 %r2, %f1, %f2",
        "shfl.sync.bfly.b32 %r2|%p1, %r3, 1, 31, -1",
        "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+16]",
        "atom.global.cas.b32 %r2, [%rd1], %r3, %r4",
        "fma.rn.ftz.f32 %f1, %f2, %f3, %f4",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 128, [%r4]",
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {%r2, 0}], [%r4]",
        "cp.async.cg.shared.global [%r2], [%rd1], 16",
        "mbarrier.try_wait.parity.shared.b64 %p1, [%r2], %r3",
        "mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r2, %r3}, {%r4}, {%f1, %f2, %f3, %f4}",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, %rd2, %p1, 1, 1, 0, 0",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r2, %r3}, [%r4]",
        "bar.sync 0, 64",
        "lop3.b32 %r2, %r3, %r4, %r5, 0xEA",
        "vote.sync.ballot.b32 %r2, %p1, -1",
        "elect.sync %r2|%p1, -1",
        "dp4a.s32.s32 %r2, %r3, %r4, %r5",
        "createpolicy.fractional.L2::evict_first.b64 %rd8, 1.0",
        "brx.idx %r2, T",
        "@%p1 bra L",
    ];
    for line in lines {
        let (opcode, operands) = line.split_once(' ').expect("operands");
        let parts: Vec<&str> = opcode.split('.').collect();
        for n_parts in 1..=parts.len() {
            let mut cut = operands.to_owned();
            loop {
                let text = kernel("", &format!("{} {cut};\nL:", parts[..n_parts].join(".")));
                if let Err(error) = Module::parse(&text) {
                    assert_eq!(error.line, 20, "{line}: {error}");
                } else {
                    assert!(n_parts >= 2 || line.starts_with('@'), "{text}");
                }
                match cut.rfind(',') {
                    Some(at) => cut.truncate(at),
                    None if cut.is_empty() => break,
                    None => cut.clear(),
                }
            }
        }
    }
}
