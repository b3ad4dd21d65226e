//! Runs the driver on a fake libcuda, compiled by cc with the signatures of NVIDIA's headers.

use std::ffi::{CString, c_char};
use std::process::Command;
use std::sync::Mutex;

use libloading::Library;

use super::super::driver::{DeviceCode, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, TensorMapOf};
use super::Nvidia;
use super::abi::{self, Answer};
use crate::{DebugOptions, DeviceId, Engine, Feed, OpenOptions, Outputs, PlanFile, RuntimeError};
use jamba_plan::format::{Swizzle, TensorElem};

#[path = "../../../../tests/gpu/plan.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod plan;

use plan::{Toy, answers};

/// Serializes tests: the fake library is global to the process.
static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

/// Runs a test with the library in its initial state.
fn with_library(test: impl FnOnce(&Library)) {
    let mut library = LIBRARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let library = library.get_or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, object) = (folder.path().join("libcuda.c"), folder.path().join("libcuda.so"));
        std::fs::write(&source, include_str!("libcuda.c")).unwrap();
        let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so", "-o"];
        let status = Command::new("cc").args(flags).arg(&object).arg(&source).status().expect("the C compiler cc");
        assert!(status.success());
        // SAFETY: our own library, without initializers. Later lookups of libcuda.so find it.
        unsafe { Library::new(&object) }.unwrap()
    });
    // SAFETY: the symbol has this type in libcuda.c.
    unsafe { (library.get::<unsafe extern "C" fn()>(b"reset").unwrap())() };
    let before = ["contexts", "allocations"].map(|name| number(library, name));
    assert_eq!(before, [0, 0]);
    test(library);
    let left = ["contexts", "allocations"].map(|name| number(library, name));
    assert_eq!(left, [0, 0], "contexts and allocations are left behind");
}

/// A counter of the library.
fn number(library: &Library, name: &str) -> i32 {
    // SAFETY: the symbol has this type in libcuda.c, and tests are serialized.
    unsafe { **library.get::<*const i32>(name.as_bytes()).unwrap() }
}

fn fail(library: &Library, call: &str, code: i32) {
    let call = CString::new(call).unwrap();
    // SAFETY: the symbol has this type in libcuda.c.
    unsafe { (library.get::<unsafe extern "C" fn(*const c_char, i32)>(b"fail").unwrap())(call.as_ptr(), code) };
}

fn open(options: OpenOptions<'_>) -> Result<Engine, RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    let file = PlanFile::open(&Toy::new().write(folder.path())).unwrap();
    Engine::open(file, OpenOptions { device: DeviceId::Cuda(0), ..options })
}

fn code(ptx: &str) -> DeviceCode<'_> {
    DeviceCode { ptx, cubin: None }
}

/// A driver with the toy model's kernels.
fn loaded() -> Nvidia {
    let mut driver = Nvidia::open(0).unwrap();
    let needs = plan::SYMBOLS.map(|symbol| KernelNeeds { symbol, n_args: 1, shared_bytes: plan::SHARED_BYTES });
    driver.load(code(plan::PTX), &needs).unwrap();
    driver
}

#[test]
fn a_plan_runs_with_graphs_and_without() {
    with_library(|library| {
        let prompt: Vec<u32> = (0..30).collect();
        let expected = answers(&prompt, plan::WEIGHT as u32);
        let (captures, replays) = (number(library, "captures"), number(library, "replays"));
        for options in [
            OpenOptions::default(),
            OpenOptions { debug: DebugOptions::LAUNCH_EACH, ..OpenOptions::default() },
            OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() },
        ] {
            let mut engine = open(options).unwrap();
            assert_eq!((engine.device(), engine.target()), ("NVIDIA Test (cuda:0)", "sm_90a"));
            let id = engine.add_sequence().unwrap();
            for (index, tokens) in [&prompt[..20], &prompt[20..28], &prompt[28..29], &prompt[29..]].iter().enumerate() {
                let logits = engine.step(&[Feed { sequence: id, tokens, outputs: Outputs::All }]).unwrap();
                let found: Vec<f32> = logits.rows().map(|row| row[0]).collect();
                let begin = [0, 20, 28, 29][index];
                assert_eq!(found, expected[begin..begin + tokens.len()]);
            }
            // Engines move between threads, and calls restore the thread's context.
            let snapshot = engine.snapshot(id).unwrap();
            let (engine, again) = std::thread::spawn(move || {
                let again = engine.restore(&snapshot).unwrap();
                (engine, again)
            })
            .join()
            .unwrap();
            assert_eq!(engine.len(again).unwrap(), 30);
            drop(engine);
            assert_eq!(number(library, "contexts"), 0);
        }
        // A full chunk, decode of one, two and three sequences; engines that launch each step record none.
        assert_eq!(number(library, "captures") - captures, 4);
        assert_eq!(number(library, "replays") - replays, 2);
    });
}

