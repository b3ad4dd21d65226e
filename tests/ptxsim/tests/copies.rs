//! `cp.async`, mbarriers, bulk and tensor copies, with and without their waits.

mod support;

use ptxsim::{Element, FaultKind, Swizzle, TensorMap};
use support::{Device, kernel, numbers};

/// Runs under several seeds. All runs must be right, or all must have faults of the given kinds.
fn each_seed(text: &str, threads: u32, expected: Option<&[FaultKind]>, check: impl Fn(&[u32]) -> bool) {
    for seed in 0..12 {
        let mut device = Device::new(seed);
        let values: Vec<u8> = (0..1024u32).flat_map(|i| (i * 3 + 1).to_le_bytes()).collect();
        let a = device.bytes("a", &values);
        let b = device.bytes("b", &values);
        let c = device.gpu.alloc("c", 4096);
        match (device.run(text, 1, threads, &[a, b, c]), expected) {
            (Ok(_), None) => assert!(check(&device.words(c, 32).expect("written")), "seed {seed}: wrong answer"),
            (Err(fault), Some(kinds)) => assert!(kinds.contains(&fault.kind), "seed {seed}: {fault}"),
            (Ok(_), Some(kinds)) => panic!("seed {seed}: no fault, expected {kinds:?}"),
            (Err(fault), None) => panic!("seed {seed}: {fault}"),
        }
    }
}

fn tripled(words: &[u32]) -> bool {
    (0..32).all(|i| words[i] == 3 * i as u32 + 1)
}

/// Two warps copy 16 bytes per lane, then each reads the data of the other.
const PIECES: &str = "shl.b32 %r4, %r1, 4;\nadd.u32 %r5, %r3, %r4;\ncvt.u64.u32 %rd4, %r4;\nadd.s64 %rd5, %rd1, %rd4;\n\
    cp.async.cg.shared.global [%r5], [%rd5], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n\
    xor.b32 %r6, %r4, 512;\nadd.u32 %r6, %r6, %r3;\nld.shared.u32 %r7, [%r6];\nadd.s64 %rd6, %rd3, %rd4;\n\
    shr.u32 %r8, %r4, 2;\nxor.b32 %r8, %r8, 128;\nmad.lo.u32 %r8, %r8, 3, 1;\nsub.u32 %r7, %r7, %r8;\n\
    shr.u32 %r9, %r4, 2;\ncvt.u64.u32 %rd7, %r9;\nadd.s64 %rd7, %rd3, %rd7;\nst.global.u32 [%rd7], %r7;";

#[test]
fn pieces_are_there_after_the_wait_and_the_barrier() {
    each_seed(&kernel(PIECES), 64, None, |words| words.iter().all(|word| *word == 0));
}

#[test]
fn pieces_without_wait_commit_or_barrier_race() {
    // A copy that is still in flight leaves unwritten memory, and is reported at the end of the block.
    let race = Some(&[FaultKind::Race, FaultKind::Unfinished][..]);
    for gone in ["cp.async.wait_group 0;", "cp.async.commit_group;", "bar.sync 0;"] {
        each_seed(&kernel(&PIECES.replace(gone, "")), 64, race, |_| true);
    }
    each_seed(&kernel(&PIECES.replace("wait_group 0", "wait_group 1")), 64, race, |_| true);
}

#[test]
fn a_short_piece_is_filled_with_zeros() {
    let body = "shl.b32 %r4, %r1, 4;\nadd.u32 %r5, %r3, %r4;\ncvt.u64.u32 %rd4, %r4;\nadd.s64 %rd5, %rd1, %rd4;\n\
        cp.async.ca.shared.global [%r5], [%rd5], 16, 4;\ncp.async.wait_all;\nld.shared.v2.u32 {%r6, %r7}, [%r5];\n\
        add.u32 %r6, %r6, %r7;\nshr.u32 %r8, %r4, 2;\ncvt.u64.u32 %rd6, %r8;\nadd.s64 %rd6, %rd3, %rd6;\n\
        st.global.u32 [%rd6], %r6;";
    each_seed(&kernel(body), 32, None, |words| (0..32).all(|i| words[i] == 12 * i as u32 + 1));
}

