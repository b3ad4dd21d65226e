//! The simulator as a driver of the runtime: memory, code, tensor maps, launches, graphs, and their errors.

use jamba_plan::format::{Swizzle, TensorElem};
use jamba_runtime::gpu::{DeviceCode, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, Parameters, TensorMapOf};
use ptxsim::driver::{Device, Downloads, Simulated};

/// `add` adds words of `a` and `b`; `tile` sums each column of a box of 8 × 32 floats; `early` reads the destination of a copy
/// before the wait.
const PTX: &str = "\
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 dyn[];
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c)
{
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
ld.param.u64 %rd1, [a];
ld.param.u64 %rd2, [b];
ld.param.u64 %rd3, [c];
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %tid.x;
mad.lo.u32 %r1, %r1, 32, %r2;
mul.wide.u32 %rd4, %r1, 4;
add.s64 %rd1, %rd1, %rd4;
add.s64 %rd2, %rd2, %rd4;
add.s64 %rd3, %rd3, %rd4;
ld.global.u32 %r3, [%rd1];
ld.global.u32 %r4, [%rd2];
add.s32 %r5, %r3, %r4;
st.global.u32 [%rd3], %r5;
ret;
}
.visible .entry tile(.param .align 64 .b8 map[128], .param .u64 out)
{
.reg .pred %p<4>;
.reg .f32 %f<4>;
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
mov.b64 %rd3, map;
cvta.param.u64 %rd1, %rd3;
ld.param.u64 %rd2, [out];
mov.u32 %r1, %tid.x;
mov.u32 %r2, dyn;
setp.ne.u32 %p1, %r1, 0;
@%p1 bra W;
mbarrier.init.shared::cta.b64 [%r2+1024], 1;
fence.mbarrier_init.release.cluster;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+1024], 1024;
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {0, 0}], [%r2+1024];
W:
bar.warp.sync 0xffffffff;
L:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+1024], 0;
@!%p2 bra L;
mov.f32 %f1, 0f00000000;
mov.u32 %r3, 0;
shl.b32 %r4, %r1, 2;
add.u32 %r4, %r4, %r2;
S:
ld.shared.f32 %f2, [%r4];
add.f32 %f1, %f1, %f2;
add.u32 %r4, %r4, 128;
add.u32 %r3, %r3, 1;
setp.lt.u32 %p3, %r3, 8;
@%p3 bra S;
mul.wide.u32 %rd4, %r1, 4;
add.s64 %rd2, %rd2, %rd4;
st.global.f32 [%rd2], %f1;
ret;
}
.visible .entry early(.param .u64 from, .param .u64 out)
{
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
ld.param.u64 %rd1, [from];
ld.param.u64 %rd2, [out];
mov.u32 %r1, %tid.x;
mov.u32 %r2, dyn;
mad.lo.u32 %r2, %r1, 16, %r2;
mul.wide.u32 %rd3, %r1, 16;
add.s64 %rd1, %rd1, %rd3;
cp.async.cg.shared.global [%r2], [%rd1], 16;
cp.async.commit_group;
ld.shared.u32 %r3, [%r2];
cp.async.wait_group 0;
add.s64 %rd2, %rd2, %rd3;
st.global.u32 [%rd2], %r3;
ret;
}
";

const ADD: usize = 0;
const TILE: usize = 1;
const EARLY: usize = 2;

const KERNELS: [KernelNeeds; 3] = [
    KernelNeeds { symbol: "add", n_args: 3, shared_bytes: 0 },
    KernelNeeds { symbol: "tile", n_args: 2, shared_bytes: 2048 },
    KernelNeeds { symbol: "early", n_args: 2, shared_bytes: 2048 },
];

fn code(ptx: &str) -> DeviceCode<'_> {
    DeviceCode { ptx, cubin: None }
}