#[test]
fn plans_share_the_context_of_a_device_and_no_step_makes_a_graph() {
    with_library(|library| {
        let (mut first, second) = (open(OpenOptions::default()).unwrap(), open(OpenOptions::default()).unwrap());
        assert_eq!(number(library, "contexts"), 1);
        drop(second);
        assert_eq!(number(library, "contexts"), 1);
        let instantiated = number(library, "instantiated");
        let ids = [(); 3].map(|()| first.add_sequence().unwrap());
        for n in [1, 2, 3, 1] {
            let feeds: Vec<Feed<'_>> =
                ids[..n].iter().map(|&sequence| Feed { sequence, tokens: &[5], outputs: Outputs::Last }).collect();
            first.step(&feeds).unwrap();
        }
        first.prefill(ids[0], &[3; 43], None, None).unwrap();
        assert_eq!(number(library, "instantiated"), instantiated);
    });
}

#[test]
fn memory_moves_in_pieces() {
    with_library(|library| {
        let mut driver = Nvidia::open(0).unwrap();
        const BYTES: usize = (40 << 20) + 3;
        let at = driver.allocate("test", 2 * BYTES as u64).unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|i| (i * 7 % 251) as u8).collect();
        let (uploads, downloads) = (number(library, "uploads"), number(library, "downloads"));
        driver.upload(at, &sent).unwrap();
        driver.copy(at, at + BYTES as u64, BYTES as u64).unwrap();
        let mut found = vec![0; BYTES];
        driver.download(at + BYTES as u64, &mut found).unwrap();
        assert!(found == sent);
        assert_eq!((number(library, "uploads") - uploads, number(library, "downloads") - downloads), (3, 3));
        driver.fill(at + 5, 7, 9).unwrap();
        driver.download(at + 4, &mut found[..9]).unwrap();
        assert_eq!(found[..9], [&sent[4..5], &[9; 7], &sent[12..13]].concat());
        driver.download(at, &mut []).unwrap();
        driver.upload(at, &[]).unwrap();
    });
}

#[test]
fn tensor_maps_are_of_columns_then_rows() {
    with_library(|_| {
        let mut driver = Nvidia::open(0).unwrap();
        let map = TensorMapOf {
            address: 0x7000,
            elem: TensorElem::Bf16,
            rows: 5,
            cols: 60,
            row_stride: 128,
            box_rows: 64,
            box_cols: 32,
            swizzle: Swizzle::B128,
        };
        let encoded = driver.tensor_map(&map).unwrap();
        let fields: Vec<u64> = encoded.chunks(8).take(8).map(|f| u64::from_le_bytes(f.try_into().unwrap())).collect();
        assert_eq!(fields, [0x7000, 60, 5, 128, 32, 64, 9, 3]);
        let bytes = TensorMapOf { elem: TensorElem::I8, swizzle: Swizzle::None, ..map };
        let encoded = driver.tensor_map(&bytes).unwrap();
        assert_eq!((encoded[48], encoded[56]), (0, 0));
    });
}

