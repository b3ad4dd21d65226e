//! Synthetic weights drawn on a device: compared with the host's, and timed.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use jamba_plan::Verify;
use jamba_plan::format::{TargetKind, Weight};
use jamba_plan::synthetic::{DrawnRows, fill_panels};
use jamba_runtime::PlanFile;
use jamba_runtime::gpu::{DeviceCode, Driver, KernelNeeds, LaunchOf};
use serde::Serialize;

/// Result of drawing a plan's weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draws {
    /// Path of the plan.
    pub plan: String,
    /// Size of all weights, in bytes.
    pub bytes: u64,
    /// Kernel launches.
    pub launches: usize,
    /// Time to draw all weights.
    pub seconds: f64,
    /// Bytes compared with the host's, all equal.
    pub compared_bytes: u64,
}

/// Bytes compared at the beginning and at the end of each weight.
const COMPARED_BYTES: usize = 1 << 18;

/// Draws the weights of a plan on a device, twice, and compares parts of each weight with the host.
///
/// # Errors
/// A plan without drawing kernels, a byte that differs, or a device error.
pub fn draw(plan: &Path, mut driver: Box<dyn Driver>) -> Result<Draws> {
    let file = PlanFile::open(plan)?;
    let plan = file.plan(Verify::Everything, &mut |_, _| ())?;
    let (info, program) = plan
        .programs()
        .find(|(info, _)| info.kind == TargetKind::Sm90a)
        .context("the plan has no program for sm_90a")?;
    let seed = plan.manifest().synthetic_seed.filter(|_| !info.draw_kernels.is_empty());
    let seed = seed.context("the plan has no kernels that draw weights")?;
    let ptx = std::str::from_utf8(plan.code("sm_90a").context("the plan has no code for sm_90a")?)?;
    let needs = |symbol| KernelNeeds { symbol, n_args: DrawnRows::N_ARGS, shared_bytes: 0 };
    let needs: Vec<KernelNeeds> = info.draw_kernels.iter().map(|kernel| needs(&kernel.symbol)).collect();
    driver.load(DeviceCode { ptx, cubin: plan.cubin("sm_90a") }, &needs)?;
    let at = driver.allocate("weights", info.memory.weights)?;

    let mut launches = Vec::new();
    for weight in &program.weights {
        let kernel = info.draw_kernels.iter().position(|kernel| kernel.format == weight.format);
        let kernel = kernel.context("each weight has a kernel")?;
        let rows = DrawnRows::of(weight, seed).map_err(anyhow::Error::msg)?;
        launches.extend(rows.iter().map(|rows| (kernel, rows.args(at))));
    }
    let mut seconds = 0.0;
    // The first run includes loading the code.
    for _ in 0..2 {
        let began = Instant::now();
        for (kernel, args) in &launches {
            let launch = info.draw_kernels[*kernel].launch;
            let [x, y, z] = launch.blocks(driver.info().n_sms, |_| 1).map(|blocks| blocks as u32);
            let (threads, shared_bytes) = (launch.threads, launch.shared_bytes);
            driver.launch(&LaunchOf { kernel: *kernel, grid: [x, y, z], threads, shared_bytes, args })?;
        }
        driver.synchronize()?;
        seconds = began.elapsed().as_secs_f64();
    }

    let mut compared_bytes = 0;
    for weight in &program.weights {
        compared_bytes += compare(&mut *driver, at, weight, seed)?;
    }
    let bytes = program.weights.iter().map(|weight| weight.bytes).sum();
    Ok(Draws { plan: file.path().display().to_string(), bytes, launches: launches.len(), seconds, compared_bytes })
}

/// Compares the first and the last panels of a weight; returns the number of bytes compared.
fn compare(driver: &mut dyn Driver, at: u64, weight: &Weight, seed: u64) -> Result<u64> {
    let panel_bytes = weight.layout.panel_bytes(weight.format);
    let n_panels = weight.bytes as usize / panel_bytes;
    let at_once = (COMPARED_BYTES / panel_bytes).clamp(1, n_panels);
    let (mut found, mut expected) = (vec![0; at_once * panel_bytes], vec![0; at_once * panel_bytes]);
    // A small weight is compared as a whole, once.
    let firsts = [0, n_panels - at_once];
    let firsts = &firsts[if at_once == n_panels { 1 } else { 0 }..];
    for &first in firsts {
        let begin = weight.offset + (first * panel_bytes) as u64;
        driver.download(at + begin, &mut found)?;
        fill_panels(weight, seed, first as u64, &mut expected);
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        ensure!(
            wrong.is_none(),
            "{}, byte {} of the weights: other bits than the host's",
            weight.parts[0].parameter,
            begin + wrong.unwrap_or(0) as u64
        );
    }
    Ok((firsts.len() * found.len()) as u64)
}