fn loaded(device: &Device) -> Simulated {
    let mut driver = Simulated::new(device);
    driver.load(code(PTX), &KERNELS).expect("loads");
    driver
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// An allocation with the given words.
fn words(driver: &mut Simulated, what: &'static str, words: impl IntoIterator<Item = u32>) -> u64 {
    let bytes = bytes(words);
    let at = driver.allocate(what, bytes.len() as u64).expect("allocates");
    driver.upload(at, &bytes).expect("uploads");
    at
}

fn fetched(driver: &mut Simulated, from: u64, n: usize) -> Result<Vec<u32>, DriverError> {
    let mut bytes = vec![0; 4 * n];
    driver.download(from, &mut bytes)?;
    Ok(bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect())
}

fn launch(kernel: usize, blocks: u32, args: &[u64]) -> LaunchOf<'_> {
    LaunchOf { kernel, grid: [blocks, 1, 1], threads: 32, shared_bytes: KERNELS[kernel].shared_bytes, args }
}

fn message(result: Result<impl std::fmt::Debug, DriverError>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn says_what_it_is_and_keeps_its_bounds() {
    let mut driver = Simulated::new(&Device { n_sms: 7, total_bytes: 4096, ..Device::default() });
    let info = driver.info().clone();
    assert_eq!((&info.name[..], info.capability, info.n_sms, info.free_bytes), ("PTX simulator", (9, 0), 7, 4096));
    let first = driver.allocate("weights", 4000).expect("allocates");
    assert!(first.is_multiple_of(256));
    let refused = DriverError::OutOfMemory { wanted: 100, free: 96 };
    assert_eq!(driver.allocate("arena", 100), Err(refused));
    let second = driver.allocate("arena", 96).expect("allocates");
    assert!(second.is_multiple_of(256) && second >= first + 4000 + 4096, "{second:#x} after {first:#x}");
    assert!(message(driver.upload(first + 3999, &[1, 2])).contains("3999 bytes into `weights` of 4000 bytes"));
    assert!(message(driver.fill(second, 97, 0)).contains("`arena` of 96 bytes"));
}

#[test]
fn code_is_checked_when_it_is_loaded() {
    let load = |ptx: &str, needs: KernelNeeds| message(Simulated::new(&Device::default()).load(code(ptx), &[needs]));
    let add = KERNELS[ADD];
    assert_eq!(
        load(PTX, KernelNeeds { symbol: "ad", ..add }),
        "the PTX has no entry `ad`; it has [\"add\", \"early\", \"tile\"]"
    );
    assert_eq!(load(PTX, KernelNeeds { n_args: 4, ..add }), "PTX line 5: `add` takes 3 parameters, launches give 4");
    assert_eq!(
        load(PTX, KernelNeeds { shared_bytes: 300_000, ..add }),
        "PTX line 5: `add` takes 300000 bytes of shared memory, 232448 are there"
    );
    let narrow = PTX.replace(".param .u64 b", ".param .u32 b");
    assert_eq!(load(&narrow, add), "PTX line 5: `add` takes 4 bytes as parameter 1, launches give 8 or a tensor map");
    let strange = PTX.replace("add.s32 %r5, %r3, %r4;", "frobnicate.s32 %r5, %r3, %r4;");
    assert_eq!(load(&strange, add), "PTX line 21: `frobnicate.s32` is not simulated");
    assert_eq!(message(loaded(&Device::default()).load(code(PTX), &[])), "code is loaded already");
}

#[test]
fn copies_and_fills_keep_what_is_unwritten() {
    let mut driver = Simulated::new(&Device::default());
    let (a, b) = (driver.allocate("a", 64).expect("allocates"), driver.allocate("b", 64).expect("allocates"));
    driver.upload(a + 3, &[1, 2, 3]).expect("uploads");
    driver.fill(b, 64, 9).expect("fills");
    driver.copy(a, b + 1, 8).expect("copies");
    let mut got = [0; 3];
    driver.download(b + 4, &mut got).expect("was written");
    assert_eq!(got, [1, 2, 3]);
    let refused = message(driver.download(b + 3, &mut got));
    assert!(refused.contains("unwritten memory: `b` + 3"), "{refused}");
    driver.download(b + 9, &mut got).expect("was filled");
    assert_eq!(got, [9, 9, 9]);
    assert!(message(driver.copy(a, a + 4, 8)).contains("overlap"));

    let mut lenient = Simulated::new(&Device { downloads: Downloads::Anything, ..Device::default() });
    let a = lenient.allocate("a", 64).expect("allocates");
    lenient.download(a, &mut got).expect("anything may be read");
}

#[test]
fn a_launch_computes_and_is_counted() {
    let mut driver = loaded(&Device::default());
    let counters = driver.counters();
    let (a, b) = (words(&mut driver, "a", 0..96), words(&mut driver, "b", (0..96).map(|i| 1000 * i)));
    let c = driver.allocate("c", 4 * 96).expect("allocates");
    driver.launch(&launch(ADD, 3, &[a, b, c])).expect("runs");
    driver.synchronize().expect("nothing is wrong");
    assert_eq!(fetched(&mut driver, c, 96), Ok((0..96).map(|i| 1001 * i).collect()));
    let counts = counters.read();
    assert_eq!((counts.launches, counts.graphs, counts.replays), (1, 0, 0));
    assert_eq!((counts.uploaded_bytes, counts.downloaded_bytes, counts.allocated_bytes), (768, 384, 1152));
    assert_eq!((counts.kernels["add"].launches, counts.kernels["add"].stats.warp_instructions), (1, 3 * 15));
    assert!(counts.table().contains("add"), "{}", counts.table());
}

#[test]
fn tensor_maps_are_those_that_kernels_copy_by() {
    for seed in 0..8 {
        let mut driver = loaded(&Device { seed, ..Device::default() });
        // 6 rows of 32 floats with a stride of 160 bytes. The box has two rows more, which are zeros.
        let at = words(&mut driver, "x", (0..6 * 40).map(|i| ((i % 40 + i / 40) as f32).to_bits()));
        let map = TensorMapOf {
            address: at,
            elem: TensorElem::F32,
            rows: 6,
            cols: 32,
            row_stride: 160,
            box_rows: 8,
            box_cols: 32,
            swizzle: Swizzle::None,
        };
        let encoded = driver.tensor_map(&map).expect("a map");
        let out = driver.allocate("out", 128).expect("allocates");
        let mut parameters = Parameters::default();
        parameters.push_map(&encoded);
        parameters.push(out);
        driver.launch(&launch(TILE, 1, parameters.words())).expect("runs");
        let expected: Vec<u32> = (0..32).map(|col| (6.0 * col as f32 + 15.0).to_bits()).collect();
        assert_eq!(fetched(&mut driver, out, 32), Ok(expected));
        let refused = message(driver.tensor_map(&TensorMapOf { row_stride: 168, ..map }));
        assert!(refused.contains("a stride of 168 bytes"), "{refused}");
    }
}

#[test]
fn captured_launches_run_when_they_are_replayed() {
    let mut driver = loaded(&Device::default());
    let counters = driver.counters();
    let (a, b) = (words(&mut driver, "a", 0..32), words(&mut driver, "b", 0..32));
    driver.begin_capture().expect("begins");
    for _ in 0..3 {
        driver.launch(&launch(ADD, 1, &[a, b, b])).expect("is noted");
    }
    let while_noting = [
        message(driver.upload(a, &[0])),
        message(driver.download(a, &mut [0])),
        message(driver.begin_capture()),
        message(driver.replay(GraphId(0))),
        message(driver.synchronize()),
        message(driver.allocate("late", 8)),
    ];
    assert!(while_noting.iter().all(|refused| refused.ends_with("launches are being captured")), "{while_noting:?}");
    assert!(message(driver.launch(&launch(ADD, 1, &[a]))).contains("parameters of 8 bytes, the kernel takes 24"));
    let graph = driver.end_capture().expect("ends");
    assert_eq!(graph, GraphId(0));
    assert_eq!(fetched(&mut driver, b, 32), Ok((0..32).collect()), "nothing ran yet");
    driver.replay(graph).expect("runs");
    driver.upload(a, &bytes((0..32).map(|_| 1))).expect("uploads");
    driver.replay(graph).expect("runs");
    assert_eq!(fetched(&mut driver, b, 32), Ok((0..32).map(|i| 4 * i + 3).collect()));
    let counts = counters.read();
    assert_eq!((counts.launches, counts.graphs, counts.replays), (6, 1, 2));
    assert_eq!(message(driver.replay(GraphId(1))), "replay: graph 1 of 1");
    assert!(message(driver.end_capture()).contains("no launches are being captured"));
}

#[test]
fn a_fault_is_told_in_full_and_ends_the_device() {
    let mut driver = loaded(&Device::default());
    let from = words(&mut driver, "from", 0..128);
    let out = driver.allocate("out", 512).expect("allocates");
    let told = driver.launch(&launch(EARLY, 1, &[from, out]));
    let Err(DriverError::Fault(told)) = told else { panic!("{told:?}") };
    assert!(
        told.starts_with("Race in early block (0, 0, 0), thread 0, PTX line 76 `ld.shared.u32 %r3, [%r2];`"),
        "{told}"
    );
    assert_eq!(driver.synchronize(), Err(DriverError::Fault(told.clone())));
    assert_eq!(message(driver.download(from, &mut [0])), told);
    assert_eq!(message(driver.launch(&launch(ADD, 1, &[from, from, out]))), told);
}

#[test]
fn launches_that_do_not_fit_are_refused_and_end_nothing() {
    let mut driver = loaded(&Device::default());
    let a = words(&mut driver, "a", 0..32);
    assert_eq!(message(driver.launch(&launch(ADD, 0, &[a, a, a])).map(drop)), {
        "Launch in add block (0, 0, 0), PTX line 0 ``: a grid of [0, 1, 1] blocks of [32, 1, 1] threads"
    });
    assert_eq!(message(driver.launch(&LaunchOf { kernel: 3, ..launch(ADD, 1, &[a, a, a]) })), "launch: kernel 3 of 3");
    let bare = message(Simulated::new(&Device::default()).launch(&launch(ADD, 1, &[])));
    assert_eq!(bare, "launch: no code is loaded");
    let out = driver.allocate("out", 128).expect("allocates");
    driver.launch(&launch(ADD, 1, &[a, a, out])).expect("runs still");
    assert_eq!(fetched(&mut driver, out, 32), Ok((0..32).map(|i| 2 * i).collect()));
}

#[test]
fn results_of_unwritten_memory_are_unwritten() {
    let mut driver = loaded(&Device::default());
    let a = words(&mut driver, "a", 0..32);
    let (b, c) = (driver.allocate("b", 128).expect("allocates"), driver.allocate("c", 128).expect("allocates"));
    driver.upload(b, &bytes(0..16)).expect("uploads");
    driver.launch(&launch(ADD, 1, &[a, b, c])).expect("sums of anything are anything");
    assert_eq!(fetched(&mut driver, c, 16), Ok((0..16).map(|i| 2 * i).collect()));
    let refused = message(driver.download(c + 64, &mut [0; 4]));
    assert!(refused.contains("unwritten memory: `c` + 64"), "{refused}");
}

#[test]
fn threads_change_nothing() {
    let runs = [1, 2, 5].map(|threads| {
        let mut driver = loaded(&Device { seed: 4, threads, ..Device::default() });
        let (a, b) = (words(&mut driver, "a", 0..3200), words(&mut driver, "b", 0..3200));
        driver.launch(&launch(ADD, 100, &[a, b, b])).expect("runs");
        // The last block reads beyond `a`.
        let fault = message(driver.launch(&launch(ADD, 102, &[a, b, b])));
        (driver.counters().read().kernels["add"].stats, fault)
    });
    assert!(runs[0] == runs[1] && runs[1] == runs[2], "{runs:?}");
    assert!(runs[0].1.contains("OutOfBounds in add block (10"), "{}", runs[0].1);
}

#[test]
fn large_uploads_come_back_whole() {
    let mut driver = Simulated::new(&Device::default());
    let bytes: Vec<u8> = (0..(32 << 20) + 5).map(|i: u32| (i % 251) as u8).collect();
    let began = std::time::Instant::now();
    let at = driver.allocate("weights", bytes.len() as u64 + 3).expect("allocates") + 3;
    driver.upload(at, &bytes).expect("uploads");
    let mut back = vec![0; bytes.len()];
    driver.download(at, &mut back).expect("was written");
    println!("32 MiB there and back in {:?}", began.elapsed());
    assert!(back == bytes);
}
