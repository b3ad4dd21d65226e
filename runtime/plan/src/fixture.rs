//! A small plan for tests that contains every kind of record.

use crate::cost::{Amount, Cost};
use crate::format::*;
use crate::header::{HEADER_BYTES, Header, OLDEST_READER, VERSION};
use crate::sections::{self, CUBIN, FIRST_SECTION, Section, SectionKind};
use crate::tables::table_bytes;

pub(crate) mod sm_90a;

pub(crate) fn manifest() -> Manifest {
    let limits = Limits { max_context: 64, max_sequences: 2, kv_tokens: 128, prefill_chunk: 8, max_outputs: 4 };
    Manifest {
        compiler: "0.1.0".to_owned(),
        model: Model {
            name: "fixture".to_owned(),
            n_parameters: 21,
            n_layers: 1,
            d_model: 3,
            vocab: 5,
            head: Head::Logits,
            bos: Some(1),
            eos: vec![2],
            formats: vec![("linear".to_owned(), "bf16".to_owned())],
        },
        programs: vec![
            ProgramInfo {
                kind: TargetKind::Cpu,
                targets: vec!["x86-64-v3".to_owned(), "x86-64-v2".to_owned()],
                memory: Memory {
                    arena: 256,
                    state_slot: 64,
                    kv_page: 128,
                    weights: 160,
                    tables: table_bytes(&limits),
                    graphs: 0,
                },
                passes: vec!["fuse-qkv".to_owned()],
                draw_kernels: Vec::new(),
            },
            sm_90a::info(&limits),
        ],
        limits,
        synthetic_seed: None,
        generation: Default::default(),
        provenance: None,
    }
}

pub(crate) fn part(parameter: &str, rows: u64) -> Part {
    Part { parameter: parameter.to_owned(), first_row: 0, rows, init: Init::Normal { mean: 0.0, std: 1.0 } }
}

pub(crate) fn program() -> Program {
    let weight = |parameter: &str, offset: u64, bytes: u64, layout: Layout, format: WeightFormat| Weight {
        parts: vec![part(parameter, layout.n)],
        order: PartOrder::Stacked,
        offset,
        bytes,
        layout,
        format,
        transform: Transform::None,
    };
    let entry = |kind: EntryKind, max_tokens: u64| Entry {
        kind,
        max_tokens,
        max_sequences: 2,
        max_outputs: 4,
        logits: Logits { offset: 64, row_stride: 32, n: 5 },
        picks: None,
        steps: vec![
            Step {
                kernel: 0,
                barrier: false,
                args: vec![Arg::Table(Table::Ids), Arg::Weight(0), Arg::Arena(0), Arg::Count(Count::Tokens, 1)],
                rows: Rows::TOKENS,
                launch: None,
                pick: None,
                source: "model.embed_tokens".to_owned(),
                cost: Cost { bytes: Amount { tokens: 18.0, ..Amount::default() }, ..Cost::default() },
            },
            Step {
                kernel: 1,
                barrier: true,
                args: vec![Arg::Arena(64), Arg::State(0), Arg::Kv(64), Arg::Weight(1), Arg::Constant(7), Arg::Arena(0)],
                rows: Rows::TOKENS,
                launch: None,
                pick: None,
                source: "layers.0.mamba".to_owned(),
                cost: Cost {
                    bytes: Amount { constant: 32.0, tokens: 24.0, ..Amount::default() },
                    operations: Amount { tokens: 6.0, ..Amount::default() },
                },
            },
        ],
        buffers: vec![
            Buffer { offset: 0, bytes: 64, first: 0, last: 1, reads: 1, holds: "out".to_owned(), in_place_of: None },
            Buffer { offset: 64, bytes: 128, first: 1, last: 1, reads: 0, holds: "a".to_owned(), in_place_of: None },
        ],
    };
    let embedding = weight("model.embed_tokens.weight", 0, 48, Layout::in_panels(1, 5, 3, 8), WeightFormat::Bf16);
    let norm = weight("model.final_layernorm.weight", 64, 32, Layout::in_panels(1, 3, 1, 8), WeightFormat::F32);
    let embed = vec![
        Operand::Table(Table::Ids),
        Operand::Weight(WeightShape::of(&embedding)),
        Operand::Value(Access::Write, rows(Elem::F32, 16, 1)),
        Operand::Count(Per::Row, 1),
    ];
    let mix = vec![
        Operand::Value(Access::Write, rows(Elem::F32, 8, 4)),
        Operand::State(Elem::F32, 16),
        Operand::Kv(Access::ReadWrite, Elem::F32, 16),
        Operand::Weight(WeightShape::of(&norm)),
        Operand::Constant(7),
        Operand::Value(Access::Read, rows(Elem::F32, 16, 1)),
    ];
    Program {
        kernels: vec![kernel("embed_bf16", "embed", embed), kernel("mix_f32", "mix", mix)],
        weights: vec![embedding, norm],
        tensor_maps: Vec::new(),
        entries: vec![entry(EntryKind::Prefill, 8), entry(EntryKind::Decode, 2)],
    }
}

