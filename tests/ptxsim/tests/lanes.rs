//! Divergent lanes that wait for each other, poison of register halves, source positions.

mod support;

use ptxsim::{Fault, FaultKind, Options};
use support::{Device, HEAD};

/// A kernel with the pointers `a` and `out` in `%rd1` and `%rd2`, and the thread in `%r1`.
fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 out)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<32>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<16>;\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [out];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, dyn;\n\
         mul.wide.u32 %rd4, %r1, 4;\nadd.s64 %rd1, %rd1, %rd4;\nadd.s64 %rd2, %rd2, %rd4;\n{body}\nret;\n}}\n"
    )
}

fn device(seed: u64) -> Device {
    Device::with(Options { seed, budget: 200_000, ..Options::default() })
}

/// Runs one warp. `a` has the given words.
fn run(seed: u64, body: &str, a: &[u32]) -> Result<Vec<u32>, Fault> {
    let mut device = device(seed);
    let bytes: Vec<u8> = a.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (a, out) = (device.bytes("a", &bytes), device.gpu.alloc("out", 128));
    device.run(&kernel(body), 1, 32, &[a, out])?;
    device.words(out, 32)
}

/// Lane 0 initialises an mbarrier for `arrivals`.
fn barrier(arrivals: u32) -> String {
    format!(
        "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra MADE;\nmbarrier.init.shared::cta.b64 [%r2], {arrivals};\n\
         mbarrier.init.shared::cta.b64 [%r2+8], 1;\nMADE:\nbar.warp.sync -1;\n"
    )
}

const WAIT: &str = "W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], 0;\n@!%p3 bra W;\n";

#[test]
fn lanes_that_wait_let_those_run_that_they_wait_for() {
    // Lanes 1 to 31 are first in the text, and wait for lane 0, which runs a loop.
    let body = barrier(1)
        + "setp.eq.u32 %p2, %r1, 0;\n@%p2 bra WORK;\n"
        + WAIT
        + "bra DONE;\nWORK:\nmov.u32 %r3, 0;\nL:\nadd.u32 %r3, %r3, 1;\nsetp.lt.u32 %p4, %r3, 900;\n@%p4 bra L;\n\
           mbarrier.arrive.shared::cta.b64 _, [%r2];\nDONE:\nst.global.u32 [%rd2], %r1;";
    for seed in 0..12 {
        assert_eq!(run(seed, &body, &[0; 32]), Ok((0..32).collect()), "seed {seed}");
    }
}

/// Runs one warp with `split_lanes`, and returns `out`.
fn run_parted(seed: u64, body: &str) -> Result<Vec<u32>, Fault> {
    let mut device = Device::with(Options { seed, budget: 200_000, split_lanes: true, ..Options::default() });
    let (a, out) = (device.gpu.alloc("a", 128), device.gpu.alloc("out", 128));
    device.run(&kernel(body), 1, 32, &[a, out])?;
    device.words(out, 32)
}

/// A warp barrier makes the store of another lane visible. Without it, the store may be missing.
#[test]
fn lanes_that_part_meet_at_what_they_execute_together() {
    let body = |between: &str| {
        format!(
            "shl.b32 %r3, %r1, 2;\nadd.u32 %r3, %r2, %r3;\nst.shared.u32 [%r3], %r1;\n{between}\n\
             xor.b32 %r4, %r1, 1;\nshl.b32 %r4, %r4, 2;\nadd.u32 %r4, %r2, %r4;\nld.shared.u32 %r5, [%r4];\n\
             st.global.u32 [%rd2], %r5;"
        )
    };
    let expected: Vec<u32> = (0..32).map(|lane| lane ^ 1).collect();
    let wrong = |body: &str| (0..32).filter(|&seed| run_parted(seed, body).as_ref() != Ok(&expected)).count();
    assert_eq!(wrong(&body("bar.warp.sync -1;")), 0);
    assert!(wrong(&body("")) > 0);
    assert_eq!(run(1, &body(""), &[0; 32]), Ok(expected.clone()), "together they find it anyway");
    // The other lanes do not wait for an instruction of the first lane either.
    let first = "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [%r2], 7;\n";
    let read = "ld.shared.u32 %r5, [%r2];\nst.global.u32 [%rd2], %r5;";
    let wrong = |body: &str| (0..64).filter(|&seed| run_parted(seed, body) != Ok(vec![7; 32])).count();
    assert_eq!(wrong(&format!("{first}bar.warp.sync -1;\n{read}")), 0);
    assert!(wrong(&format!("{first}{read}")) > 0);
}

#[test]
fn each_half_of_a_warp_may_wait_for_the_other() {
    // The upper half arrives at the first barrier after the lower half has arrived at the second.
    let body = barrier(16)
        + "setp.ge.u32 %p2, %r1, 16;\n@%p2 bra UPPER;\nsetp.ne.u32 %p5, %r1, 0;\n\
           @!%p5 mbarrier.arrive.shared::cta.b64 _, [%r2+8];\n"
        + WAIT
        + "bra DONE;\nUPPER:\nV: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+8], 0;\n@!%p4 bra V;\n\
           mbarrier.arrive.shared::cta.b64 _, [%r2];\nDONE:\nst.global.u32 [%rd2], %r1;";
    for seed in 0..12 {
        assert_eq!(run(seed, &body, &[0; 32]), Ok((0..32).collect()), "seed {seed}");
    }
    let stuck = body
        .replace("@!%p5 mbarrier.arrive", "@%p5 bra SKIP;\nbra SKIP;\nmbarrier.arrive")
        .replace(WAIT, &format!("SKIP:\n{WAIT}"));
    let fault = run(1, &stuck, &[0; 32]).expect_err("nobody arrives");
    assert_eq!(fault.kind, FaultKind::Deadlock);
    assert!(fault.what.contains("lacks 16 of 16 arrivals") && fault.what.contains("lacks 1 of 1 arrivals"), "{fault}");
}

