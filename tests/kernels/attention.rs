//! kv_append and attention: pages in any order, contexts around the page size, tokens divided into any steps.

use jamba_plan::cost::Size;
use jamba_plan::format::TargetKind;
use jambac_graph::DType;
use jambac_harness::{Arg, Array, Conditions, Lower, Runner, Target, assert_close, assert_same_bits, counts, random};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, Rows, padded};
use jambac_kernels::kv_append::{PAGE_TOKENS, page_elements};
use jambac_kernels::node::Select as _;
use jambac_kernels::{attention, cases, kv_append};
use jambac_reference::attention::{Heads, attention as reference, kv_append as append};
use jambac_reference::{Tolerance, round_to};

use super::steps::{Batch, Division, Step};
use super::{ARM, V2, V3};

/// The results of a CPU kernel in a step.
fn run(runner: &Runner, division: Division, kernel: &AnySpec, args: &[Arg]) -> Vec<Array> {
    // The sizes of a step set the grid on GPUs; on CPUs they are arguments.
    runner.run(division.conditions(&Conditions::AnyThreads), kernel, counts(0, 0, 0), args)
}

fn symbol(kernel: &AnySpec) -> String {
    kernel.lowered(TargetKind::Cpu)[0].symbol()
}

/// Columns of the page table.
const PAGES_PER_SEQUENCE: usize = 20;

/// A cache with its page table; elements that were never written are NaN.
struct Cache {
    array: Array,
    pages: Vec<i32>,
    stride: usize,
}

impl Cache {
    fn new(batch: &Batch, spec: &attention::Spec) -> Cache {
        let n_pages: Vec<usize> = batch.lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).collect();
        let total: usize = n_pages.iter().sum();
        let stride = page_elements(spec.n_kv_heads, spec.d_head) + 32;
        // The pages of a sequence are scattered and in reverse order; entries beyond the last page are invalid.
        let mut pages = vec![i32::MAX; batch.lengths.len() * PAGES_PER_SEQUENCE];
        let mut free = (0..total as i32).rev().step_by(2).chain((0..total as i32 - 1).rev().step_by(2));
        for (s, &n_pages) in n_pages.iter().enumerate() {
            pages[s * PAGES_PER_SEQUENCE..][..n_pages].fill_with(|| free.next().expect("a page per sixteen tokens"));
        }
        let n_elements = total * stride;
        let array = match spec.format {
            Elem::F32 => Array::F32(vec![f32::NAN; n_elements]),
            elem => Array::Packed { elem, bytes: vec![0xff; n_elements * elem.bytes()] },
        };
        Cache { array, pages, stride }
    }

    /// Number of elements in all pages.
    fn len(&self) -> usize {
        self.pages.iter().filter(|page| **page != i32::MAX).count() * self.stride
    }

    fn get(&self, element: usize) -> f32 {
        match &self.array {
            Array::Packed { bytes, .. } => {
                half::bf16::from_le_bytes([bytes[2 * element], bytes[2 * element + 1]]).to_f32()
            }
            Array::F32(data) => data[element],
            _ => panic!("a cache is dense"),
        }
    }

    /// The arguments from `sequence_of` to `pages`.
    fn tables(&self, step: &Step) -> [Arg; 4] {
        let past: Vec<i32> = step.past.iter().map(|&past| past as i32).collect();
        let pages = |&s: &usize| &self.pages[s * PAGES_PER_SEQUENCE..][..PAGES_PER_SEQUENCE];
        let pages: Vec<i32> = step.sequences.iter().flat_map(pages).copied().collect();
        [Arg::I32(step.sequence_of()), Arg::I32(step.starts()), Arg::I32(past), Arg::I32(pages)]
    }

    fn scalars(&self, step: &Step) -> [Arg; 3] {
        [Arg::Scalar(step.n_tokens()), Arg::Scalar(self.stride), Arg::Scalar(PAGES_PER_SEQUENCE)]
    }
}

