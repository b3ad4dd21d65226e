//! Opens a plan on a GPU: checks everything, then loads the code, allocates memory, uploads or draws the weights, and lays
//! out the kernels' parameters.

use std::cell::RefCell;
use std::collections::BTreeMap;

use jamba_plan::Plan;
use jamba_plan::format::{Arg, Limits, Memory, Program, ProgramInfo, TENSOR_MAP_BYTES, TensorMap};
use jamba_plan::synthetic::DrawnRows;
use jamba_plan::tables::DeviceTables;
use tracing::debug_span;

use super::draw_kernels::DrawKernels;
use super::driver::{DeviceCode, DeviceInfo, Driver, DriverError, KernelNeeds, Parameters, TensorMapOf};
use super::fault::Fault;
use super::guards::Guards;
use super::rows::Rows;
use super::run::Arguments;
use super::tables::Tables;
use super::{Gpu, Live, cubin, weights};
use crate::device::map::PlanFile;
use crate::device::{Addresses, Opened};
use crate::{OpenOptions, RuntimeError};

/// The only compute capability that runs sm_90a code.
const CAPABILITY: (u32, u32) = (9, 0);

/// The target whose code is loaded.
const TARGET: &str = "sm_90a";

impl Gpu {
    /// Loads the code, allocates the memory that the manifest states, with pools for the lowered limits, and uploads or draws the weights.
    pub(crate) fn open(
        plan: &Plan<'_>,
        (info, program): (&ProgramInfo, &Program),
        file: &PlanFile,
        (options, lowered): (&OpenOptions<'_>, &Limits),
        mut driver: Box<dyn Driver>,
    ) -> Result<(Gpu, Opened), RuntimeError> {
        let (limits, memory) = (&plan.manifest().limits, &info.memory);
        let device = driver.info().clone();
        let code = code(plan, info, options)?;
        check_device(&device, code.ptx)?;
        let mut guards = options.debug.check.then(Guards::default);
        check_memory(&device, memory.total(lowered) + guards.as_ref().map_or(0, |_| Guards::bytes(N_POOLS)))?;

        let failed = |what: &'static str| {
            let device = device.name.clone();
            move |error| match error {
                DriverError::OutOfMemory { wanted: needed, free } => {
                    RuntimeError::DeviceMemory { device, what, needed, free }
                }
                DriverError::Code(reason) => RuntimeError::Code { target: TARGET.to_owned(), reason },
                error => Fault::of_call(what, error).error(&device),
            }
        };
        debug_span!("load code", target = TARGET)
            .in_scope(|| driver.load(code, &kernels(info, program)))
            .map_err(failed("loading the code"))?;
        let _upload = debug_span!("upload", bytes = memory.total(lowered)).entered();
        let pools = allocate(&mut *driver, memory, lowered, guards.as_mut(), failed)?;
        let listen = options.progress;
        match (plan.weights_range(info.kind), plan.manifest().synthetic_seed) {
            (Some(range), _) => {
                file.advise(memmap2::Advice::WillNeed, &range);
                weights::copy(&mut *driver, pools.weights, &file.bytes()[range], listen)
                    .map_err(failed("copying the weights"))?;
            }
            (None, Some(seed)) if info.draw_kernels.is_empty() || options.debug.draw_on_host => {
                weights::draw(&mut *driver, pools.weights, (&program.weights, seed), (options.threads, listen))
                    .map_err(failed("copying the weights"))?;
            }
            (None, Some(seed)) => {
                let kernels = DrawKernels { kernels: &info.draw_kernels, before: program.kernels.len() };
                kernels
                    .draw(&mut *driver, pools.weights, (&program.weights, seed), listen)
                    .map_err(|fault| fault.error(&device.name))?;
            }
            (None, None) => {}
        }
        let region = DeviceTables::of(limits, program);
        let maps = encode_maps(&mut *driver, program, pools, limits).map_err(failed("encoding the tensor maps"))?;
        driver.synchronize().map_err(failed("opening the plan"))?;

        let entries = (0..program.entries.len())
            .map(|entry| arguments(program, entry, pools, (&region, limits), &maps))
            .collect();
        let opened = Opened { target: TARGET.to_owned(), device: device.name.clone(), n_threads: 1 };
        let mut gpu = Gpu {
            process: std::process::id(),
            live: RefCell::new(Live { driver, fault: None }),
            name: device.name,
            n_sms: device.n_sms,
            limits: limits.clone(),
            pool_bytes: (memory.state_pool(lowered), memory.kv_pool(lowered)),
            memory: memory.clone(),
            pools,
            tables: Tables::new(limits, region),
            entries,
            graphs: BTreeMap::new(),
            rows: Rows::new(program, options.debug.pick_on_host),
            program: program.clone(),
            guards,
            broken: None,
            checked: false,
        };
        if !options.debug.launch_each && !options.debug.check {
            debug_span!("record graphs").in_scope(|| gpu.record_graphs()).map_err(|fault| fault.error(&gpu.name))?;
        }
        Ok((gpu, opened))
    }
}

