//! A persistent, warp-specialised matrix product: tensor copies through a ring of mbarriers, wgmma, results through shared memory
//! and a tensor store. It must be right under every seed, and every mutant must be detected.

mod support;

use ptxsim::mutate::{self, Kind};
use ptxsim::{Element, Fault, Options, Stats, Swizzle, TensorMap};
use support::{Device, HEAD, numbers, product};

const N: usize = 32;
const K: usize = 256;
const M: usize = 64 * 5;

/// Warps 0 to 3 multiply, thread 128 loads. A stage: 64 rows of A and 32 of B, 128 bytes each. Two stages, then 8 KiB of
/// results, then the mbarriers `full` and `empty`.
fn text() -> String {
    let sums: Vec<String> = (0..N / 2).map(|i| format!("%f{i}")).collect();
    let sums = sums.join(", ");
    let zeros: String = (0..N / 2).map(|i| format!("mov.f32 %f{i}, 0f00000000;\n")).collect();
    let slices: String = (0..4)
        .map(|i| {
            format!(
                "add.s64 %rd8, %rd6, {};\nadd.s64 %rd9, %rd7, {};\n\
                 wgmma.mma_async.sync.aligned.m64n{N}k16.f32.bf16.bf16 {{{sums}}}, %rd8, %rd9, %p7, 1, 1, 0, 0;\n",
                2 * i,
                2 * i
            )
        })
        .collect();
    let stores: String = (0..N / 4)
        .map(|i| {
            let at = 1024 * (i % 2) + 32 * (i / 2);
            format!("st.shared.v2.f32 [%r16+{at}], {{%f{}, %f{}}};\n", 2 * i, 2 * i + 1)
        })
        .collect();
    format!(
        "{HEAD}.visible .entry gemm(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 tiles)\n.reqntid 160, 1, 1\n{{\n\
.reg .pred %p<10>;\n.reg .b32 %r<40>;\n.reg .f32 %f<{}>;\n.reg .b64 %rd<20>;\n\
ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\nld.param.u32 %r9, [tiles];\n\
mov.u32 %r1, %tid.x;\nmov.u32 %r2, %laneid;\nmov.u32 %r3, dyn;\nmov.u32 %r4, %ctaid.x;\nmov.u32 %r5, %nctaid.x;\n\
add.u32 %r6, %r3, 32768;\nadd.u32 %r7, %r6, 16;\nmov.u32 %r10, 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra SKIP;\n\
mbarrier.init.shared::cta.b64 [%r6], 1;\nmbarrier.init.shared::cta.b64 [%r6+8], 1;\n\
mbarrier.init.shared::cta.b64 [%r7], 1;\nmbarrier.init.shared::cta.b64 [%r7+8], 1;\nfence.mbarrier_init.release.cluster;\n\
SKIP:\nbar.sync 0;\nsetp.ge.u32 %p2, %r1, 128;\n@%p2 bra PRODUCER;\n\
fence.proxy.tensormap::generic.acquire.sys [%rd3], 128;\n\
setmaxnreg.inc.sync.aligned.u32 232;\nmov.u32 %r11, 0;\n\
TILE:\nsetp.ge.u32 %p3, %r4, %r9;\n@%p3 bra LAST;\nmov.u32 %r12, 0;\n{zeros}\
STEP:\nshl.b32 %r13, %r10, 3;\nadd.u32 %r14, %r6, %r13;\n\
{{\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared::cta.b64 q, [%r14], %r11;\n@!q bra W;\n}}\n\
mad.lo.u32 %r15, %r10, 12288, %r3;\nshr.u32 %r15, %r15, 4;\ncvt.u64.u32 %rd6, %r15;\n\
or.b64 %rd6, %rd6, 0x4000004000000000;\nadd.s64 %rd7, %rd6, 512;\nsetp.eq.u32 %p7, 0, 0;\n\
wgmma.fence.sync.aligned;\n{slices}wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
add.u32 %r14, %r7, %r13;\n@!%p1 mbarrier.arrive.shared::cta.b64 _, [%r14];\n\
xor.b32 %r10, %r10, 1;\nsetp.eq.u32 %p4, %r10, 0;\nselp.u32 %r17, 1, 0, %p4;\nxor.b32 %r11, %r11, %r17;\n\
add.u32 %r12, %r12, 1;\nsetp.lt.u32 %p5, %r12, {};\n@%p5 bra STEP;\n\
@%p1 bra READY;\ncp.async.bulk.wait_group.read 0;\nREADY:\nbar.sync 1, 128;\n\
shr.u32 %r16, %r1, 5;\nshl.b32 %r16, %r16, 11;\nshr.u32 %r18, %r2, 2;\nshl.b32 %r18, %r18, 7;\nadd.u32 %r16, %r16, %r18;\n\
and.b32 %r18, %r2, 3;\nshl.b32 %r18, %r18, 3;\nadd.u32 %r16, %r16, %r18;\nadd.u32 %r19, %r3, 24576;\n\
add.u32 %r16, %r16, %r19;\n{stores}fence.proxy.async.shared::cta;\nbar.sync 1, 128;\n@%p1 bra NEXT;\nshl.b32 %r20, %r4, 6;\n\
cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd3, {{0, %r20}}], [%r19];\ncp.async.bulk.commit_group;\n\
NEXT:\nadd.u32 %r4, %r4, %r5;\nbra TILE;\n\
LAST:\n@%p1 bra END;\ncp.async.bulk.wait_group 0;\nEND:\nret;\n\
PRODUCER:\nsetmaxnreg.dec.sync.aligned.u32 40;\nsetp.ne.u32 %p6, %r1, 128;\n@%p6 bra END;\nmov.u32 %r11, 1;\n\
fence.proxy.tensormap::generic.acquire.sys [%rd1], 128;\nfence.proxy.tensormap::generic.acquire.sys [%rd2], 128;\n\
PTILE:\nsetp.ge.u32 %p3, %r4, %r9;\n@%p3 bra END;\nmov.u32 %r12, 0;\nshl.b32 %r20, %r4, 6;\n\
PSTEP:\nshl.b32 %r13, %r10, 3;\nadd.u32 %r14, %r7, %r13;\n\
{{\n.reg .pred q;\nW: mbarrier.try_wait.parity.shared::cta.b64 q, [%r14], %r11;\n@!q bra W;\n}}\n\
add.u32 %r14, %r6, %r13;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r14], 12288;\nmad.lo.u32 %r15, %r10, 12288, %r3;\n\
shl.b32 %r21, %r12, 6;\nadd.u32 %r22, %r15, 8192;\n\
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r15], [%rd1, {{%r21, %r20}}], [%r14];\n\
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r22], [%rd2, {{%r21, 0}}], [%r14];\n\
xor.b32 %r10, %r10, 1;\nsetp.eq.u32 %p4, %r10, 0;\nselp.u32 %r17, 1, 0, %p4;\nxor.b32 %r11, %r11, %r17;\n\
add.u32 %r12, %r12, 1;\nsetp.lt.u32 %p5, %r12, {};\n@%p5 bra PSTEP;\nadd.u32 %r4, %r4, %r5;\nbra PTILE;\n}}\n",
        N / 2,
        K / 64,
        K / 64,
    )
}