/// A model's heads with the queries, keys and values of a batch.
struct Setup {
    spec: attention::Spec,
    append: AnySpec,
    attend: AnySpec,
    batch: Batch,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Setup {
    fn new(spec: &attention::Spec, lengths: &[usize]) -> Setup {
        let batch = Batch { lengths: lengths.to_vec() };
        let (n_tokens, q_row) = (batch.n_tokens(), spec.n_heads * spec.d_head);
        let kv_row = spec.n_kv_heads * spec.d_head;
        let &attention::Spec { n_kv_heads, d_head, format, .. } = spec;
        Setup {
            spec: spec.clone(),
            append: kv_append::Spec { n_kv_heads, d_head, format }.into(),
            attend: spec.clone().into(),
            // Scaled so that a few keys dominate.
            q: random(1, n_tokens * q_row).iter().map(|q| 8.0 * q).collect(),
            k: random(2, n_tokens * kv_row),
            v: random(3, n_tokens * kv_row),
            batch,
        }
    }

    /// The attention results in token order, and the cache afterwards.
    fn run(&self, kernels: &Runner, division: Division) -> (Vec<f32>, Cache) {
        let (q_row, kv_row) = (self.spec.n_heads * self.spec.d_head, self.spec.n_kv_heads * self.spec.d_head);
        let mut cache = Cache::new(&self.batch, &self.spec);
        let mut out = vec![f32::NAN; self.q.len()];
        for step in self.batch.steps(division) {
            let rows = |cols: usize, operand: &[f32]| Arg::rows(cols, &step.gather(cols, operand));
            let mut args = vec![rows(kv_row, &self.k), rows(kv_row, &self.v), Arg::from(cache.array.clone())];
            args.extend(cache.tables(&step));
            args.extend(cache.scalars(&step));
            cache.array = run(kernels, division, &self.append, &args).remove(0);

            let mut args = vec![rows(q_row, &self.q), Arg::from(cache.array.clone())];
            args.extend(cache.tables(&step));
            args.push(Arg::unwritten(q_row, step.n_tokens()));
            args.extend(cache.scalars(&step));
            step.scatter(q_row, &run(kernels, division, &self.attend, &args)[0].f32(), &mut out);
        }
        (out, cache)
    }

    /// Like [`Setup::run`], token by token, with the kernel that appends and attends.
    fn run_appending(&self, kernels: &Runner) -> (Vec<f32>, Cache) {
        let (q_row, kv_row) = (self.spec.n_heads * self.spec.d_head, self.spec.n_kv_heads * self.spec.d_head);
        let kernel = AnySpec::from(appending(&self.spec));
        let mut cache = Cache::new(&self.batch, &self.spec);
        let mut out = vec![f32::NAN; self.q.len()];
        for step in self.batch.steps(Division::Chunks(1)) {
            let rows = |cols: usize, operand: &[f32]| Arg::rows(cols, &step.gather(cols, operand));
            let mut args = vec![rows(q_row, &self.q), rows(kv_row, &self.k), rows(kv_row, &self.v)];
            args.push(Arg::from(cache.array.clone()));
            args.extend(cache.tables(&step));
            args.push(Arg::unwritten(q_row, step.n_tokens()));
            args.extend(cache.scalars(&step));
            let mut written = run(kernels, Division::Whole, &kernel, &args);
            step.scatter(q_row, &written.remove(1).f32(), &mut out);
            cache.array = written.remove(0);
        }
        (out, cache)
    }

    fn expected(&self) -> Vec<f32> {
        let &attention::Spec { n_heads, n_kv_heads, d_head, scale, format, .. } = &self.spec;
        let empty: Vec<Vec<f32>> = vec![Vec::new(); self.batch.lengths.len()];
        let caches = append(&empty, &self.k, &self.v, n_kv_heads * d_head, &self.batch.lengths, dtype(format));
        reference(&self.q, &caches, &self.batch.lengths, Heads { n_heads, n_kv_heads, d_head, scale })
    }
}

/// The same attention, fused with the append.
fn appending(spec: &attention::Spec) -> attention::Spec {
    attention::Spec { appends: true, ..spec.clone() }
}

fn dtype(elem: Elem) -> DType {
    if elem == Elem::Bf16 { DType::Bf16 } else { DType::F32 }
}

/// Compiles attention cases and the appends to their caches.
fn compile(target: Target, specs: &[attention::Spec]) -> Option<Runner> {
    let kernels: Vec<AnySpec> =
        specs.iter().map(|spec| Setup::new(spec, &[1])).flat_map(|s| [s.append, s.attend]).collect();
    Runner::compile(target, &kernels)
}

/// Specs of the cases, without those too large for the reference.
fn specs() -> Vec<attention::Spec> {
    let small = attention::Spec::cases().into_iter().filter(|case| case.bytes() < 2.5e5);
    let spec = |case: cases::Case| match case.kernel {
        AnySpec::Attention(spec) => spec,
        other => panic!("a case of another kernel: {other:?}"),
    };
    small.map(spec).collect()
}

#[test]
fn agrees_with_the_reference_however_divided() {
    let specs = specs();
    let Some(kernels) = compile(V3, &specs) else { return };
    for spec in &specs {
        let setup = Setup::new(spec, &[1, 15, 16, 17, 35]);
        let symbol = symbol(&setup.attend);
        let (whole, _) = setup.run(&kernels, Division::Whole);
        // A score of up to 30 has an error of about 10 of its roundings, 2·10⁻⁵, which is also the relative error of its
        // probability; values are below 1 and most errors cancel.
        assert_close(&symbol, &whole, &setup.expected(), Tolerance::abs(1e-5));
        for division in &Division::ALL[1..] {
            assert_same_bits(&format!("{symbol}, {division:?}"), &setup.run(&kernels, *division).0, &whole);
        }
    }
}

#[test]
fn appending_gives_the_bits_of_one_step_after_the_other() {
    let specs = specs();
    for target in [V3, V2, ARM] {
        let both: Vec<_> = specs.iter().flat_map(|spec| [spec.clone(), appending(spec)]).collect();
        let Some(kernels) = compile(target, &both) else { continue };
        for spec in &specs {
            let setup = Setup::new(spec, &[1, 16, 35]);
            let (expected, expected_cache) = setup.run(&kernels, Division::Chunks(1));
            let (found, cache) = setup.run_appending(&kernels);
            let symbol = symbol(&appending(spec).into());
            assert_same_bits(&symbol, &found, &expected);
            let elements = |cache: &Cache| (0..cache.len()).map(|i| cache.get(i)).collect::<Vec<_>>();
            assert_same_bits(&format!("cache of {symbol}"), &elements(&cache), &elements(&expected_cache));
        }
    }
}

#[test]
fn long_contexts_agree() {
    let specs = specs();
    let Some(kernels) = compile(V3, &specs[..2]) else { return };
    for spec in &specs[..2] {
        let setup = Setup::new(spec, &[300, 3]);
        let (whole, _) = setup.run(&kernels, Division::Whole);
        assert_close(&symbol(&setup.attend), &whole, &setup.expected(), Tolerance::abs(1e-5));
        assert_same_bits("chunks of 128", &setup.run(&kernels, Division::Chunks(128)).0, &whole);
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_a_block() {
    let base =
        attention::Spec { n_heads: 4, n_kv_heads: 1, d_head: 20, scale: 0.25, format: Elem::F32, appends: false };
    let specs = [
        base.clone(),
        attention::Spec { n_kv_heads: 2, format: Elem::Bf16, ..base.clone() },
        attention::Spec { n_heads: 14, n_kv_heads: 2, d_head: 32, format: Elem::Bf16, ..base },
    ];
    let Some(kernels) = compile(V3, &specs) else { return };
    for spec in &specs {
        // Blocks truncated by the next sequence, pages truncated by the end of a group, and blocks of one to sixteen tokens.
        let setup = Setup::new(spec, &[150, 5, 37, 1, 16, 80]);
        let symbol = symbol(&setup.attend);
        let (alone, _) = setup.run(&kernels, Division::Chunks(1));
        assert_close(&symbol, &alone, &setup.expected(), Tolerance::abs(1e-5));
        let chunks = [2, 7, 23, 64].map(Division::Chunks);
        for division in chunks.into_iter().chain([Division::Whole, Division::OneByOne]) {
            assert_same_bits(&format!("{symbol}, {division:?}"), &setup.run(&kernels, division).0, &alone);
        }
    }
}

#[test]
fn other_targets_agree() {
    let specs = specs();
    for target in [V2, ARM] {
        let Some(kernels) = compile(target, &specs) else { continue };
        for spec in &specs {
            let setup = Setup::new(spec, &[17, 2]);
            let (whole, _) = setup.run(&kernels, Division::Whole);
            assert_close(&symbol(&setup.attend), &whole, &setup.expected(), Tolerance::abs(1e-5));
        }
    }
}

#[test]
fn kv_append_rounds_and_writes_nothing_else() {
    let specs = specs();
    let Some(kernels) = compile(V3, &specs) else { return };
    for spec in &specs {
        let setup = Setup::new(spec, &[18, 1, 33]);
        let (n_kv_heads, d_head) = (spec.n_kv_heads, spec.d_head);
        for division in [Division::Whole, Division::Chunks(5)] {
            let (_, cache) = setup.run(&kernels, division);
            let n_elements = cache.len();
            let mut expected = vec![f32::NAN; n_elements];
            let mut token = 0;
            for (s, &length) in setup.batch.lengths.iter().enumerate() {
                for position in 0..length {
                    let page = cache.pages[s * PAGES_PER_SEQUENCE + position / PAGE_TOKENS] as usize;
                    for (head, e) in (0..n_kv_heads * d_head).map(|i| (i / d_head, i % d_head)) {
                        let keys = page * cache.stride + head * page_elements(1, d_head);
                        let values = keys + PAGE_TOKENS * d_head;
                        let place = position % PAGE_TOKENS;
                        let column = token * n_kv_heads * d_head + head * d_head + e;
                        let stored = |x: f32| round_to(dtype(spec.format), x);
                        expected[keys + e * PAGE_TOKENS + place] = stored(setup.k[column]);
                        expected[values + place * padded(d_head) + e] = stored(setup.v[column]);
                    }
                    token += 1;
                }
            }
            let found: Vec<f32> = (0..n_elements).map(|element| cache.get(element)).collect();
            let differs = found.iter().zip(&expected).position(|(f, e)| f != e && !(f.is_nan() && e.is_nan()));
            assert_eq!(differs, None, "{}, {division:?}: first wrong element", symbol(&setup.append));
        }
    }
}

#[test]
fn an_even_context_is_a_mean() {
    // Zero queries weight all keys equally: the mean of the values 1 … n is (n + 1) / 2.
    let spec =
        attention::Spec { n_heads: 2, n_kv_heads: 1, d_head: 16, scale: 0.25, format: Elem::F32, appends: false };
    let Some(kernels) = compile(V3, std::slice::from_ref(&spec)) else { return };
    let mut setup = Setup::new(&spec, &[40]);
    setup.q.fill(0.0);
    setup.v = (0..40).flat_map(|position| [position as f32 + 1.0; 16]).collect();
    let (out, _) = setup.run(&kernels, Division::Chunks(7));
    for (position, row) in out.chunks_exact(32).enumerate() {
        let mean = (position as f32 + 2.0) / 2.0;
        assert!(row.iter().all(|x| (x - mean).abs() <= mean * 1e-6), "position {position}: {row:?}, expected {mean}");
    }
}

#[test]
fn a_broken_query_shows() {
    let spec =
        attention::Spec { n_heads: 2, n_kv_heads: 1, d_head: 16, scale: 0.25, format: Elem::F32, appends: false };
    let Some(kernels) = compile(V3, std::slice::from_ref(&spec)) else { return };
    let mut setup = Setup::new(&spec, &[20]);
    setup.q[19 * 32] = f32::NAN;
    let (out, _) = setup.run(&kernels, Division::Whole);
    assert!(out[19 * 32..][..16].iter().all(|x| x.is_nan()), "the head with the NaN: {:?}", &out[19 * 32..][..16]);
    assert!(out[..19 * 32].iter().chain(&out[19 * 32 + 16..]).all(|x| x.is_finite()), "the others");
}

#[test]
fn costs_count_the_cache_once() {
    let spec =
        attention::Spec { n_heads: 6, n_kv_heads: 2, d_head: 12, scale: 1.0, format: Elem::Bf16, appends: false };
    let size = Size { tokens: 1.0, sequences: 1.0, outputs: 1.0, context: 100.0 };
    // 100 tokens · 2 · 2 heads · 12 of two bytes; q and out of 72 floats.
    let bytes = AnySpec::from(spec).lowered(TargetKind::Cpu)[0].code.cost.of(Rows::TOKENS).bytes.at(size);
    assert_eq!(bytes, 9600.0 + 2.0 * 72.0 * 4.0);
}
