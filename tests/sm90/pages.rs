//! A KV cache on the simulated GPU, with the arguments and calls of kv_append and attention. Memory that was never written is
//! marked unwritten: row padding, unused pages, table entries beyond the end.

use half::bf16;
use jambac_kernels::attention::{self, hopper::decode};
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::kv_append::PAGE_TOKENS;
use jambac_kernels::kv_append::Spec as Append;
use jambac_kernels::kv_append::hopper::{Side, head_bytes, offset, page_bytes};
use ptxsim::{Gpu, Options};

use super::harness::{Kernel, Kernels, counts};
use crate::kernels::steps::{Batch, Step};

/// Heads of attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_head: usize,
}

impl Heads {
    pub fn scale(self) -> f64 {
        (self.d_head as f64).powf(-0.5)
    }

    pub fn q_cols(self) -> usize {
        self.n_heads * self.d_head
    }

    pub fn kv_cols(self) -> usize {
        self.n_kv_heads * self.d_head
    }

    pub fn append(self) -> Kernel {
        Append { n_kv_heads: self.n_kv_heads, d_head: self.d_head, format: Elem::Bf16 }.into()
    }

    pub fn prefill(self) -> Kernel {
        Kernel::of(self.attention(), Config::Prefill)
    }

    fn attention(self) -> attention::Spec {
        let Heads { n_heads, n_kv_heads, d_head } = self;
        attention::Spec { n_heads, n_kv_heads, d_head, scale: self.scale(), format: Elem::Bf16, appends: false }
    }

    /// The kernel for splits, and their combination.
    pub fn decode_kernels(self) -> [Kernel; 2] {
        Kernel::all(self.attention(), Config::Decode).try_into().expect("splits and their sum")
    }

    pub fn decode(self) -> decode::Spec {
        let Heads { n_heads, n_kv_heads, d_head } = self;
        decode::Spec { n_heads, n_kv_heads, d_head, scale: self.scale() }
    }

    /// All kernels for these heads.
    pub fn kernels(self) -> Kernels {
        Kernels::compile(&self.catalog())
    }

    /// Append, prefill, decode and the combination of its splits.
    pub fn catalog(self) -> [Kernel; 4] {
        let [splits, sum] = self.decode_kernels();
        [self.append(), self.prefill(), splits, sum]
    }
}

/// A simulated GPU with a cache.
pub struct Device<'a> {
    heads: Heads,
    kernels: &'a Kernels,
    gpu: Gpu,
    cache: u64,
    /// Pages of each sequence of the batch.
    pages: Vec<Vec<i32>>,
    pages_per_sequence: usize,
}

/// Columns of the page table: more than any sequence of the tests has, except repeated ones.
const PAGES_PER_SEQUENCE: usize = 80;

impl<'a> Device<'a> {
    /// A device with a cache for the sequences of a batch, whose pages are scattered and in reverse order.
    pub fn new(heads: Heads, kernels: &'a Kernels, options: Options, batch: &Batch) -> Device<'a> {
        let mut gpu = Gpu::new(options);
        let n_pages: Vec<usize> = batch.lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).collect();
        let total: usize = n_pages.iter().sum();
        let mut free = (0..total as i32).rev().step_by(2).chain((0..total as i32 - 1).rev().step_by(2));
        let pages = n_pages.iter().map(|&n| (&mut free).take(n).collect()).collect();
        let cache = gpu.alloc("cache", (total * 2 * stride(heads)) as u64);
        Device { heads, kernels, gpu, cache, pages, pages_per_sequence: PAGES_PER_SEQUENCE }
    }

    /// From now on, the sequence's pages occur `times` times in its page table.
    pub fn repeat(&mut self, s: usize, times: usize) {
        self.pages[s] = self.pages[s].repeat(times);
        self.pages_per_sequence = self.pages_per_sequence.max(self.pages[s].len() + 1);
    }

    /// Appends the keys and values of a step.
    pub fn append(&mut self, step: &Step, k: &[f32], v: &[f32]) {
        let cols = self.heads.kv_cols();
        let [k, v] = [("k", k), ("v", v)].map(|(name, rows)| self.rows(name, cols, &step.gather(cols, rows)));
        let tables = [("sequence_of", step.sequence_of()), ("starts", step.starts()), ("past", past(step))];
        let [sequence_of, starts, past] = tables.map(|(name, table)| self.table(name, &table));
        let pages = self.page_table(step);
        let count = self.count(step.n_tokens());
        let scalars = [stride(self.heads) as u64, self.pages_per_sequence as u64];
        let args = [&[k, v, self.cache, sequence_of, starts, past, pages, count][..], &scalars].concat();
        self.launch(&self.heads.append(), step, &args);
    }

