//! A KV cache on the simulated GPU, with the arguments and calls of kv_append and attention. Memory that was never written is
//! marked unwritten: row padding, unused pages, table entries beyond the end.

use half::bf16;
use jambac_harness::{Arg, Array, Kernel, Runner, counts};
use jambac_kernels::attention::{self, hopper::decode};
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::kv_append::PAGE_TOKENS;
use jambac_kernels::kv_append::Spec as Append;
use jambac_kernels::kv_append::hopper::{Side, head_bytes, offset, page_bytes};
use ptxsim::{Gpu, Options};

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
    pub fn kernels(self) -> Runner {
        Runner::hopper(&self.catalog())
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
    kernels: &'a Runner,
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
    pub fn new(heads: Heads, kernels: &'a Runner, options: Options, batch: &Batch) -> Device<'a> {
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
        let [k, v] = [k, v].map(|rows| Arg::bf16_rows(cols, &step.gather(cols, rows)));
        let tables = [Arg::I32(step.sequence_of()), Arg::I32(step.starts()), past(step), self.page_table(step)];
        let args = [vec![k, v, Arg::At(self.cache)], tables.to_vec(), self.scalars(step.n_tokens())].concat();
        self.launch(&self.heads.append(), step, &args);
    }

    /// Attention of a step's tokens.
    pub fn prefill(&mut self, step: &Step, q: &[f32]) -> Vec<f32> {
        let cols = self.heads.q_cols();
        let q = Arg::bf16_rows(cols, &step.gather(cols, q));
        let tables = [Arg::I32(step.starts()), past(step), self.page_table(step)];
        let out = Arg::unwritten(cols, step.n_tokens()).of(Elem::Bf16);
        let scalars = self.scalars(step.sequences.len());
        let args = [vec![q, Arg::At(self.cache)], tables.to_vec(), vec![out], scalars].concat();
        self.launch(&self.heads.prefill(), step, &args)[0].f32()
    }

    /// Attention of a step with one token per sequence.
    pub fn decode(&mut self, step: &Step, q: &[f32]) -> Vec<f32> {
        let (cols, n) = (self.heads.q_cols(), step.sequences.len());
        let decode = self.heads.decode();
        let q = Arg::bf16_rows(cols, &step.gather(cols, q));
        let bytes = n * decode.partial_rows() * decode.partial_stride() * 4;
        let partials = Arg::At(self.gpu.alloc("partials", bytes as u64));
        let tables = [past(step), self.page_table(step), partials.clone()];
        let args = [vec![q, Arg::At(self.cache)], tables.to_vec(), self.scalars(n)].concat();
        let [splits, sum] = self.heads.decode_kernels();
        self.launch(&splits, step, &args);
        let out = Arg::unwritten(cols, n).of(Elem::Bf16);
        self.launch(&sum, step, &[partials, past(step), out, Arg::Scalar(n)])[0].f32()
    }

    /// The bits of an element of the cache; `None` if it was never written.
    pub fn cached(&self, [s, position]: [usize; 2], head: usize, side: Side, column: usize) -> Option<f32> {
        let page = self.pages[s][position / PAGE_TOKENS] as usize * 2 * stride(self.heads);
        let d_head = self.heads.d_head;
        let at = page + head * head_bytes(d_head) + offset(d_head, side, position % PAGE_TOKENS, column);
        let mut bytes = [0; 2];
        self.gpu.read(self.cache + at as u64, &mut bytes).ok().map(|()| bf16::from_le_bytes(bytes).to_f32())
    }

    fn launch(&mut self, kernel: &Kernel, step: &Step, args: &[Arg]) -> Vec<Array> {
        self.kernels.launch(&mut self.gpu, kernel, counts(step.n_tokens(), step.sequences.len(), 0), args)
    }

    /// A row of pages per sequence of the step; entries beyond the last page are unwritten.
    fn page_table(&mut self, step: &Step) -> Arg {
        let row = self.pages_per_sequence as u64 * 4;
        let address = self.gpu.alloc("pages", step.sequences.len() as u64 * row);
        for (at, &s) in (address..).step_by(row as usize).zip(&step.sequences) {
            let bytes: Vec<u8> = self.pages[s].iter().flat_map(|x| x.to_le_bytes()).collect();
            self.gpu.write(at, &bytes).unwrap_or_else(|fault| panic!("{fault}"));
        }
        Arg::At(address)
    }

    /// A count, and the strides that find a page.
    fn scalars(&self, n: usize) -> Vec<Arg> {
        [n, stride(self.heads), self.pages_per_sequence].map(Arg::Scalar).to_vec()
    }
}

/// Distance between pages in elements: one layer plus space for others.
fn stride(heads: Heads) -> usize {
    page_bytes(heads.n_kv_heads, heads.d_head) / 2 + 32
}

fn past(step: &Step) -> Arg {
    Arg::I32(step.past.iter().map(|&past| past as i32).collect())
}
