//! Draws synthetic weights on the device with the plan's draw kernels.

use jamba_plan::format::{DrawKernel, Weight};
use jamba_plan::synthetic::DrawnRows;

use super::driver::{Driver, DriverError, LaunchOf};
use super::fault::Fault;
use crate::options::{Listener, report_bytes};

/// Bytes between two reports of progress. Each report synchronizes with the device.
const BETWEEN_BYTES: u64 = 1 << 30;

/// The draw kernels of a plan.
pub(super) struct DrawKernels<'a> {
    pub(super) kernels: &'a [DrawKernel],
    /// Number of kernels loaded before them; their index in the driver is offset by it.
    pub(super) before: usize,
}

impl DrawKernels<'_> {
    /// Draws every weight to address `to` plus its offset.
    pub(super) fn draw(
        &self,
        driver: &mut dyn Driver,
        to: u64,
        (weights, seed): (&[Weight], u64),
        listen: Listener<'_>,
    ) -> Result<(), Fault> {
        let total = weights.last().map_or(0, |last| last.offset + last.bytes);
        let mut told = 0;
        for (index, weight) in weights.iter().enumerate() {
            let name = weight.parts.first().map_or("", |part| &part.parameter);
            self.launch(driver, to, weight, seed).map_err(|error| Fault::of_weights(name, error))?;
            let done = weight.offset + weight.bytes;
            if done - told >= BETWEEN_BYTES || index + 1 == weights.len() {
                driver.synchronize().map_err(|error| Fault::of_weights(name, error))?;
                report_bytes(listen, "drawing weights", done, total);
                told = done;
            }
        }
        Ok(())
    }

    /// Launches the kernels that draw one weight.
    fn launch(&self, driver: &mut dyn Driver, to: u64, weight: &Weight, seed: u64) -> Result<(), DriverError> {
        let refused = |message: String| DriverError::Call { call: "launch", message };
        let kernel = self.kernels.iter().position(|kernel| kernel.format == weight.format);
        // `jamba_plan::verify` checked that every weight has a kernel that can draw it.
        let kernel = kernel.ok_or_else(|| refused(format!("no kernel draws {}", weight.format.name())))?;
        let launch = self.kernels[kernel].launch;
        let blocks = launch.blocks(driver.info().n_sms, |_| 1);
        for rows in DrawnRows::of(weight, seed).map_err(refused)? {
            driver.launch(&LaunchOf {
                kernel: self.before + kernel,
                grid: blocks.map(|blocks| blocks as u32), // verified to fit
                threads: launch.threads,
                shared_bytes: launch.shared_bytes,
                args: &rows.args(to),
            })?;
        }
        Ok(())
    }
}