#[test]
fn code_that_cannot_be_loaded_comes_with_the_assembler_s_words() {
    with_library(|library| {
        let mut driver = Nvidia::open(0).unwrap();
        let error = driver.load(code(".version 8.0\n"), &[]).unwrap_err();
        assert_eq!(error, DriverError::Code("CUDA_ERROR_INVALID_PTX\nptxas error: no target".to_owned()));
        let missing = KernelNeeds { symbol: "missing", n_args: 1, shared_bytes: 0 };
        let error = driver.load(code(plan::PTX), &[missing]).unwrap_err();
        assert_eq!(error, DriverError::Code("kernel missing: CUDA_ERROR_NOT_FOUND".to_owned()));
        let error = driver.load(code("a\0b"), &[]).unwrap_err();
        assert!(matches!(error, DriverError::Code(_)));
        // Assembled code is loaded if possible, otherwise PTX.
        driver.load(DeviceCode { ptx: "none", cubin: Some(b"\x7fELF!") }, &[]).unwrap();
        driver.load(DeviceCode { ptx: plan::PTX, cubin: Some(b"\x7fELFx") }, &[]).unwrap();
        assert!(driver.load(DeviceCode { ptx: "none", cubin: Some(b"\x7fELFx") }, &[]).is_err());
        fail(library, "cuModuleLoadDataEx", 2);
        let error = driver.load(code(plan::PTX), &[]).unwrap_err();
        assert_eq!(error, DriverError::OutOfMemory { wanted: plan::PTX.len() as u64 + 1, free: 1 << 30 });
    });
}

#[test]
fn answers_of_the_driver_are_told_apart() {
    with_library(|library| {
        let mut driver = loaded();
        let launch = LaunchOf { kernel: 0, grid: [1, 1, 0], threads: 32, shared_bytes: 0, args: &[] };
        let error = driver.launch(&launch).unwrap_err();
        assert_eq!(error, DriverError::Fault("launch rejected: CUDA_ERROR_INVALID_VALUE".to_owned()));
        driver.allocate("test", 1000).unwrap();
        fail(library, "cuMemAlloc", 2);
        let error = driver.allocate("test", 77).unwrap_err();
        assert_eq!(error, DriverError::OutOfMemory { wanted: 77, free: (1 << 30) - 1000 });
        fail(library, "cuStreamSynchronize", 700);
        let words = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered";
        assert_eq!(driver.synchronize().unwrap_err(), DriverError::Fault(words.to_owned()));
        fail(library, "cuStreamSynchronize", 214);
        assert_eq!(driver.synchronize().unwrap_err(), DriverError::Lost("CUDA_ERROR_ECC_UNCORRECTABLE".to_owned()));
        // An unknown result code, and a function that the library lacks.
        assert_eq!(abi::words("cuNoSuchFunction", Answer(700)), None);
        fail(library, "cuStreamSynchronize", 54_321);
        let message = "result code 54321".to_owned();
        assert_eq!(driver.synchronize().unwrap_err(), DriverError::Call { call: "cuStreamSynchronize", message });
        fail(library, "cuGraphInstantiate", 2);
        driver.begin_capture().unwrap();
        assert!(matches!(driver.end_capture(), Err(DriverError::OutOfMemory { .. })));
        fail(library, "", 0);
        driver.begin_capture().unwrap();
        assert_eq!(driver.end_capture(), Ok(GraphId(0)));
    });
}

#[test]
fn faults_reach_the_engine() {
    with_library(|library| {
        let mut engine = open(OpenOptions::default()).unwrap();
        let id = engine.add_sequence().unwrap();
        fail(library, "kernel", 700);
        let feed = Feed { sequence: id, tokens: &[1, 2], outputs: Outputs::Last };
        let error = engine.step(&[feed]).map(|_| ()).unwrap_err().to_string();
        let expected = "NVIDIA Test (cuda:0): some step of prefill: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was \
                        encountered; checking every step (--check) tells which";
        assert_eq!(error, expected);
        assert_eq!(engine.add_sequence().map(|_| ()).unwrap_err().to_string(), expected);
    });
}

#[test]
fn devices_that_are_not_there_or_of_another_kind_are_refused() {
    with_library(|_| {
        let error = Nvidia::open(2).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "device cuda:2: the driver finds 2, the first of which is cuda:0");
        let folder = tempfile::tempdir().unwrap();
        let path = Toy::new().write(folder.path());
        let options = OpenOptions { device: DeviceId::Cuda(1), ..OpenOptions::default() };
        let error = Engine::open(&path, options).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("NVIDIA Test (cuda:1) has compute capability 8.0"), "{error}");
    });
}