/// Thread 0 starts a bulk load of 128 bytes. All threads wait for the mbarrier, then read.
const BULK: &str = "add.u32 %r4, %r3, 4096;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra S;\n\
    mbarrier.init.shared::cta.b64 [%r4], 1;\nfence.mbarrier_init.release.cluster;\nS:\nbar.sync 0;\n@%p1 bra L;\n\
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 128;\n\
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 128, [%r4];\nL:\n\
    {\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared::cta.b64 q, [%r4], 0;\n@!q bra W;\n}\n\
    and.b32 %r5, %r1, 31;\nshl.b32 %r6, %r5, 2;\nadd.u32 %r7, %r3, %r6;\nld.shared.u32 %r8, [%r7];\n\
    cvt.u64.u32 %rd4, %r6;\nadd.s64 %rd5, %rd3, %rd4;\nst.global.u32 [%rd5], %r8;";

#[test]
fn a_bulk_load_is_there_when_its_mbarrier_says_so() {
    each_seed(&kernel(BULK), 64, None, tripled);
}

#[test]
fn a_bulk_load_with_a_fault_is_caught_whatever_the_order() {
    use FaultKind::{Barrier, Deadlock, MissingProxyFence, Race, Unfinished};
    let cases: [(&str, &str, &[FaultKind]); 7] = [
        ("q, [%r4], 0;", "q, [%r4], 1;", &[Race, Unfinished, Deadlock]),
        ("_, [%r4], 128;", "_, [%r4], 112;", &[Deadlock]),
        ("_, [%r4], 128;", "_, [%r4], 144;", &[Deadlock]),
        ("_, [%r4], 128;", "_, [%r4], 0;", &[Race, Unfinished]),
        ("fence.mbarrier_init.release.cluster;", "", &[MissingProxyFence]),
        ("bar.sync 0;", "", &[Race, Barrier]),
        ("mbarrier.init.shared::cta.b64 [%r4], 1;", "mbarrier.init.shared::cta.b64 [%r4], 2;", &[Deadlock]),
    ];
    for (from, to, kinds) in cases {
        each_seed(&kernel(&BULK.replace(from, to)), 64, Some(kinds), |_| true);
    }
}

#[test]
fn deadlocks_say_what_is_missing() {
    let mut device = Device::new(1);
    let a = device.bytes("a", &[0; 4096]);
    let text = kernel(&BULK.replace("_, [%r4], 128;", "_, [%r4], 160;"));
    let fault = device.run(&text, 1, 64, &[a, a, a]).expect_err("must fault");
    assert!(fault.what.contains("lacks 0 of 1 arrivals and 32 bytes"), "{fault}");
}

/// One warp passes a buffer to another four times, with mbarriers and ordinary stores.
const HANDOFF: &str = "add.u32 %r4, %r3, 4096;\nadd.u32 %r5, %r3, 4104;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra S;\n\
    mbarrier.init.shared.b64 [%r4], 32;\nmbarrier.init.shared.b64 [%r5], 32;\nS:\nbar.sync 0;\nmov.u32 %r6, 0;\n\
    mov.u32 %r10, 0;\nshl.b32 %r7, %r2, 2;\nadd.u32 %r8, %r3, %r7;\nsetp.ge.u32 %p2, %r1, 32;\n@%p2 bra C;\n\
    P:\nand.b32 %r9, %r6, 1;\nxor.b32 %r9, %r9, 1;\n\
    {\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared.b64 q, [%r5], %r9;\n@!q bra W;\n}\n\
    mad.lo.u32 %r11, %r6, 100, %r2;\nst.shared.u32 [%r8], %r11;\nmbarrier.arrive.shared.b64 _, [%r4];\n\
    add.u32 %r6, %r6, 1;\nsetp.lt.u32 %p3, %r6, 4;\n@%p3 bra P;\nret;\n\
    C:\nand.b32 %r9, %r6, 1;\n{\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared.b64 q, [%r4], %r9;\n@!q bra W;\n}\n\
    ld.shared.u32 %r11, [%r8];\nadd.u32 %r10, %r10, %r11;\nmbarrier.arrive.shared.b64 _, [%r5];\n\
    add.u32 %r6, %r6, 1;\nsetp.lt.u32 %p3, %r6, 4;\n@%p3 bra C;\n\
    cvt.u64.u32 %rd4, %r7;\nadd.s64 %rd5, %rd3, %rd4;\nst.global.u32 [%rd5], %r10;";

