//! Constants of a device that `jambac predict` assumes: the gap between launches of a graph, the latency of a read, and the bandwidth
//! of few and of many blocks that stream.

use std::time::Instant;

use anyhow::{Context, Result};
use jamba_runtime::gpu::{DeviceCode, Driver, KernelNeeds, LaunchOf};
use serde::Serialize;

/// `nothing` returns; `chase` follows `n` pointers; `stream` reads 16 bytes per thread, eight loads in flight, and stores their sum.
const PTX: &str = include_str!("constants.ptx");

/// What was measured. Seconds, and bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constants {
    /// Between two launches of a graph, of kernels that do nothing.
    pub gap_s: f64,
    /// A read from memory that depends on the one before, without the launch.
    pub read_s: f64,
    /// Of blocks that stream: number of blocks, and their bandwidth together.
    pub streams: Vec<(u32, f64)>,
}

/// Launches in the graph.
const LAUNCHES: usize = 300;

/// How much each measurement does.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Bytes that the largest stream reads: many times the caches.
    pub bytes: u64,
    /// Pointers in the chain.
    pub pointers: u64,
    /// Repetitions, of which the fastest counts.
    pub repeats: u32,
}

impl Amount {
    /// For a device.
    pub const WHOLE: Amount = Amount { bytes: 2 << 30, pointers: 4096, repeats: 5 };
    /// For a simulator, which shows that the kernels run.
    pub const SMALL: Amount = Amount { bytes: 1 << 18, pointers: 32, repeats: 1 };
}

/// Bytes that a block reads in an iteration: 256 threads, 8 loads of 16 bytes.
const STRIDE: u64 = 256 * 8 * 16;

/// Distance of the pointers in a chain, beyond a line and its prefetch.
const POINTER_BYTES: u64 = 4096;

/// Measures the constants.
///
/// # Errors
/// A device error.
pub fn measure(mut driver: Box<dyn Driver>, amount: Amount) -> Result<Constants> {
    let symbols = ["nothing", "chase", "stream"];
    let needs = symbols.map(|symbol| KernelNeeds { symbol, n_args: 3, shared_bytes: 0 });
    let needs: Vec<KernelNeeds<'_>> =
        needs.into_iter().zip([0, 3, 3]).map(|(needs, n_args)| KernelNeeds { n_args, ..needs }).collect();
    driver.load(DeviceCode { ptx: PTX, cubin: None }, &needs).context("loading the kernels")?;
    let n_sms = driver.info().n_sms;
    let bytes = amount.bytes.max(u64::from(2 * n_sms) * STRIDE);
    let memory = driver.allocate("memory", bytes.max(amount.pointers * POINTER_BYTES))?;
    let out = driver.allocate("results", 1 << 20)?;
    let launch = |driver: &mut dyn Driver, kernel: usize, blocks: u32, args: &[u64]| {
        driver.launch(&LaunchOf { kernel, grid: [blocks, 1, 1], threads: 256, shared_bytes: 0, args })
    };
    let fastest = |driver: &mut dyn Driver, run: &mut dyn FnMut(&mut dyn Driver) -> Result<()>| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..=amount.repeats {
            driver.synchronize()?;
            let began = Instant::now();
            run(driver)?;
            driver.synchronize()?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        Ok(best)
    };

    let mut graphs = Vec::new();
    for n in [LAUNCHES, 2 * LAUNCHES] {
        driver.begin_capture()?;
        for _ in 0..n {
            launch(&mut *driver, 0, 1, &[])?;
        }
        graphs.push(driver.end_capture()?);
    }
    let mut times = Vec::new();
    for graph in graphs {
        times.push(fastest(&mut *driver, &mut |driver| Ok(driver.replay(graph)?))?);
    }
    let gap_s = (times[1] - times[0]) / LAUNCHES as f64;

    // Each pointer is the address of the next; a chain twice as long takes the latency of its reads longer.
    let chain: Vec<u8> = (0..amount.pointers * POINTER_BYTES / 8)
        .flat_map(|word| (memory + (word * 8 + POINTER_BYTES) % (amount.pointers * POINTER_BYTES)).to_le_bytes())
        .collect();
    driver.upload(memory, &chain)?;
    let chase = |driver: &mut Box<dyn Driver>, n: u64| {
        fastest(&mut **driver, &mut |driver| Ok(launch(driver, 1, 1, &[memory, n, out])?))
    };
    let (short, long) = (chase(&mut driver, amount.pointers / 2)?, chase(&mut driver, amount.pointers)?);
    let read_s = (long - short) / (amount.pointers / 2) as f64;

    driver.fill(memory, bytes, 1)?;
    let n = bytes / STRIDE / u64::from(2 * n_sms); // pieces of each block
    let mut streams = Vec::new();
    for blocks in [1, 12, n_sms, 2 * n_sms] {
        let seconds = fastest(&mut *driver, &mut |driver| Ok(launch(driver, 2, blocks, &[memory, n, out])?))?;
        streams.push((blocks, (n * STRIDE * u64::from(blocks)) as f64 / seconds));
    }
    Ok(Constants { gap_s, read_s, streams })
}
