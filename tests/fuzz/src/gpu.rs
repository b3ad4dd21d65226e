//! The runtime on a GPU, over a driver that keeps memory on the host and runs no kernel. Plans are sound ones with edited numbers. Whatever
//! is accepted is driven; no copy may leave an allocation.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use jamba_runtime::gpu::{DeviceCode, DeviceInfo, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, TensorMapOf};
use jamba_runtime::{
    DebugOptions, Engine, Feed, GenerateOptions, OpenOptions, Outputs, PlanFile, SamplerOptions, SequenceId,
};

use crate::mutate::edits;
use crate::plans::Sound;

#[path = "../../../runtime/tests/gpu/plan.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod plan;

/// Bytes of the input that say what to do; edits follow.
const ACTS: usize = 24;

/// Memory of the device.
const FREE: u64 = 8 << 20;

struct Host {
    info: DeviceInfo,
    /// Address and content of each allocation.
    memory: Vec<(u64, Vec<u8>)>,
    free: u64,
    n_kernels: usize,
    captures: bool,
    n_graphs: usize,
    /// Calls before one fails.
    left: u64,
}

impl Host {
    fn new(left: u64) -> Host {
        let info = DeviceInfo {
            name: "host".to_owned(),
            capability: (9, 0),
            n_sms: 10,
            total_bytes: FREE,
            free_bytes: FREE,
            cuda: (12, 4),
        };
        Host { info, memory: Vec::new(), free: FREE, n_kernels: 0, captures: false, n_graphs: 0, left }
    }

    fn place(&mut self, at: u64, bytes: u64) -> &mut [u8] {
        let is_in = |(begin, content): &&mut (u64, Vec<u8>)| {
            at.checked_sub(*begin)
                .and_then(|from| from.checked_add(bytes))
                .is_some_and(|end| end <= content.len() as u64)
        };
        let found = self.memory.iter_mut().find(is_in);
        let (begin, content) = found.unwrap_or_else(|| panic!("{bytes} bytes at {at:#x} are in no allocation"));
        let from = (at - *begin) as usize;
        &mut content[from..from + bytes as usize]
    }

    /// Counts a call, which may be the one that fails.
    fn call(&mut self) -> Result<(), DriverError> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { Err(DriverError::Fault("an illegal address".to_owned())) } else { Ok(()) }
    }
}

impl Driver for Host {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, _: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Result<(), DriverError> {
        self.n_kernels = kernels.len();
        self.call()
    }