#[test]
fn mbarriers_order_ordinary_stores() {
    each_seed(&kernel(HANDOFF), 64, None, |words| (0..32).all(|i| words[i] == 600 + 4 * i as u32));
}

#[test]
fn a_handoff_without_its_waits_races() {
    let kinds = Some(&[FaultKind::Race, FaultKind::Poison, FaultKind::Barrier, FaultKind::Deadlock][..]);
    let waits: Vec<_> = HANDOFF.match_indices("mbarrier.try_wait.parity.shared.b64").map(|(at, _)| at).collect();
    for at in waits {
        let end = at + HANDOFF[at..].find(';').expect("a semicolon");
        let text = format!("{}setp.eq.u32 q, 0, 0{}", &HANDOFF[..at], &HANDOFF[end..]);
        each_seed(&kernel(&text), 64, kinds, |_| true);
    }
}

/// Lanes store to shared memory, then lane 0 starts a bulk store to global memory.
const STORE: &str = "shl.b32 %r4, %r1, 2;\nadd.u32 %r5, %r3, %r4;\nmad.lo.u32 %r6, %r1, 3, 1;\nst.shared.u32 [%r5], %r6;\n\
    fence.proxy.async.shared::cta;\nbar.sync 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra E;\n\
    cp.async.bulk.global.shared::cta.bulk_group [%rd3], [%r3], 256;\ncp.async.bulk.commit_group;\n\
    cp.async.bulk.wait_group.read 0;\nE:";

#[test]
fn bulk_stores_want_a_proxy_fence_a_barrier_and_a_wait() {
    each_seed(&kernel(STORE), 64, None, tripled);
    for (gone, kind) in [
        ("fence.proxy.async.shared::cta;", FaultKind::MissingProxyFence),
        ("bar.sync 0;", FaultKind::Race),
        ("cp.async.bulk.wait_group.read 0;", FaultKind::Unfinished),
        ("cp.async.bulk.commit_group;", FaultKind::Unfinished),
    ] {
        each_seed(&kernel(&STORE.replace(gone, "")), 64, Some(&[kind, FaultKind::Race]), |_| true);
    }
    let reused =
        STORE.replace("cp.async.bulk.wait_group.read 0;", "st.shared.u32 [%r5], 0;\ncp.async.bulk.wait_group.read 0;");
    each_seed(&kernel(&reused), 64, Some(&[FaultKind::Race]), |_| true);
    // Any thread that the stores are ordered before may execute the fence.
    let late = STORE
        .replace("fence.proxy.async.shared::cta;", "")
        .replace("@%p1 bra E;\n", "@%p1 bra E;\nfence.proxy.async;\n");
    each_seed(&kernel(&late), 64, None, tripled);
}

#[test]
fn boxes_are_swizzled_and_filled_with_zeros() {
    let (rows, cols) = (20usize, 72usize);
    let values = numbers(rows * cols, 7);
    let half = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
    for (swizzle, width) in
        [(Swizzle::None, 64), (Swizzle::Bytes128, 64), (Swizzle::Bytes64, 32), (Swizzle::Bytes32, 16)]
    {
        for (x, y) in [(0i32, 0i32), (16, 8), (56, 13), (-8, -3), (5, 2)] {
            let mut device = Device::new(x as u64);
            let a = device.halves("a", &values);
            let map = TensorMap {
                address: a,
                elem: Element::Bf16,
                dims: vec![cols as u64, rows as u64],
                strides: vec![2 * cols as u64],
                box_dims: vec![width, 16],
                swizzle,
            };
            let bytes = map.box_bytes();
            let b = device.bytes("map", &map.encode());
            let c = device.gpu.alloc("c", bytes as u64);
            let body = BULK.replace("_, [%r4], 128;", &format!("_, [%r4], {bytes};")).replace(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 128, [%r4];",
                &format!(
                    "mov.u32 %r20, {x};\nfence.proxy.tensormap::generic.acquire.sys [%rd2], 128;\n\
                         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
                         [%r3], [%rd2, {{%r20, {y}}}], [%r4];"
                ),
            );
            let copy = body.find("and.b32 %r5, %r1, 31;").expect("the reading part");
            let body = format!(
                "{}mov.u32 %r5, 0;\nR:\nshl.b32 %r6, %r1, 2;\nadd.u32 %r6, %r6, %r5;\nadd.u32 %r7, %r3, %r6;\n\
                 ld.shared.u32 %r8, [%r7];\ncvt.u64.u32 %rd4, %r6;\nadd.s64 %rd5, %rd3, %rd4;\n\
                 st.global.u32 [%rd5], %r8;\nadd.u32 %r5, %r5, 128;\nsetp.lt.u32 %p2, %r5, {bytes};\n@%p2 bra R;",
                &body[..copy]
            );
            // Only the address in shared memory must be aligned.
            device.run(&kernel(&body), 1, 32, &[a, b, c]).unwrap_or_else(|fault| panic!("{fault}"));
            let got = device.words(c, bytes / 4).expect("written");
            for row in 0..16 {
                for col in 0..width as usize {
                    let at = swizzle.apply(row * 2 * width as usize + 2 * col);
                    let (i, j) = (y + row as i32, x + col as i32);
                    let inside = (0..rows as i32).contains(&i) && (0..cols as i32).contains(&j);
                    let expected = if inside { half(values[i as usize * cols + j as usize]) } else { 0 };
                    let found = got[at / 4] >> (8 * (at % 4)) & 0xffff;
                    assert_eq!(found, expected, "{swizzle:?} box at {x}, {y}: row {row} column {col}");
                }
            }
        }
    }
}

