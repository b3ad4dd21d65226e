//! Opening: all checks come before allocations; memory, code, weights and tensor maps are those of the plan.

use std::sync::Mutex;

use jamba_plan::format::{Swizzle, TargetKind, TensorElem};
use jamba_plan::synthetic;
use jamba_plan::tables::DeviceTables;
use jamba_runtime::gpu::{DriverError, TensorMapOf};
use jamba_runtime::{DebugOptions, Engine, OpenOptions, PlanFile, Progress, RuntimeError, Unit};

use crate::fake::{Call, Calls, Fake, Launched};
use crate::open_with;
use crate::plan::{
    ARENA, EMBEDDING_BYTES, LIMITS, MATRIX, PAGE_BYTES, SHARED_BYTES, STATE_BYTES, SYMBOLS, Toy, WEIGHT_BYTES,
};

/// The error of opening a plan, and the calls before it.
fn refusal(toy: Toy, fake: Fake, options: OpenOptions<'_>) -> (RuntimeError, Calls) {
    let calls = fake.calls();
    let error = open_with(toy, fake, options).map(|_| ()).expect_err("the plan must be refused");
    (error, calls)
}

#[test]
fn a_plan_takes_what_it_states_and_is_copied_there() {
    let toy = Toy::new();
    let (weights, region) = (toy.weights(), DeviceTables::of(&LIMITS, &toy.program));
    let (engine, calls) = open_with(toy, Fake::new(), OpenOptions::default()).unwrap();
    assert_eq!((engine.target(), engine.device(), engine.threads()), ("sm_90a", "Fake H100", 1));
    assert_eq!(engine.memory(), &engine.manifest().of(TargetKind::Sm90a).unwrap().memory);

    let (weights_at, found) = calls.region("weights");
    assert_eq!(found, weights);
    let arena_at = calls.region("arena").0;
    let map = |address: u64, rows: u64| TensorMapOf {
        address,
        elem: TensorElem::Bf16,
        rows,
        cols: 60,
        row_stride: 128,
        box_rows: 64,
        box_cols: 64,
        swizzle: Swizzle::B128,
    };
    let head = (8, 1024);
    let sizes = [(4, 0), (6, SHARED_BYTES), (9, SHARED_BYTES), (9, SHARED_BYTES), head, head, head];
    let needs = SYMBOLS.into_iter().zip(sizes);
    let needs = needs.map(|(symbol, (n_args, shared_bytes))| (symbol.to_owned(), n_args, shared_bytes)).collect();
    let mut opened = calls.take();
    let graphs: Vec<&str> = opened.drain(opened.len().min(10)..).map(|call| call.name()).collect();
    let each = [&["begin_capture"], &["launch"; 5][..], &["end_capture"]].concat();
    assert_eq!(graphs, each.repeat(4));
    assert_eq!(
        opened,
        [
            Call::Load(needs, false),
            Call::Allocate("weights", WEIGHT_BYTES),
            Call::Allocate("KV pool", 10 * PAGE_BYTES),
            Call::Allocate("state pool", 3 * STATE_BYTES),
            Call::Allocate("arena", ARENA),
            Call::Allocate("step tables", region.bytes),
            Call::Upload(weights_at, WEIGHT_BYTES as usize),
            Call::TensorMap(map(weights_at + MATRIX, 64)),
            Call::TensorMap(map(arena_at, 2)),
            Call::Synchronize,
        ]
    );
    drop(engine);
    assert_eq!(calls.take(), [Call::Drop]);
}

#[test]
fn a_driver_is_given_code_that_is_assembled_too() {
    let (_engine, calls) =
        open_with(Toy { cubin: Some(&CUBIN), ..Toy::new() }, Fake::new(), OpenOptions::default()).unwrap();
    assert!(matches!(calls.take()[0], Call::Load(_, true)));
}

/// The header of an ELF file of NVIDIA's code, without sections and segments.
const CUBIN: [u8; 64] = {
    let mut header = [0; 64];
    let begin = *b"\x7fELF\x02\x01\x01";
    let mut at = 0;
    while at < begin.len() {
        header[at] = begin[at];
        at += 1;
    }
    (header[18], header[52], header[54], header[58]) = (190, 64, 56, 64);
    header
};

#[test]
fn a_driver_is_given_no_code_that_points_behind_its_end() {
    // Sections at byte 64 of 64; another machine; no ELF file at all.
    static BEHIND: [u8; 64] = {
        let mut header = CUBIN;
        (header[40], header[60]) = (64, 1);
        header
    };
    static OTHER: [u8; 64] = {
        let mut header = CUBIN;
        header[18] = 62;
        header
    };
    for (cubin, says) in [
        (&BEHIND[..], "its cubin is not an ELF file"),
        (&OTHER, "its cubin is for machine 62, expected 190"),
        (b"assembled", "its cubin is not an ELF file"),
    ] {
        let (error, calls) = refusal(Toy { cubin: Some(cubin), ..Toy::new() }, Fake::new(), OpenOptions::default());
        assert!(matches!(error, RuntimeError::Code { .. }) && error.to_string().contains(says), "{error}");
        let calls = calls.take();
        assert!(!calls.iter().any(|call| matches!(call, Call::Load(..))), "{calls:?}");
    }
}