    fn allocate(&mut self, _: &'static str, bytes: u64) -> Result<u64, DriverError> {
        self.call()?;
        if bytes > self.free {
            return Err(DriverError::OutOfMemory { wanted: bytes, free: self.free });
        }
        self.free -= bytes;
        let at = self.memory.last().map_or(1 << 32, |(at, content)| at + content.len() as u64 + 4096);
        let at = at.next_multiple_of(256);
        self.memory.push((at, vec![0; bytes as usize]));
        Ok(at)
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DriverError> {
        self.call()?;
        self.place(to, bytes.len() as u64).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.call()?;
        bytes.copy_from_slice(self.place(from, bytes.len() as u64));
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DriverError> {
        self.call()?;
        let content = self.place(from, bytes).to_vec();
        self.place(to, bytes).copy_from_slice(&content);
        Ok(())
    }

    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError> {
        self.call()?;
        self.place(at, bytes).fill(value);
        Ok(())
    }

    fn tensor_map(&mut self, _: &TensorMapOf) -> Result<[u8; 128], DriverError> {
        self.call().map(|()| [0; 128])
    }

    fn launch(&mut self, launch: &LaunchOf<'_>) -> Result<(), DriverError> {
        assert!(launch.kernel < self.n_kernels, "kernel {} of {}", launch.kernel, self.n_kernels);
        self.call()
    }

    fn synchronize(&mut self) -> Result<(), DriverError> {
        assert!(!self.captures, "a capture is not over");
        self.call()
    }

    fn begin_capture(&mut self) -> Result<(), DriverError> {
        assert!(!std::mem::replace(&mut self.captures, true), "captures do not nest");
        self.call()
    }

    fn end_capture(&mut self) -> Result<GraphId, DriverError> {
        assert!(std::mem::replace(&mut self.captures, false), "no capture was begun");
        self.call()?;
        self.n_graphs += 1;
        Ok(GraphId(self.n_graphs - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError> {
        assert!(graph.0 < self.n_graphs, "{graph:?} of {}", self.n_graphs);
        self.call()
    }
}

/// Plans of the toy model: plain, one that picks tokens on the device, one that draws its weights there.
fn plans() -> &'static [Sound] {
    static PLANS: OnceLock<Vec<Sound>> = OnceLock::new();
    PLANS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let toys = [plan::Toy::new(), plan::Toy::new().picking(), plan::Toy::new().synthetic(7, 8192).drawn_there()];
        let sound = |toy: plan::Toy| {
            let bytes = std::fs::read(toy.write(folder.path())).expect("the plan that was written");
            Sound::of(&bytes)
        };
        toys.into_iter().map(sound).collect()
    })
}

pub fn acts() -> Vec<Vec<u8>> {
    let acts = |base: u8| {
        let mut acts: Vec<u8> = vec![base, 0, 255, 255, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 10, 11];
        acts.resize(ACTS + 13, 0);
        acts
    };
    vec![acts(0), acts(1), acts(2), [&acts(1)[..], &[0; 26]].concat()]
}

pub fn gpu(data: &[u8]) {
    let Some((acts, rest)) = data.split_at_checked(ACTS) else { return };
    let plan = &plans()[usize::from(acts[0]) % plans().len()];
    let edited = plan.with_numbers(&edits(rest).collect::<Vec<_>>());
    let Ok(file) = PlanFile::copy_of(&edited) else { return };
    let is = |bit: u8| acts[1] & bit > 0;
    let debug = DebugOptions { check: is(1), draw_on_host: is(2), launch_each: is(4), pick_on_host: is(8) };
    let left = u64::from(u16::from_le_bytes([acts[2], acts[3]]));
    let driver = Host::new(if left == 0xffff { u64::MAX } else { left });
    let options = OpenOptions { driver: Some(Box::new(driver)), threads: Some(1), debug, ..OpenOptions::default() };
    let Ok(mut engine) = Engine::open(file, options) else { return };
    let before = engine.free();
    let mut held: Vec<SequenceId> = Vec::new();
    for &act in &acts[4..] {
        drive(&mut engine, &mut held, act);
    }
    let removed = held.into_iter().try_for_each(|sequence| engine.remove_sequence(sequence));
    // After a fault of the device an engine can only be closed.
    if left == 0xffff {
        removed.expect("every sequence can be removed");
        assert_eq!(engine.free(), before, "slots and pages come back");
    }
}

fn drive(engine: &mut Engine, held: &mut Vec<SequenceId>, act: u8) {
    let (kind, number) = (act % 12, u32::from(act / 12));
    let Some(&sequence) = held.get(number as usize % held.len().max(1)) else {
        held.extend(engine.add_sequence());
        return;
    };
    let prompt: Vec<u32> = (0..1 + number * 4).map(|token| token % 300).collect();
    match kind {
        0 => held.extend(engine.add_sequence()),
        1 | 2 => drop(engine.prefill(sequence, &prompt, None, None)),
        3 => drop(engine.step(&[Feed { sequence, tokens: &[5], outputs: Outputs::Last }])),
        4 => {
            let feeds: Vec<Feed<'_>> =
                held.iter().map(|&sequence| Feed { sequence, tokens: &[7], outputs: Outputs::Last }).collect();
            drop(engine.step(&feeds));
        }
        5 => held.extend(engine.fork(sequence)),
        6 => {
            if let Ok(snapshot) = engine.snapshot(sequence) {
                held.extend(engine.restore(&snapshot));
            }
        }
        7 => drop(engine.checkpoint(sequence)),
        8 => drop(engine.rollback(sequence, u64::from(number))),
        9 => {
            held.retain(|&other| other != sequence);
            drop(engine.remove_sequence(sequence));
        }
        _ => {
            let sampler =
                SamplerOptions { temperature: f32::from(kind == 10), seed: Some(1), ..SamplerOptions::GREEDY };
            let options = GenerateOptions { max_new: 3, sampler, ..GenerateOptions::default() };
            drop(engine.generate(&prompt, &options, |_| ControlFlow::Continue(())));
        }
    }
}