/// The plan's code for the device. Fails if the options ask for another target.
fn code<'a>(plan: &Plan<'a>, info: &ProgramInfo, options: &OpenOptions<'_>) -> Result<DeviceCode<'a>, RuntimeError> {
    if let Some(wanted) = options.isa.as_ref().filter(|&wanted| wanted != TARGET) {
        return Err(RuntimeError::NoSuchTarget { wanted: wanted.clone(), targets: info.targets.clone() });
    }
    let bytes = plan.code(TARGET).ok_or(RuntimeError::NoSection("code for sm_90a"))?;
    let ptx = std::str::from_utf8(bytes).map_err(|error| RuntimeError::Code {
        target: TARGET.to_owned(),
        reason: format!("its PTX is not UTF-8: {error}"),
    })?;
    let cubin = plan.cubin(TARGET);
    cubin.map_or(Ok(()), cubin::check).map_err(|reason| RuntimeError::Code { target: TARGET.to_owned(), reason })?;
    Ok(DeviceCode { ptx, cubin })
}

/// Checks that the device can run the code and that its driver can load it.
fn check_device(device: &DeviceInfo, ptx: &str) -> Result<(), RuntimeError> {
    let (name, found) = (device.name.clone(), device.capability);
    if found != CAPABILITY {
        return Err(RuntimeError::WrongCapability { device: name, found, needed: CAPABILITY });
    }
    let version = ptx.lines().find_map(|line| line.trim().strip_prefix(".version "));
    let version = version.and_then(|version| {
        let (major, minor) = version.trim().split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    let Some(ptx) = version else {
        let reason = "its PTX has no line .version".to_owned();
        return Err(RuntimeError::Code { target: TARGET.to_owned(), reason });
    };
    let (found, needed) = (device.cuda, cuda_of(ptx));
    if found < needed {
        return Err(RuntimeError::DriverTooOld { device: name, found, needed, ptx });
    }
    Ok(())
}

/// The first CUDA version that supports a PTX version: PTX 8.0 came with CUDA 12.0. CUDA 12.6 added none.
fn cuda_of((major, minor): (u32, u32)) -> (u32, u32) {
    (major + 4, if major == 8 && minor > 5 { minor + 1 } else { minor })
}

/// Checks that the device has enough free memory, before any is allocated.
fn check_memory(device: &DeviceInfo, needed: u64) -> Result<(), RuntimeError> {
    let free = device.free_bytes;
    if needed <= free {
        return Ok(());
    }
    Err(RuntimeError::DeviceMemory { device: device.name.clone(), what: "the plan", needed, free })
}

/// Requirements of every kernel: first those of steps, then those that draw weights.
fn kernels<'a>(info: &'a ProgramInfo, program: &'a Program) -> Vec<KernelNeeds<'a>> {
    let shared_bytes = |index: usize| {
        let steps = program.entries.iter().flat_map(|entry| &entry.steps);
        let launches = steps.filter(|step| step.kernel as usize == index).filter_map(|step| step.launch);
        launches.map(|launch| launch.shared_bytes).max().unwrap_or(0)
    };
    (program.kernels.iter().enumerate())
        .map(|(index, kernel)| KernelNeeds {
            symbol: &kernel.symbol,
            n_args: kernel.operands.len(),
            shared_bytes: shared_bytes(index),
        })
        .chain(info.draw_kernels.iter().map(|kernel| KernelNeeds {
            symbol: &kernel.symbol,
            n_args: DrawnRows::N_ARGS,
            shared_bytes: kernel.launch.shared_bytes,
        }))
        .collect()
}

/// Number of allocations of an open plan.
const N_POOLS: u64 = 5;

/// Allocates the plan's memory, between guards if there are any.
fn allocate<F: FnOnce(DriverError) -> RuntimeError>(
    driver: &mut dyn Driver,
    memory: &Memory,
    limits: &Limits,
    mut guards: Option<&mut Guards>,
    failed: impl Fn(&'static str) -> F,
) -> Result<Addresses, RuntimeError> {
    let mut take = |what: &'static str, bytes: u64| {
        let taken = match &mut guards {
            _ if bytes == 0 => Ok(0),
            Some(guards) => guards.allocate(driver, what, bytes),
            None => driver.allocate(what, bytes),
        };
        taken.map_err(failed(what))
    };
    Ok(Addresses {
        weights: take("weights", memory.weights)?,
        kv: take("KV pool", memory.kv_pool(limits))?,
        state: take("state pool", memory.state_pool(limits))?,
        arena: take("arena", memory.arena)?,
        tables: take("step tables", memory.tables)?,
    })
}

/// Encodes the tensor maps.
fn encode_maps(
    driver: &mut dyn Driver,
    program: &Program,
    pools: Addresses,
    limits: &Limits,
) -> Result<Vec<[u8; TENSOR_MAP_BYTES]>, DriverError> {
    let encode = |map: &TensorMap| {
        let &TensorMap { base, elem, rows, cols, row_stride, box_rows, box_cols, swizzle } = map;
        let address = pools.of(base, program, limits).unwrap_or(pools.tables); // verified: neither a count nor a map
        driver.tensor_map(&TensorMapOf { address, elem, rows, cols, row_stride, box_rows, box_cols, swizzle })
    };
    program.tensor_maps.iter().map(encode).collect()
}

/// The parameters of an entry's steps. Counts and tables are addresses in the region that every step uploads.
fn arguments(
    program: &Program,
    entry: usize,
    pools: Addresses,
    (region, limits): (&DeviceTables, &Limits),
    maps: &[[u8; TENSOR_MAP_BYTES]],
) -> Arguments {
    let fixed = Addresses { tables: pools.tables + region.tables_at, ..pools };
    let of_step = |args: &[Arg]| {
        let mut parameters = Parameters::default();
        for &arg in args {
            match arg {
                Arg::TensorMap(index) => parameters.push_map(&maps[index as usize]), // verified to exist
                Arg::Count(count, factor) => parameters.push(pools.tables + region.count(count, factor).unwrap_or(0)),
                arg => parameters.push(fixed.of(arg, program, limits).unwrap_or(0)),
            }
        }
        parameters
    };
    Arguments { steps: program.entries[entry].steps.iter().map(|step| of_step(&step.args)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_is_understood_from_the_cuda_that_it_came_with() {
        assert_eq!(
            [(7, 8), (8, 0), (8, 5), (8, 6), (8, 8), (9, 0)].map(cuda_of),
            [(11, 8), (12, 0), (12, 5), (12, 7), (12, 9), (13, 0)]
        );
    }
}