/// A number of rows whatever the step.
pub(crate) fn rows(elem: Elem, row: u64, fixed: u64) -> Shape {
    Shape { elem, row, fixed, factor: 0, per: Per::Row }
}

pub(crate) fn kernel(symbol: &str, op: &str, operands: Vec<Operand>) -> KernelRecord {
    KernelRecord { symbol: symbol.to_owned(), op: op.to_owned(), operands, recipe: String::new() }
}

/// The sections of a plan from these parts; only the programs whose kinds are in the manifest.
pub(crate) fn contents(manifest: &Manifest, cpu: &Program, sm_90a: &Program) -> Vec<(SectionKind, String, Vec<u8>)> {
    let mut all = vec![(SectionKind::Manifest, "manifest".to_owned(), serde_json::to_vec_pretty(manifest).unwrap())];
    let kinds = || [TargetKind::Cpu, TargetKind::Sm90a].into_iter().filter(|&kind| manifest.of(kind).is_some());
    for kind in kinds() {
        let program = if kind == TargetKind::Cpu { cpu } else { sm_90a };
        all.push((SectionKind::Program, kind.section("program"), postcard::to_stdvec(program).unwrap()));
    }
    for target in manifest.targets().collect::<std::collections::BTreeSet<_>>() {
        all.push((SectionKind::Code, format!("code/{target}"), format!("code for {target}").into_bytes()));
    }
    if manifest.of(TargetKind::Sm90a).is_some() {
        all.push((SectionKind::Code, format!("code/sm_90a{CUBIN}"), b"assembled".to_vec()));
    }
    all.push((SectionKind::Tokenizer, "tokenizer".to_owned(), b"{}".to_vec()));
    for kind in kinds() {
        let n_bytes = if kind == TargetKind::Cpu { 160 } else { sm_90a::WEIGHT_BYTES };
        all.push((SectionKind::Weights, kind.section("weights"), (0..n_bytes).map(|byte| byte as u8).collect()));
    }
    all
}

/// Serializes a plan from these parts, in memory: what [`crate::PlanWriter`] writes to a file.
pub(crate) fn write(manifest: &Manifest, cpu: &Program, sm_90a: &Program) -> Vec<u8> {
    let (mut file, mut sections) = (vec![0; FIRST_SECTION as usize], Vec::new());
    for (kind, name, bytes) in contents(manifest, cpu, sm_90a) {
        let (offset, digest) = (file.len() as u64, blake3::hash(&bytes));
        let section = Section { kind: kind.code(), name, offset, bytes: bytes.len() as u64, digest };
        file.extend(bytes);
        file.resize(section.next_offset().unwrap() as usize, 0);
        sections.push(section);
    }
    let table = sections::encode(&sections);
    let header = Header {
        version: VERSION,
        oldest_reader: OLDEST_READER,
        file_bytes: file.len() as u64,
        n_sections: sections.len() as u32,
        table_digest: *blake3::hash(&table).as_bytes(),
    };
    file[..HEADER_BYTES].copy_from_slice(&header.encode());
    file[HEADER_BYTES..FIRST_SECTION as usize].copy_from_slice(&table);
    file
}

/// The fixture, serialized.
pub(crate) fn plan() -> Vec<u8> {
    write(&manifest(), &program(), &sm_90a::program())
}
