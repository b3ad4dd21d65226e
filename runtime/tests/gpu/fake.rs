//! A fake driver that records calls.

use std::sync::{Arc, Mutex, MutexGuard};

use jamba_runtime::gpu::{DeviceCode, DeviceInfo, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, TensorMapOf};

use crate::kernels;

/// A recorded call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    /// Symbols with numbers of arguments and shared memory; whether there was a cubin.
    Load(Vec<(String, usize, u32)>, bool),
    Allocate(&'static str, u64),
    /// Address and size.
    Upload(u64, usize),
    Download(u64, usize),
    /// Source, destination, size.
    Copy(u64, u64, u64),
    /// Address, size, value.
    Fill(u64, u64, u8),
    TensorMap(TensorMapOf),
    Launch(Launched),
    Synchronize,
    BeginCapture,
    EndCapture,
    Replay(usize),
    Drop,
}

/// A launch with owned arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    pub(crate) kernel: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) args: Vec<u64>,
}

impl Call {
    /// The name of the call.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Call::Load(..) => "load",
            Call::Allocate(..) => "allocate",
            Call::Upload(..) => "upload",
            Call::Download(..) => "download",
            Call::Copy(..) => "copy",
            Call::Fill(..) => "fill",
            Call::TensorMap(..) => "tensor_map",
            Call::Launch(..) => "launch",
            Call::Synchronize => "synchronize",
            Call::BeginCapture => "begin_capture",
            Call::EndCapture => "end_capture",
            Call::Replay(..) => "replay",
            Call::Drop => "drop",
        }
    }
}