    /// Attention of a step's tokens.
    pub fn prefill(&mut self, step: &Step, q: &[f32]) -> Vec<f32> {
        let cols = self.heads.q_cols();
        let q = self.rows("q", cols, &step.gather(cols, q));
        let tables = [("starts", step.starts()), ("past", past(step))];
        let [starts, past] = tables.map(|(name, table)| self.table(name, &table));
        let pages = self.page_table(step);
        let out = self.unwritten_rows("out", cols, step.n_tokens());
        let count = self.count(step.sequences.len());
        let scalars = [stride(self.heads) as u64, self.pages_per_sequence as u64];
        let args = [&[q, self.cache, starts, past, pages, out, count][..], &scalars].concat();
        self.launch(&self.heads.prefill(), step, &args);
        self.read(out, cols, step.n_tokens())
    }

    /// Attention of a step with one token per sequence.
    pub fn decode(&mut self, step: &Step, q: &[f32]) -> Vec<f32> {
        let (cols, n) = (self.heads.q_cols(), step.sequences.len());
        let decode = self.heads.decode();
        let q = self.rows("q", cols, &step.gather(cols, q));
        let past = self.table("past", &past(step));
        let pages = self.page_table(step);
        let count = self.count(n);
        let partials = self.gpu.alloc("partials", (n * decode.partial_rows() * decode.partial_stride() * 4) as u64);
        let scalars = [stride(self.heads) as u64, self.pages_per_sequence as u64];
        let args = [&[q, self.cache, past, pages, partials, count][..], &scalars].concat();
        let [splits, sum] = self.heads.decode_kernels();
        self.launch(&splits, step, &args);
        let out = self.unwritten_rows("out", cols, n);
        self.launch(&sum, step, &[partials, past, out, count]);
        self.read(out, cols, n)
    }

    /// The bits of an element of the cache; `None` if it was never written.
    pub fn cached(&self, [s, position]: [usize; 2], head: usize, side: Side, column: usize) -> Option<f32> {
        let page = self.pages[s][position / PAGE_TOKENS] as usize * 2 * stride(self.heads);
        let d_head = self.heads.d_head;
        let at = page + head * head_bytes(d_head) + offset(d_head, side, position % PAGE_TOKENS, column);
        let mut bytes = [0; 2];
        self.gpu.read(self.cache + at as u64, &mut bytes).ok().map(|()| bf16::from_le_bytes(bytes).to_f32())
    }

    fn launch(&mut self, kernel: &Kernel, step: &Step, args: &[u64]) {
        self.kernels.launch(&mut self.gpu, kernel, counts(step.n_tokens(), step.sequences.len(), 0), args);
    }

    /// Rows of bf16.
    fn rows(&mut self, name: &str, cols: usize, values: &[f32]) -> u64 {
        let address = self.unwritten_rows(name, cols, values.len() / cols);
        for (number, row) in values.chunks_exact(cols).enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
            self.write(address + (number * 2 * row_stride(Elem::Bf16, cols)) as u64, &bytes);
        }
        address
    }

    fn unwritten_rows(&mut self, name: &str, cols: usize, n: usize) -> u64 {
        self.gpu.alloc(name, (n * 2 * row_stride(Elem::Bf16, cols)) as u64)
    }

    fn read(&self, address: u64, cols: usize, n: usize) -> Vec<f32> {
        let row = |number: usize| {
            let mut bytes = vec![0; 2 * cols];
            let at = address + (number * 2 * row_stride(Elem::Bf16, cols)) as u64;
            self.gpu.read(at, &mut bytes).unwrap_or_else(|fault| panic!("{fault}"));
            bytes.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f32()).collect::<Vec<f32>>()
        };
        (0..n).flat_map(row).collect()
    }

    fn table(&mut self, name: &str, values: &[i32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let address = self.gpu.alloc(name, bytes.len() as u64);
        self.write(address, &bytes);
        address
    }

    /// A row of pages per sequence of the step; entries beyond the last page are unwritten.
    fn page_table(&mut self, step: &Step) -> u64 {
        let address = self.gpu.alloc("pages", (step.sequences.len() * self.pages_per_sequence * 4) as u64);
        for (number, &s) in step.sequences.iter().enumerate() {
            let bytes: Vec<u8> = self.pages[s].iter().flat_map(|x| x.to_le_bytes()).collect();
            self.write(address + (number * self.pages_per_sequence * 4) as u64, &bytes);
        }
        address
    }

    fn count(&mut self, n: usize) -> u64 {
        let address = self.gpu.alloc("count", 8);
        self.write(address, &(n as u64).to_le_bytes());
        address
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.gpu.write(address, bytes).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

/// Distance between pages in elements: one layer plus space for others.
fn stride(heads: Heads) -> usize {
    page_bytes(heads.n_kv_heads, heads.d_head) / 2 + 32
}

fn past(step: &Step) -> Vec<i32> {
    step.past.iter().map(|&past| past as i32).collect()
}
