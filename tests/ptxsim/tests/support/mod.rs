//! Shared by the tests: a device, numbers that are exact in bf16, kernels as text.
#![allow(dead_code)]

use ptxsim::{Fault, Gpu, Launch, Module, Options, Stats};

/// Version, target, and dynamic shared memory `dyn`.
pub const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 dyn[];\n";

/// A kernel with three pointers in `%rd1..3`, the thread in `%r1`, the lane in `%r2`, the address of `dyn` in `%r3`.
pub fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<96>;\n.reg .f32 %f<160>;\n.reg .b64 %rd<32>;\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\nmov.u32 %r1, %tid.x;\n\
         mov.u32 %r2, %laneid;\nmov.u32 %r3, dyn;\n{body}\nret;\n}}\n"
    )
}

pub struct Device {
    pub gpu: Gpu,
}

impl Device {
    pub fn new(seed: u64) -> Device {
        Device::with(Options { seed, ..Options::default() })
    }

    pub fn with(options: Options) -> Device {
        Device { gpu: Gpu::new(options) }
    }

    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> u64 {
        let address = self.gpu.alloc(name, bytes.len() as u64);
        self.gpu.write(address, bytes).expect("writes");
        address
    }

    pub fn halves(&mut self, name: &str, values: &[f32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        self.bytes(name, &bytes)
    }

    pub fn floats(&self, address: u64, n: usize) -> Result<Vec<f32>, Fault> {
        Ok(self.words(address, n)?.into_iter().map(f32::from_bits).collect())
    }

    pub fn words(&self, address: u64, n: usize) -> Result<Vec<u32>, Fault> {
        let mut bytes = vec![0; 4 * n];
        self.gpu.read(address, &mut bytes)?;
        Ok(bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect())
    }

    /// Runs the only kernel of the text.
    pub fn run(&mut self, text: &str, grid: u32, threads: u32, arguments: &[u64]) -> Result<Stats, Fault> {
        let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let entry = module.entries().next().expect("an entry").to_owned();
        let launch = Launch { grid: [grid, 1, 1], block: [threads, 1, 1], shared_bytes: 128 * 1024 };
        self.gpu.launch(&module, &entry, launch, arguments)
    }
}

/// Multiples of 1/8 between −2 and 2. Their products and short sums are exact.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) as i32 as f32 % 16.0 / 8.0
        })
        .collect()
}

/// a · bᵀ for a [m, k] and b [n, k].
pub fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let dot =
        |i: usize, j: usize| (0..k).map(|x| f64::from(a[i * k + x]) * f64::from(b[j * k + x])).sum::<f64>() as f32;
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}
