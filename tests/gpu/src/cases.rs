//! Recorded kernel launches: memory before the launch, and the results of the simulator. A device must produce the same results
//! up to the rounding of approximate functions and of sums.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::bf16;
use jamba_plan::format::{Count, Launch, Swizzle, TensorElem};
use jamba_runtime::gpu::{DeviceCode, Driver, DriverError, KernelNeeds, LaunchOf, Parameters, TensorMapOf};
use serde::{Deserialize, Serialize};

/// Recorded launches of one PTX module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cases {
    /// PTX of all kernels.
    pub ptx: String,
    /// The launches.
    pub cases: Vec<Case>,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Entry in the PTX.
    pub symbol: String,
    /// Grid, threads and shared memory.
    pub launch: Launch,
    /// Tokens, sequences and rows of logits of the step, which size the grid.
    pub counts: [u64; 3],
    /// Kernel parameters, in order.
    pub args: Vec<Arg>,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Arg {
    /// Address of a buffer: contents before the launch, and expected contents after it if the kernel writes it.
    Buffer(Before, Option<After>),
    /// A tensor map of an input matrix, and the matrix's bytes.
    Map(Matrix, Vec<u8>),
    /// Address of an i64.
    Count(u64),
    /// An integer.
    Scalar(u64),
}

/// Contents of a buffer before the launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Before {
    /// Initialized.
    Bytes(Vec<u8>),
    /// Uninitialized; the size in bytes.
    Unwritten(u64),
}

/// Expected contents of a buffer after the launch: strided rows, stored densely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct After {
    /// Element type, which selects the comparison.
    pub elem: Element,
    /// Bytes from one row to the next.
    pub stride: u64,
    /// Bytes of a row.
    pub row: u64,
    /// The rows.
    pub bytes: Vec<u8>,
}

/// Element type of a result and how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Element {
    /// f32, within the rounding of sums.
    F32,
    /// bf16, within its last bit and the rounding of sums.
    Bf16,
    /// Any type, exact.
    Bits,
}

/// The parameters of a tensor map, except the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// Element type.
    pub elem: TensorElem,
    /// Rows and columns.
    pub rows_cols: [u64; 2],
    /// Bytes from one row to the next.
    pub row_stride: u64,
    /// Rows and columns of a box.
    pub box_rows_cols: [u32; 2],
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
}

/// Result of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Number of the case in its file.
    pub case: usize,
    /// Entry in the PTX.
    pub symbol: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Right: the largest error of an element, as a fraction of the tolerance.
    Error(f64),
    /// Another result, and where.
    Wrong(String),
    /// The device failed; it cannot be used any more.
    Fault(String),
}