#[test]
fn weights_are_drawn_in_pieces_with_the_bits_of_any_device() {
    const BYTES: u64 = 72 << 20;
    let toy = Toy::new().synthetic(11, BYTES);
    let expected: Vec<Vec<u8>> = (toy.program.weights.iter())
        .map(|weight| {
            let mut bytes = vec![0; weight.bytes as usize];
            synthetic::fill(weight, 11, &mut bytes);
            bytes
        })
        .collect();
    let heard = Mutex::new(Vec::new());
    let tell = |progress: Progress| heard.lock().unwrap().push(progress);
    let options = OpenOptions { progress: Some(&tell), threads: Some(3), ..OpenOptions::default() };
    let (_engine, calls) = open_with(toy, Fake::new(), options).unwrap();
    let (at, found) = calls.region("weights");
    assert!(found[..EMBEDDING_BYTES as usize] == expected[0], "the bits of the small weight");
    assert!(found[MATRIX as usize..][..BYTES as usize] == expected[1], "the bits of the large weight");
    let pieces: Vec<(u64, usize)> = (calls.take().into_iter())
        .filter_map(|call| if let Call::Upload(to, bytes) = call { Some((to - at, bytes)) } else { None })
        .take(4)
        .collect();
    const MIB: u64 = 1 << 20;
    let sizes = [(0, EMBEDDING_BYTES), (MATRIX, 32 * MIB), (MATRIX + 32 * MIB, 32 * MIB), (MATRIX + 64 * MIB, 8 * MIB)];
    assert_eq!(pieces, sizes.map(|(at, bytes)| (at, bytes as usize)));
    let heard = heard.into_inner().unwrap();
    let last = Progress { what: "drawing weights", done: MATRIX + BYTES, total: MATRIX + BYTES, unit: Unit::Bytes };
    assert_eq!(heard.last(), Some(&last));
    let drawn: Vec<u64> = heard.iter().filter(|p| p.what == "drawing weights").map(|p| p.done).collect();
    assert!(drawn.len() == 4 && drawn.is_sorted(), "{drawn:?}");
}

#[test]
fn weights_are_drawn_by_the_plans_kernels() {
    const BYTES: u64 = 1 << 20;
    let toy = || Toy::new().synthetic(11, BYTES).drawn_there();
    let weights = toy().program.weights;
    let heard = Mutex::new(Vec::new());
    let tell = |progress: Progress| heard.lock().unwrap().push(progress);
    let options = OpenOptions { progress: Some(&tell), ..OpenOptions::default() };
    let (_engine, calls) = open_with(toy(), Fake::new(), options).unwrap();
    let at = calls.region("weights").0;
    let calls = calls.take();
    let Some(Call::Load(needs, _)) = calls.first() else { panic!("{calls:?}") };
    let draws = ["draw_bf16", "draw_f32"].map(|symbol| (symbol.to_owned(), synthetic::DrawnRows::N_ARGS, 0));
    assert_eq!(needs[SYMBOLS.len()..], draws);
    let launch = |kernel: usize, weight: usize| {
        let rows = &synthetic::DrawnRows::of(&weights[weight], 11).unwrap()[0];
        let args = rows.args(at).to_vec();
        Call::Launch(Launched { kernel, grid: [40, 1, 1], threads: 256, shared_bytes: 0, args })
    };
    let begin = calls.iter().position(|call| call.name() == "launch").unwrap();
    assert_eq!(calls[begin..begin + 3], [launch(SYMBOLS.len() + 1, 0), launch(SYMBOLS.len(), 1), Call::Synchronize]);
    assert!(calls.iter().all(|call| call.name() != "upload"), "{calls:?}");
    let total = MATRIX + BYTES;
    let last = Progress { what: "drawing weights", done: total, total, unit: Unit::Bytes };
    assert_eq!(heard.into_inner().unwrap().last(), Some(&last));

    let on_host = OpenOptions { debug: DebugOptions::DRAW_ON_HOST, ..OpenOptions::default() };
    let (_engine, calls) = open_with(toy(), Fake::new(), on_host).unwrap();
    // Only the graphs' launches, which are recorded later.
    let names = calls.take_names();
    let drawn = names.iter().take_while(|&&name| name != "begin_capture");
    assert!(drawn.clone().all(|&name| name != "launch") && names.contains(&"upload"), "{names:?}");
}

#[test]
fn a_kernel_that_fails_to_draw_is_named() {
    let toy = || Toy::new().synthetic(11, 8192).drawn_there();
    let fake = Fake::new();
    fake.calls().spoil("draw_f32");
    let (error, _) = refusal(toy(), fake, OpenOptions::default());
    assert_eq!(error.to_string(), "Fake H100: drawing weights up to model.matrix: an illegal address");
    let fake = Fake::new();
    fake.calls().fail("launch", 0, DriverError::Lost("it has fallen off the bus".to_owned()));
    let (error, _) = refusal(toy(), fake, OpenOptions::default());
    assert_eq!(
        error.to_string(),
        "Fake H100 is lost: drawing weights up to model.embed_tokens.weight: it has fallen off the bus"
    );
}