/// Device memory: separate allocations with arbitrary initial content.
#[derive(Default)]
pub(crate) struct Memory(Vec<(&'static str, u64, Vec<u8>)>);

impl Memory {
    fn find(&self, at: u64, bytes: usize) -> Result<(usize, usize), String> {
        let inside = |&(_, begin, ref content): &(&str, u64, Vec<u8>)| {
            at >= begin && at - begin + bytes as u64 <= content.len() as u64
        };
        let index = self.0.iter().position(inside).ok_or(format!("{bytes} bytes at {at:#x} are nobody's"))?;
        Ok((index, (at - self.0[index].1) as usize))
    }

    pub(crate) fn get(&self, at: u64, bytes: usize) -> Result<&[u8], String> {
        let (index, begin) = self.find(at, bytes)?;
        Ok(&self.0[index].2[begin..begin + bytes])
    }

    fn get_mut(&mut self, at: u64, bytes: usize) -> Result<&mut [u8], String> {
        let (index, begin) = self.find(at, bytes)?;
        Ok(&mut self.0[index].2[begin..begin + bytes])
    }

    fn word<const N: usize>(&self, at: u64) -> Result<[u8; N], String> {
        if !at.is_multiple_of(N as u64) {
            return Err(format!("{at:#x} is not aligned"));
        }
        Ok(self.get(at, N)?.try_into().expect("N bytes"))
    }

    pub(crate) fn f32(&self, at: u64) -> Result<f32, String> {
        self.word(at).map(f32::from_le_bytes)
    }

    pub(crate) fn set_f32(&mut self, at: u64, value: f32) -> Result<(), String> {
        self.get_mut(at, 4)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// An element of a table.
    pub(crate) fn i32(&self, table: u64, index: u64) -> Result<i32, String> {
        self.word(table + 4 * index).map(i32::from_le_bytes)
    }

    pub(crate) fn set_i32(&mut self, table: u64, index: u64, value: i32) -> Result<(), String> {
        self.get_mut(table + 4 * index, 4)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// The value of a count.
    pub(crate) fn count(&self, at: u64) -> Result<u64, String> {
        self.word(at).map(u64::from_le_bytes)
    }
}

/// State of the driver that tests inspect.
#[derive(Default)]
struct State {
    memory: Memory,
    calls: Vec<Call>,
    symbols: Vec<String>,
    graphs: Vec<Vec<Launched>>,
    capture: Option<Vec<Launched>>,
    /// Name of the call that fails, and the number of such calls before it.
    fails: Option<(&'static str, usize, DriverError)>,
    /// The kernel that faults.
    culprit: Option<&'static str>,
    /// The error that the next synchronizing call reports.
    pending: Option<DriverError>,
}

/// The calls of a driver, which outlive the driver.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Mutex<State>>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The calls since the last call of this function.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    /// The names of the calls since the last call of this function.
    pub(crate) fn take_names(&self) -> Vec<&'static str> {
        self.take().iter().map(Call::name).collect()
    }

    /// The launches since the last call of this function; those of graphs count when they are recorded.
    pub(crate) fn take_launches(&self) -> Vec<Launched> {
        let launch = |call| if let Call::Launch(launch) = call { Some(launch) } else { None };
        self.take().into_iter().filter_map(launch).collect()
    }

    /// Makes calls with this name fail after `n` more of them.
    pub(crate) fn fail(&self, call: &'static str, n: usize, error: DriverError) {
        self.lock().fails = Some((call, n, error));
    }

    /// Makes this kernel fault; the next synchronizing call reports it.
    pub(crate) fn spoil(&self, kernel: &'static str) {
        self.lock().culprit = Some(kernel);
    }

    /// Address of an allocation and a copy of its content.
    pub(crate) fn region(&self, what: &str) -> (u64, Vec<u8>) {
        let state = self.lock();
        let found = state.memory.0.iter().find(|(name, ..)| *name == what);
        found.map(|(_, at, content)| (*at, content.clone())).unwrap()
    }
}

pub(crate) struct Fake {
    pub(crate) info: DeviceInfo,
    state: Calls,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let info = DeviceInfo {
            name: "Fake H100".to_owned(),
            capability: (9, 0),
            n_sms: 10,
            total_bytes: 1 << 31,
            free_bytes: 1 << 30,
            cuda: (12, 4),
        };
        Fake { info, state: Calls(Arc::default()) }
    }

    pub(crate) fn calls(&self) -> Calls {
        self.state.clone()
    }

    /// Records a call, and fails if a test requested it.
    fn note(&mut self, call: Call) -> Result<MutexGuard<'_, State>, DriverError> {
        let mut state = self.state.lock();
        let name = call.name();
        state.calls.push(call);
        match &mut state.fails {
            Some((failing, 0, error)) if *failing == name => return Err(error.clone()),
            Some((failing, left, _)) if *failing == name => *left -= 1,
            _ => {}
        }
        if ["upload", "download", "synchronize"].contains(&name)
            && let Some(error) = &state.pending
        {
            return Err(error.clone());
        }
        Ok(state)
    }
}

impl State {
    fn run(&mut self, launch: &Launched) {
        let symbol = self.symbols[launch.kernel].clone();
        let result = match self.culprit {
            Some(culprit) if culprit == symbol => Err("an illegal address".to_owned()),
            _ => kernels::run(&mut self.memory, &symbol, &launch.args),
        };
        if let Err(what) = result {
            self.pending.get_or_insert(DriverError::Fault(what));
        }
    }
}

fn wrong(message: String) -> DriverError {
    DriverError::Call { call: "memory", message }
}

impl Driver for Fake {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, code: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Result<(), DriverError> {
        let needs = kernels.iter().map(|kernel| (kernel.symbol.to_owned(), kernel.n_args, kernel.shared_bytes));
        assert!(code.ptx.contains(".version"));
        let call = Call::Load(needs.collect(), code.cubin.is_some());
        self.note(call)?.symbols = kernels.iter().map(|kernel| kernel.symbol.to_owned()).collect();
        Ok(())
    }

    fn allocate(&mut self, what: &'static str, bytes: u64) -> Result<u64, DriverError> {
        let mut state = self.note(Call::Allocate(what, bytes))?;
        let last = state.memory.0.last().map_or(1 << 32, |(_, at, content)| at + content.len() as u64);
        let at = (last + (1 << 20)).next_multiple_of(256);
        state.memory.0.push((what, at, vec![0xcd; bytes as usize]));
        Ok(at)
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let mut state = self.note(Call::Upload(to, bytes.len()))?;
        state.memory.get_mut(to, bytes.len()).map_err(wrong)?.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        let state = self.note(Call::Download(from, bytes.len()))?;
        bytes.copy_from_slice(state.memory.get(from, bytes.len()).map_err(wrong)?);
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DriverError> {
        let mut state = self.note(Call::Copy(from, to, bytes))?;
        let content = state.memory.get(from, bytes as usize).map_err(wrong)?.to_vec();
        state.memory.get_mut(to, bytes as usize).map_err(wrong)?.copy_from_slice(&content);
        Ok(())
    }

    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError> {
        let mut state = self.note(Call::Fill(at, bytes, value))?;
        state.memory.get_mut(at, bytes as usize).map_err(wrong)?.fill(value);
        Ok(())
    }

    fn tensor_map(&mut self, map: &TensorMapOf) -> Result<[u8; 128], DriverError> {
        drop(self.note(Call::TensorMap(*map))?);
        let mut encoded = [0xee; 128];
        encoded[..8].copy_from_slice(&map.address.to_le_bytes());
        Ok(encoded)
    }

    fn launch(&mut self, launch: &LaunchOf<'_>) -> Result<(), DriverError> {
        let &LaunchOf { kernel, grid, threads, shared_bytes, args } = launch;
        let launched = Launched { kernel, grid, threads, shared_bytes, args: args.to_vec() };
        let mut state = self.note(Call::Launch(launched.clone()))?;
        match &mut state.capture {
            Some(noted) => noted.push(launched),
            None => state.run(&launched),
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), DriverError> {
        self.note(Call::Synchronize).map(|_| ())
    }

    fn begin_capture(&mut self) -> Result<(), DriverError> {
        let mut state = self.note(Call::BeginCapture)?;
        assert!(state.capture.replace(Vec::new()).is_none(), "captures do not nest");
        Ok(())
    }

    fn end_capture(&mut self) -> Result<GraphId, DriverError> {
        let noted = self.state.lock().capture.take().expect("a capture that was begun");
        let mut state = self.note(Call::EndCapture)?;
        state.graphs.push(noted);
        Ok(GraphId(state.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError> {
        let mut state = self.note(Call::Replay(graph.0))?;
        let launches = state.graphs[graph.0].clone();
        launches.iter().for_each(|launch| state.run(launch));
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        assert!(state.capture.is_none(), "dropped in the middle of a capture");
        state.calls.push(Call::Drop);
    }
}