impl Cases {
    /// Reads a file of cases.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Cases> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        postcard::from_bytes(&bytes).with_context(|| format!("{} holds no cases of kernels", path.display()))
    }

    /// Writes a file of cases.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, postcard::to_stdvec(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// The number of the first case of each kernel.
    pub fn first_of_each(&self) -> Vec<usize> {
        let is_first = |&index: &usize| self.cases[..index].iter().all(|case| case.symbol != self.cases[index].symbol);
        (0..self.cases.len()).filter(is_first).collect()
    }

    /// Runs all cases.
    ///
    /// # Errors
    /// The code cannot be loaded, or `tell` fails.
    pub fn run(&self, driver: Box<dyn Driver>) -> Result<Vec<Outcome>> {
        let (all, mut outcomes): (Vec<usize>, _) = ((0..self.cases.len()).collect(), Vec::new());
        self.run_some(driver, &all, &mut |outcome| {
            outcomes.push(outcome);
            Ok(())
        })?;
        Ok(outcomes)
    }

    /// Runs these cases and tells the outcome of each at once. A wrong result does not end it. Returns whether the device
    /// failed, which does.
    ///
    /// # Errors
    /// The code cannot be loaded, or `tell` fails.
    pub fn run_some(
        &self,
        mut driver: Box<dyn Driver>,
        chosen: &[usize],
        tell: &mut dyn FnMut(Outcome) -> Result<()>,
    ) -> Result<bool> {
        let needs: Vec<KernelNeeds> = self.cases.iter().map(Case::needs).collect();
        driver.load(DeviceCode { ptx: &self.ptx, cubin: None }, &needs)?;
        for &index in chosen {
            let case = &self.cases[index];
            let verdict = match case.run(index, &mut *driver) {
                Ok(error) => Verdict::Error(error),
                Err(error) if error.chain().any(|cause| cause.is::<DriverError>()) => {
                    Verdict::Fault(format!("{error:#}"))
                }
                Err(error) => Verdict::Wrong(format!("{error:#}")),
            };
            let faulted = matches!(verdict, Verdict::Fault(_));
            tell(Outcome { case: index, symbol: case.symbol.clone(), verdict })?;
            if faulted {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Case {
    fn needs(&self) -> KernelNeeds<'_> {
        let Launch { shared_bytes, .. } = self.launch;
        KernelNeeds { symbol: &self.symbol, n_args: self.args.len(), shared_bytes }
    }

    /// Runs the case; the largest error, as a fraction of the tolerance.
    fn run(&self, kernel: usize, driver: &mut dyn Driver) -> Result<f64> {
        let (mut parameters, mut addresses) = (Parameters::default(), Vec::with_capacity(self.args.len()));
        for arg in &self.args {
            addresses.push(place(driver, arg, &mut parameters)?);
        }
        let count = |count: Count| match count {
            Count::Tokens => self.counts[0],
            Count::Sequences => self.counts[1],
            Count::Outputs => self.counts[2],
        };
        let blocks = self.launch.blocks(driver.info().n_sms, count);
        let mut grid = [1; 3];
        for (axis, blocks) in grid.iter_mut().zip(blocks) {
            *axis = u32::try_from(blocks).context("more blocks than a grid has")?;
        }
        let Launch { threads, shared_bytes, .. } = self.launch;
        driver.launch(&LaunchOf { kernel, grid, threads, shared_bytes, args: parameters.words() })?;
        driver.synchronize()?;
        let mut worst = 0.0;
        for ((index, arg), &address) in self.args.iter().enumerate().zip(&addresses) {
            let Arg::Buffer(_, Some(after)) = arg else { continue };
            worst = f64::max(worst, after.error(driver, address).with_context(|| format!("parameter {index}"))?);
        }
        Ok(worst)
    }
}

/// Puts an argument on the device and adds its parameter. The address of its buffer, or an integer.
fn place(driver: &mut dyn Driver, arg: &Arg, parameters: &mut Parameters) -> Result<u64> {
    let mut put = |bytes: &[u8]| {
        let address = driver.allocate("a parameter", bytes.len().max(1) as u64)?;
        driver.upload(address, bytes)?;
        Ok::<_, anyhow::Error>(address)
    };
    let word = match arg {
        Arg::Buffer(Before::Bytes(bytes), _) => put(bytes)?,
        // NaN as f32 and bf16: reads of uninitialized memory show.
        Arg::Buffer(Before::Unwritten(bytes), _) => put(&vec![0xff; *bytes as usize])?,
        Arg::Map(matrix, bytes) => {
            let address = put(bytes)?;
            let [rows, cols] = matrix.rows_cols;
            let [box_rows, box_cols] = matrix.box_rows_cols;
            let &Matrix { elem, row_stride, swizzle, .. } = matrix;
            let map = TensorMapOf { address, elem, rows, cols, row_stride, box_rows, box_cols, swizzle };
            parameters.push_map(&driver.tensor_map(&map)?);
            return Ok(address);
        }
        Arg::Count(count) => put(&count.to_le_bytes())?,
        Arg::Scalar(value) => *value,
    };
    parameters.push(word);
    Ok(word)
}

impl After {
    /// The largest error of an element, as a fraction of the tolerance.
    fn error(&self, driver: &mut dyn Driver, address: u64) -> Result<f64> {
        let rows = self.bytes.len() as u64 / self.row.max(1);
        let mut found = Vec::with_capacity(self.bytes.len());
        for row in 0..rows {
            let mut bytes = vec![0; self.row as usize];
            driver.download(address + row * self.stride, &mut bytes)?;
            found.extend(bytes);
        }
        if self.elem == Element::Bits {
            let wrong = found.iter().zip(&self.bytes).position(|(found, expected)| found != expected);
            return match wrong {
                None => Ok(0.0),
                Some(at) => bail!("byte {at} is {:#04x}, expected {:#04x}", found[at], self.bytes[at]),
            };
        }
        let (found, expected) = (self.elem.values(&found), self.elem.values(&self.bytes));
        let largest = expected.iter().fold(0.0_f64, |most, &value| most.max(value.abs()));
        // The error of a sum scales with its terms; the largest result approximates their size.
        let (of_value, of_largest) = match self.elem {
            Element::Bf16 => (2.0_f64.powi(-7), 2e-3),
            _ => (1e-4, 2e-3),
        };
        let mut worst = 0.0;
        for (at, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            // Elements that no launch writes are NaN on both sides.
            if found.to_bits() == expected.to_bits() {
                continue;
            }
            let allowed = of_value * expected.abs() + of_largest * largest + 1e-30;
            let share = (found - expected).abs() / allowed;
            ensure!(share <= 1.0, "element {at} is {found}, expected {expected} within {allowed:e}");
            worst = f64::max(worst, share);
        }
        Ok(worst)
    }
}

impl Element {
    fn values(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Element::Bf16 => bytes.as_chunks().0.iter().map(|&word| bf16::from_le_bytes(word).to_f64()).collect(),
            _ => bytes.as_chunks().0.iter().map(|&word| f64::from(f32::from_le_bytes(word))).collect(),
        }
    }
}