/// True if the answer is right.
fn run(text: &str, seed: u64) -> Result<bool, Fault> {
    run_on(Device::new(seed), text).map(|(right, _)| right)
}

fn run_on(mut device: Device, text: &str) -> Result<(bool, Stats), Fault> {
    let (a, b) = (numbers(M * K, 11), numbers(N * K, 12));
    let (pa, pb) = (device.halves("a", &a), device.halves("b", &b));
    let c = device.gpu.alloc("c", 4 * (M * N) as u64);
    let map = |address, elem, [rows, cols]: [usize; 2], [box_rows, box_cols]: [u32; 2], swizzle| TensorMap {
        address,
        elem,
        dims: vec![cols as u64, rows as u64],
        strides: vec![(cols * Element::bytes(elem)) as u64],
        box_dims: vec![box_cols, box_rows],
        swizzle,
    };
    let maps = [
        map(pa, Element::Bf16, [M, K], [64, 64], Swizzle::Bytes128),
        map(pb, Element::Bf16, [N, K], [32, 64], Swizzle::Bytes128),
        map(c, Element::F32, [M, N], [64, 32], Swizzle::None),
    ];
    let [ma, mb, mc] = maps.map(|map| device.bytes("map", &map.encode()));
    let stats = device.run(text, 2, 160, &[ma, mb, mc, (M / 64) as u64])?;
    Ok((device.floats(c, M * N)? == product(&a, &b, [M, N, K]), stats))
}

#[test]
fn right_under_every_seed() {
    let text = text();
    for seed in 0..24 {
        match run(&text, seed) {
            Ok(right) => assert!(right, "seed {seed}: wrong answer"),
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
}

#[test]
fn a_seed_gives_one_run_on_any_number_of_threads() {
    let text = text();
    for seed in 0..4 {
        let runs = [1, 2, 5].map(|threads| {
            let device = Device::with(Options { seed, threads, ..Options::default() });
            run_on(device, &text).expect("runs").1
        });
        assert!(runs[0] == runs[1] && runs[1] == runs[2], "seed {seed}: {runs:?}");
    }
    let broken = text.replace("fence.proxy.async.shared::cta;", "");
    let faults = [1, 2, 5].map(|threads| {
        let device = Device::with(Options { seed: 3, threads, ..Options::default() });
        run_on(device, &broken).expect_err("must fault")
    });
    assert!(faults[0] == faults[1] && faults[1] == faults[2], "{faults:?}");
}

#[test]
fn no_mutant_goes_unnoticed() {
    let text = text();
    let sites = mutate::sites(&text).expect("parses");
    let mut kinds: Vec<Kind> = sites.iter().map(|site| site.kind).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!((sites.len(), kinds.len()), (24, 15));
    let mut table = String::new();
    for site in &sites {
        let mutant = site.apply(&text);
        let caught = (0..6).find_map(|seed| match run(&mutant, seed) {
            Ok(true) => None,
            Ok(false) => Some((seed, "a wrong answer".to_owned())),
            Err(fault) => Some((seed, format!("{:?}", fault.kind))),
        });
        match caught {
            Some((seed, how)) => table.push_str(&format!("{site}: {how}, seed {seed}\n")),
            None => panic!("{site} is not caught; those before it:\n{table}"),
        }
    }
    println!("{table}");
}