#[test]
fn devices_that_cannot_run_the_code_are_refused_before_anything() {
    let mut fake = Fake::new();
    fake.info.capability = (8, 9);
    let (error, calls) = refusal(Toy::new(), fake, OpenOptions::default());
    assert!(matches!(&error, RuntimeError::WrongCapability { found: (8, 9), needed: (9, 0), .. }), "{error:?}");
    let text = "Fake H100 has compute capability 8.9; the plan's code for sm_90a runs only on 9.0";
    assert_eq!((error.to_string().as_str(), error.is_ours()), (text, false));
    assert_eq!(calls.take(), [Call::Drop]);

    let mut fake = Fake::new();
    fake.info.cuda = (11, 8);
    let (error, calls) = refusal(Toy::new(), fake, OpenOptions::default());
    let text = "Fake H100: its driver supports CUDA 11.8; the plan's code, PTX 8.0, needs 12.0: install a newer driver";
    assert!(matches!(&error, RuntimeError::DriverTooOld { .. }), "{error:?}");
    assert_eq!((error.to_string().as_str(), calls.take()), (text, vec![Call::Drop]));

    let (error, _) = refusal(Toy { ptx: "ret;", ..Toy::new() }, Fake::new(), OpenOptions::default());
    assert_eq!(error.to_string(), "code/sm_90a: cannot be loaded: its PTX has no line .version");
}

#[test]
fn too_little_memory_is_counted() {
    let total = Toy::new().manifest.programs[0].memory.total(&LIMITS);
    let mut fake = Fake::new();
    fake.info.free_bytes = total - 7;
    let (error, calls) = refusal(Toy::new(), fake, OpenOptions::default());
    let text = format!(
        "Fake H100: the plan needs {total} bytes of memory, {} are free: 7 are missing; `jambac fit` computes limits that fit",
        total - 7
    );
    assert_eq!((error.to_string(), calls.take()), (text, vec![Call::Drop]));
    assert!(matches!(error, RuntimeError::DeviceMemory { .. }));

    // Another process allocated it meanwhile, or it is fragmented.
    for (free, says) in [(100, format!("{} are missing", ARENA - 100)), (ARENA, "not contiguously".to_owned())] {
        let fake = Fake::new();
        fake.calls().fail("allocate", 3, DriverError::OutOfMemory { wanted: ARENA, free });
        let (error, calls) = refusal(Toy::new(), fake, OpenOptions::default());
        let found = error.to_string();
        assert!(
            found.starts_with(&format!("Fake H100: arena needs {ARENA} bytes")) && found.contains(&says),
            "{found}"
        );
        assert_eq!(calls.take_names(), ["load", "allocate", "allocate", "allocate", "allocate", "drop"]);
    }
    let mut fake = Fake::new();
    fake.info.free_bytes = total;
    open_with(Toy::new(), fake, OpenOptions::default()).unwrap();
}

#[test]
fn what_fails_while_opening_is_named() {
    let lost = || DriverError::Lost("it has fallen off the bus".to_owned());
    let cases = [
        (
            "load",
            0,
            DriverError::Code("line 7: no such instruction".to_owned()),
            "code/sm_90a: cannot be loaded: line 7",
        ),
        ("upload", 0, lost(), "Fake H100 is lost: copying the weights: it has fallen off the bus"),
        ("tensor_map", 0, lost(), "Fake H100 is lost: encoding the tensor maps"),
        ("synchronize", 0, lost(), "Fake H100 is lost: opening the plan"),
    ];
    for (call, n, error, expected) in cases {
        let fake = Fake::new();
        fake.calls().fail(call, n, error);
        let (error, calls) = refusal(Toy::new(), fake, OpenOptions::default());
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(calls.take().last(), Some(&Call::Drop));
    }
}

#[test]
fn plans_and_targets_for_others_are_refused() {
    let options = OpenOptions { isa: Some("x86-64".to_owned()), ..OpenOptions::default() };
    let (error, _) = refusal(Toy::new(), Fake::new(), options);
    assert!(matches!(&error, RuntimeError::NoSuchTarget { wanted, .. } if wanted == "x86-64"), "{error}");
    let named = OpenOptions { isa: Some("sm_90a".to_owned()), ..OpenOptions::default() };
    open_with(Toy::new(), Fake::new(), named).unwrap();

    let cpu_plan = PlanFile::open("examples/toy.plan".as_ref()).unwrap();
    let error = Engine::open(cpu_plan, OpenOptions { driver: Some(Box::new(Fake::new())), ..OpenOptions::default() })
        .map(|_| ())
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("none for Fake H100: build it with sm_90a among its targets"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path());
    let text = Engine::open(&path, OpenOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("none for the CPU: build it with a CPU target"), "{text}");
    Engine::open(&path, OpenOptions { driver: Some(Box::new(Fake::new())), ..OpenOptions::default() }).unwrap();
}