#[test]
fn a_loop_over_memory_is_no_end_for_the_other_lanes() {
    let body = "setp.eq.u32 %p2, %r1, 0;\nst.shared.u32 [%r2], 0;\nbar.warp.sync -1;\n@%p2 bra WRITE;\n\
                L:\nld.volatile.shared.u32 %r3, [%r2];\nsetp.eq.u32 %p3, %r3, 0;\n@%p3 bra L;\nbra DONE;\n\
                WRITE:\nst.volatile.shared.u32 [%r2], 7;\nmov.u32 %r3, 7;\nDONE:\nst.global.u32 [%rd2], %r3;";
    assert_eq!(run(3, body, &[0; 32]), Ok(vec![7; 32]));
}

/// `%r4` is a pair of bf16: the low half is from `a`, the upper half is poisoned.
const PAIR: &str = "ld.global.f32 %f1, [%rd1];\nld.global.f32 %f2, [%rd2];\ncvt.rn.bf16x2.f32 %r4, %f2, %f1;\n";

fn halves(body: &str) -> Vec<u32> {
    let ones = [1.0f32.to_bits(); 32];
    run(2, &format!("{PAIR}{body}\nst.global.u32 [%rd2], %r5;"), &ones).expect("the written half alone is used")
}

#[test]
fn of_a_pair_one_half_may_be_unwritten() {
    let one = 0x3f80;
    assert_eq!(halves("and.b32 %r5, %r4, 0xffff;"), [one; 32]);
    assert_eq!(halves("shl.b32 %r5, %r4, 16;"), [one << 16; 32]);
    assert_eq!(halves("prmt.b32 %r5, %r4, 0, 0x1044;"), [one << 16; 32]);
    assert_eq!(halves("mov.b32 {%h1, %h2}, %r4;\nmov.b32 %r5, {%h1, %h1};"), [one << 16 | one; 32]);
    assert_eq!(halves("shfl.sync.bfly.b32 %r6, %r4, 3, 31, -1;\nand.b32 %r5, %r6, 0xffff;"), [one; 32]);
    assert_eq!(halves("add.rn.bf16x2 %r6, %r4, %r4;\nand.b32 %r5, %r6, 0xffff;"), [0x4000; 32]);
    let through_memory =
        "mad.lo.u32 %r6, %r1, 4, %r2;\nst.shared.u32 [%r6], %r4;\nld.shared.u16 %h1, [%r6];\ncvt.u32.u16 %r5, %h1;";
    assert_eq!(halves(through_memory), [one; 32]);
    for other in [
        "shr.u32 %r5, %r4, 16;",
        "and.b32 %r5, %r4, 0xffff0000;",
        "prmt.b32 %r5, %r4, 0, 0x4432;",
        "shr.u32 %r5, %r4, 1;",
    ] {
        let body = format!("{PAIR}{other}\nst.global.u32 [%rd2], %r5;");
        let fault = run(2, &body, &[1.0f32.to_bits(); 32]).expect_err("the unwritten half is used");
        assert_eq!(fault.kind, FaultKind::Poison, "{other}");
    }
}

#[test]
fn transposed_matrices_keep_halves_apart() {
    // Rows of the stored matrix are columns of the fragments. Odd rows are unwritten, even rows are not.
    let body = format!(
        "{PAIR}and.b32 %r6, %r1, 7;\nmad.lo.u32 %r6, %r6, 16, %r2;\n\
         stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r6], {{%r4}};\nand.b32 %r7, %r1, 3;\nshl.b32 %r7, %r7, 5;\n\
         shr.u32 %r8, %r1, 2;\nmad.lo.u32 %r7, %r8, 2, %r7;\nadd.u32 %r7, %r7, %r2;\nbar.warp.sync -1;\n\
         ld.shared.u16 %h1, [%r7+SKIP];\ncvt.u32.u16 %r5, %h1;\nst.global.u32 [%rd2], %r5;"
    );
    let ones = [1.0f32.to_bits(); 32];
    assert_eq!(run(1, &body.replace("SKIP", "0"), &ones), Ok(vec![0x3f80; 32]));
    assert_eq!(run(1, &body.replace("SKIP", "16"), &ones).expect_err("odd rows").kind, FaultKind::Poison);
}

#[test]
fn faults_name_the_source() {
    let text = kernel(".loc 1 30 5\nadd.u32 %r3, %r1, 1;\n.loc 2 41 9, function_name $L_n, inlined_at 1 7 3\ntrap;");
    let text = format!("{text}.file 1 \"scan.mlir\"\n.file 2 \"lower/exp.mlir\", 7, 9\n");
    let fault = device(1).run(&text, 1, 32, &[0, 0]).expect_err("traps");
    assert_eq!(fault.origin.as_deref(), Some("lower/exp.mlir:41"));
    assert!(fault.to_string().contains("PTX line 22 `trap;`, from lower/exp.mlir:41: the kernel trapped"), "{fault}");
}