#[test]
fn copies_report_to_mbarriers() {
    let body = "add.u32 %r9, %r3, 4096;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra S;\nmbarrier.init.shared.b64 [%r9], 64;\nS:\n\
        bar.sync 0;\nshl.b32 %r4, %r1, 4;\nadd.u32 %r5, %r3, %r4;\ncvt.u64.u32 %rd4, %r4;\nadd.s64 %rd5, %rd1, %rd4;\n\
        cp.async.cg.shared.global [%r5], [%rd5], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r9];\n\
        {\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared.b64 q, [%r9], 0;\n@!q bra W;\n}\n\
        shl.b32 %r6, %r1, 2;\nadd.u32 %r7, %r3, %r6;\nld.shared.u32 %r8, [%r7];\ncvt.u64.u32 %rd6, %r6;\n\
        add.s64 %rd6, %rd3, %rd6;\nst.global.u32 [%rd6], %r8;";
    each_seed(&kernel(body), 64, None, tripled);
    let waitless = body.replace("@!q bra W;", "");
    each_seed(&kernel(&waitless), 64, Some(&[FaultKind::Race, FaultKind::Unfinished]), |_| true);
    let silent = body.replace("cp.async.mbarrier.arrive.noinc.shared.b64 [%r9];", "");
    each_seed(&kernel(&silent), 64, Some(&[FaultKind::Deadlock]), |_| true);
}

#[test]
fn mbarrier_rules() {
    let two = "mbarrier.init.shared.b64 [%r3], 1;\nmbarrier.arrive.shared.b64 _, [%r3], 2;";
    each_seed(&kernel(two), 1, Some(&[FaultKind::Barrier]), |_| true);
    let none = "mbarrier.arrive.shared.b64 _, [%r3];";
    each_seed(&kernel(none), 1, Some(&[FaultKind::Barrier]), |_| true);
    let overwritten = "mbarrier.init.shared.b64 [%r3], 1;\nst.shared.u32 [%r3+4], 0;";
    each_seed(&kernel(overwritten), 1, Some(&[FaultKind::Barrier]), |_| true);
    let state = "mbarrier.init.shared.b64 [%r3], 2;\nmbarrier.arrive.shared.b64 %rd4, [%r3];\n\
        mbarrier.test_wait.shared.b64 %p1, [%r3], %rd4;\nmbarrier.arrive.shared.b64 _, [%r3];\n\
        mbarrier.test_wait.shared.b64 %p2, [%r3], %rd4;\nmbarrier.inval.shared.b64 [%r3];\nst.shared.u32 [%r3], 7;\n\
        selp.u32 %r4, 1, 0, %p1;\nselp.u32 %r5, 2, 0, %p2;\nadd.u32 %r4, %r4, %r5;\nmov.u32 %r6, 0;\nL:\n\
        cvt.u64.u32 %rd5, %r6;\nadd.s64 %rd5, %rd5, %rd3;\nst.global.u32 [%rd5], %r4;\nadd.u32 %r6, %r6, 4;\n\
        setp.lt.u32 %p3, %r6, 128;\n@%p3 bra L;";
    each_seed(&kernel(state), 1, None, |words| words.iter().all(|word| *word == 2));
}
