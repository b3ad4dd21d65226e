//! Plans as text, for `jambac inspect`, `jamba info` and golden files. Equal plans give equal text.

use std::fmt::Write;

use crate::Plan;
use crate::format::{
    Arg, Blocks, Count, ElementOrder, Entry, Head, Init, Launch, Limits, Manifest, PartOrder, Program, ProgramInfo,
    Swizzle, TensorMap, Transform, Weight,
};

/// How sizes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// In bytes.
    Exact,
    /// With a unit and three to five digits: `107.6 MB`.
    Human,
}

impl Units {
    fn of(self, bytes: u64) -> String {
        match self {
            Units::Exact => bytes.to_string(),
            Units::Human => size(bytes),
        }
    }
}

/// A size for people: `812 B`, `4.10 kB`, `107.6 MB`, `1.95 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes as f64 >= *unit) {
        None => format!("{bytes} B"),
        Some((unit, name)) if bytes as f64 / unit < 10.0 => format!("{:.2} {name}", bytes as f64 / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit),
    }
}

/// The complete listing, with exact sizes: manifest, memory, sections, kernels, weights, steps.
pub fn plan(plan: &Plan<'_>) -> String {
    let model = plan.manifest();
    let mut parts = vec![manifest(model), memory(model, Units::Exact), sections(plan, Units::Exact)];
    for (info, program) in plan.programs() {
        parts.push(format!("program {}: {}\n", info.kind.name(), info.targets.join(", ")));
        parts.extend([kernels(program), weights(program)]);
        if !program.tensor_maps.is_empty() {
            parts.push(tensor_maps(program));
        }
        parts.push(steps(program));
    }
    parts.join("\n")
}

/// Name of an entry: its kind, with its maximum number of tokens if several entries have that kind.
pub fn entry_name(entries: &[Entry], index: usize) -> String {
    let Entry { kind, max_tokens, .. } = &entries[index];
    match entries.iter().filter(|entry| entry.kind == *kind).count() {
        1 => kind.name().to_owned(),
        _ => format!("{} of {max_tokens}", kind.name()),
    }
}

/// The manifest as text.
pub fn manifest(manifest: &Manifest) -> String {
    let model = &manifest.model;
    let limits = &manifest.limits;
    let mut out = format!("model {}\n", model.name);
    let ids = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut line = |name: &str, value: String| writeln!(out, "  {name:<16} {value}").expect("writing to a String");
    line("parameters", model.n_parameters.to_string());
    line("layers", model.n_layers.to_string());
    line("d_model", model.d_model.to_string());
    line("vocab", model.vocab.to_string());
    match &model.head {
        Head::Logits => {}
        Head::Scores { labels, activation } => {
            let names: Vec<String> = labels.iter().map(|label| format!("{label:?}")).collect();
            line("scores", format!("{} ({})", names.join(", "), activation.name()));
        }
        Head::Hidden => line("hidden states", "for jamba embed".to_owned()),
    }
    line("bos", model.bos.map_or("none".to_owned(), |bos| bos.to_string()));
    line("eos", if model.eos.is_empty() { "none".to_owned() } else { ids(&model.eos) });
    if !manifest.generation.is_empty() {
        let values = manifest.generation.values();
        line("generation", values.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "));
    }
    for (group, format) in &model.formats {
        line("weights", format!("{group} {format}"));
    }
    if let Some(seed) = manifest.synthetic_seed {
        line("synthetic", format!("seed {seed}"));
        let kernels = manifest.programs.iter().flat_map(|info| &info.draw_kernels);
        let symbols: Vec<&str> = kernels.map(|kernel| kernel.symbol.as_str()).collect();
        if !symbols.is_empty() {
            line("drawn by", symbols.join(", "));
        }
    }
    line("targets", manifest.targets().collect::<Vec<_>>().join(", "));
    for info in &manifest.programs {
        line("passes", format!("{}: {}", info.kind.name(), info.passes.join(", ")));
    }
    line("max_context", limits.max_context.to_string());
    line("max_sequences", limits.max_sequences.to_string());
    line("kv_tokens", limits.kv_tokens.to_string());
    line("prefill_chunk", limits.prefill_chunk.to_string());
    line("max_outputs", limits.max_outputs.to_string());
    line("compiler", manifest.compiler.clone());
    if let Some(provenance) = &manifest.provenance {
        line("LLVM", provenance.llvm.clone());
        for (key, value) in &provenance.options {
            line("option", format!("{key} = {value}"));
        }
        for file in &provenance.files {
            let digest: String = file.blake3.chars().take(16).collect();
            line("source", format!("{}, {} bytes, BLAKE3 {digest} of {}", file.name, file.bytes, file.covers));
        }
    }
    out
}

/// Memory use of an open plan on each kind of target.
pub fn memory(manifest: &Manifest, units: Units) -> String {
    manifest.programs.iter().map(|info| memory_of(info, &manifest.limits, units)).collect::<Vec<_>>().join("\n")
}

fn memory_of(info: &ProgramInfo, limits: &Limits, units: Units) -> String {
    let memory = &info.memory;
    let mut out = match units {
        Units::Exact => format!("memory of {}, bytes\n", info.kind.name()),
        Units::Human => format!("memory of {}\n", info.kind.name()),
    };
    let mut line = |name: &str, bytes: u64, note: String| {
        let bytes = units.of(bytes);
        writeln!(out, "  {:<16} {bytes:>14}{}{note}", name, if note.is_empty() { "" } else { "  " })
            .expect("writing to a String");
    };
    line("weights", memory.weights, String::new());
    line("arena", memory.arena, String::new());
    line("state", memory.state_pool(limits), format!("{} × {}", limits.max_sequences, units.of(memory.state_slot)));
    let pages = limits.kv_tokens / crate::format::KV_PAGE_TOKENS;
    line("kv", memory.kv_pool(limits), format!("{pages} pages × {}", units.of(memory.kv_page)));
    line("tables", memory.tables, String::new());
    if memory.graphs > 0 {
        line("graphs", memory.graphs, String::new());
    }
    line("total", memory.total(limits), String::new());
    out
}

/// The section table as text.
pub fn sections(plan: &Plan<'_>, units: Units) -> String {
    let mut out = match units {
        Units::Exact => "sections: offset, bytes, name, BLAKE3\n".to_owned(),
        Units::Human => "sections: offset, size, name, BLAKE3\n".to_owned(),
    };
    for section in plan.sections() {
        let digest = section.digest.to_hex();
        writeln!(
            out,
            "  {:>12} {:>14}  {:<20} {}",
            units.of(section.offset),
            units.of(section.bytes),
            section.name,
            &digest[..16]
        )
        .expect("writing to a String");
    }
    out
}

/// The kernels by index.
pub fn kernels(program: &Program) -> String {
    let mut out = format!("kernels: {}\n", program.kernels.len());
    for (index, kernel) in program.kernels.iter().enumerate() {
        writeln!(out, "  k{index} {} ({} args)", kernel.symbol, kernel.operands.len()).expect("writing to a String");
    }
    out
}

/// The packed weights by index.
pub fn weights(program: &Program) -> String {
    let mut out = format!("weights: {}\n", program.weights.len());
    for (index, weight) in program.weights.iter().enumerate() {
        writeln!(out, "  w{index} {}", weight_line(weight)).expect("writing to a String");
    }
    out
}

fn weight_line(weight: &Weight) -> String {
    let layout = weight.layout;
    let transform = match weight.transform {
        Transform::None => String::new(),
        Transform::DecayRate => " decay_rate".to_owned(),
        Transform::Scale(format) => format!(" scale of {}", format.name()),
    };
    let inits: Vec<String> = weight.parts.iter().map(|part| init(part.init)).collect();
    let order = match layout.order {
        ElementOrder::Panels => format!("lanes {}", layout.lanes),
        ElementOrder::Rows { stride, multiple } => {
            format!("stride {stride}, {} rows of a part together, padded to {multiple}", layout.lanes)
        }
    };
    format!(
        "{} @{} {} bytes {} [{}, {}, {}] {order}{transform} init {}",
        parts(weight.parts.iter().map(|part| (&*part.parameter, part.first_row, part.rows)), weight.order),
        weight.offset,
        weight.bytes,
        weight.format.name(),
        layout.groups,
        layout.n,
        layout.k,
        inits.join(" "),
    )
}

fn init(init: Init) -> String {
    match init {
        Init::Normal { mean, std } => format!("normal({mean}, {std})"),
        Init::Uniform { low, high } => format!("uniform({low}, {high})"),
    }
}

/// The parts of a packed weight, given parameter, first row and number of rows of each: `q`, or `q[0..72] + k[0..24]` for
/// stacked parts, `gate[0..100] | up[0..100]` for interleaved parts.
pub fn parts<'a>(parts: impl IntoIterator<Item = (&'a str, u64, u64)>, order: PartOrder) -> String {
    let parts: Vec<(&str, u64, u64)> = parts.into_iter().collect();
    if let [(parameter, 0, _)] = parts[..] {
        return parameter.to_owned();
    }
    let part = |&(parameter, first, rows): &(&str, u64, u64)| format!("{parameter}[{first}..{}]", first + rows);
    let separator = match order {
        PartOrder::Stacked => " + ",
        PartOrder::Interleaved => " | ",
    };
    parts.iter().map(part).collect::<Vec<_>>().join(separator)
}

/// The steps of each entry; `|` marks a step that waits for all earlier ones.
pub fn steps(program: &Program) -> String {
    program.entries.iter().map(|entry| entry_steps(program, entry)).collect::<Vec<_>>().join("\n")
}

fn entry_steps(program: &Program, entry: &Entry) -> String {
    let logits = entry.logits;
    let picks = entry.picks.map_or(String::new(), |picks| {
        format!("; tokens of the last two steps at arena+{}, arena+{}", picks.likeliest, picks.drawn)
    });
    let mut out = format!(
        "entry {}: up to {} tokens, {} sequences, {} outputs; logits [outputs, {}] at arena+{}, stride {}{picks}\n",
        entry.kind.name(),
        entry.max_tokens,
        entry.max_sequences,
        entry.max_outputs,
        logits.n,
        logits.offset,
        logits.row_stride,
    );
    for (index, step) in entry.steps.iter().enumerate() {
        let symbol = program.kernels.get(step.kernel as usize).map_or("?", |kernel| &kernel.symbol);
        let args: Vec<String> = step.args.iter().map(|&arg| argument(arg)).collect();
        let barrier = if step.barrier { '|' } else { ' ' };
        let launch = step.launch.map_or(String::new(), |launch| format!(" <{}>", self::launch(&launch)));
        writeln!(out, "  {index:>4} {barrier} {symbol}({}){launch}  ; {}", args.join(", "), step.source)
            .expect("writing to a String");
    }
    out
}

/// Launch configuration of a step: blocks along x, y and z (trailing axes with one block omitted), threads, bytes of shared
/// memory.
pub fn launch(launch: &Launch) -> String {
    let axis = |blocks: &Blocks| match *blocks {
        Blocks::Fixed(n) => n.to_string(),
        Blocks::PerSm(1) => "SMs".to_owned(),
        Blocks::PerSm(n) => format!("{n}·SMs"),
        Blocks::Of { count, factor, per_block: 1 } => argument(Arg::Count(count, factor)),
        Blocks::Of { count, factor, per_block } => format!("{}/{per_block}", argument(Arg::Count(count, factor))),
    };
    let used = 3 - launch.grid.iter().rev().take_while(|&&blocks| blocks == Blocks::Fixed(1)).count();
    let grid: Vec<String> = launch.grid[..used.max(1)].iter().map(axis).collect();
    format!("{} × {}, {} B", grid.join(" × "), launch.threads, launch.shared_bytes)
}

/// The tensor maps by index.
pub fn tensor_maps(program: &Program) -> String {
    let mut out = format!("tensor maps: {}\n", program.tensor_maps.len());
    for (index, map) in program.tensor_maps.iter().enumerate() {
        let TensorMap { base, elem, rows, cols, row_stride, box_rows, box_cols, swizzle } = *map;
        let swizzle = if swizzle == Swizzle::B128 { " swizzled" } else { "" };
        let base = argument(base);
        writeln!(
            out,
            "  m{index} {base} {} [{rows}, {cols}] stride {row_stride} boxes [{box_rows}, {box_cols}]{swizzle}",
            elem.name()
        )
        .expect("writing to a String");
    }
    out
}

/// An argument as text: `arena+64`, `w3`, `state+0`, `kv+128`, `table ids`, `n_tokens`, `7`, `m2`.
pub fn argument(arg: Arg) -> String {
    match arg {
        Arg::Arena(offset) => format!("arena+{offset}"),
        Arg::Weight(index) => format!("w{index}"),
        Arg::State(offset) => format!("state+{offset}"),
        Arg::Kv(offset) => format!("kv+{offset}"),
        Arg::Table(table) => format!("table {}", table.name()),
        Arg::Count(count, factor) => {
            let name = match count {
                Count::Tokens => "n_tokens",
                Count::Sequences => "n_sequences",
                Count::Outputs => "n_outputs",
            };
            if factor == 1 { name.to_owned() } else { format!("{name}·{factor}") }
        }
        Arg::Constant(value) => value.to_string(),
        Arg::TensorMap(index) => format!("m{index}"),
    }
}

/// Formats rows of cells as lines. Each column is as wide as its widest cell and is preceded by two spaces. Columns for which
/// `left` returns true are left-aligned; the others are right-aligned.
pub fn table<R: AsRef<[String]>>(rows: impl IntoIterator<Item = R>, left: impl Fn(usize) -> bool) -> String {
    let rows: Vec<R> = rows.into_iter().collect();
    let width = |column: usize| rows.iter().map(|row| row.as_ref()[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, |row| row.as_ref().len())).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = if left(column) { write!(text, "  {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::{Plan, fixture};

    #[test]
    fn lists_everything() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        expect_test::expect![[r#"
            model fixture
              parameters       21
              layers           1
              d_model          3
              vocab            5
              bos              1
              eos              2
              weights          linear bf16
              targets          x86-64-v3, x86-64-v2, sm_90a
              passes           cpu: fuse-qkv
              passes           sm_90a: fuse-qkv, fuse-gate-up
              max_context      64
              max_sequences    2
              kv_tokens        128
              prefill_chunk    8
              max_outputs      4
              compiler         0.1.0

            memory of cpu, bytes
              weights                     160
              arena                       256
              state                       128  2 × 64
              kv                         1024  8 pages × 128
              tables                      448
              total                      2016

            memory of sm_90a, bytes
              weights                    8204
              arena                       384
              state                       256  2 × 128
              kv                         1024  8 pages × 128
              tables                      768
              graphs                   245760
              total                    256396

            sections: offset, bytes, name, BLAKE3
                      8192           1074  manifest             22d1c519377f40cf
                     12288            965  program              1114eb6d50730ad0
                     16384           2720  program/sm_90a       cdcded81275fd4b1
                     20480             15  code/sm_90a          f7517404b2b787e5
                     24576             18  code/x86-64-v2       dc796423677bb315
                     28672             18  code/x86-64-v3       a693e509c358a661
                     32768              9  code/sm_90a.cubin    c9ddd298f9a58c15
                     36864              2  tokenizer            6e46dd10defc9b56
                     40960            160  weights              4eeaf67454f501a7
                     45056           8204  weights/sm_90a       e4fb00e7aaa1558f

            program cpu: x86-64-v3, x86-64-v2

            kernels: 2
              k0 embed_bf16 (4 args)
              k1 mix_f32 (6 args)

            weights: 2
              w0 model.embed_tokens.weight @0 48 bytes bf16 [1, 5, 3] lanes 8 init normal(0, 1)
              w1 model.final_layernorm.weight @64 32 bytes f32 [1, 3, 1] lanes 8 init normal(0, 1)

            entry prefill: up to 8 tokens, 2 sequences, 4 outputs; logits [outputs, 5] at arena+64, stride 32
                 0   embed_bf16(table ids, w0, arena+0, n_tokens)  ; model.embed_tokens
                 1 | mix_f32(arena+64, state+0, kv+64, w1, 7, arena+0)  ; layers.0.mamba

            entry decode: up to 2 tokens, 2 sequences, 4 outputs; logits [outputs, 5] at arena+64, stride 32
                 0   embed_bf16(table ids, w0, arena+0, n_tokens)  ; model.embed_tokens
                 1 | mix_f32(arena+64, state+0, kv+64, w1, 7, arena+0)  ; layers.0.mamba

            program sm_90a: sm_90a

            kernels: 4
              k0 embed_sm90 (4 args)
              k1 mix_sm90 (5 args)
              k2 argmax_sm90 (3 args)
              k3 draw_sm90 (4 args)

            weights: 2
              w0 model.embed_tokens.weight @0 8192 bytes bf16 [1, 5, 3] stride 64, 64 rows of a part together, padded to 64 init normal(0, 1)
              w1 model.final_layernorm.weight @8192 12 bytes f32 [1, 3, 1] lanes 1 init normal(0, 1)

            tensor maps: 2
              m0 w0 bf16 [64, 3] stride 128 boxes [64, 64] swizzled
              m1 arena+0 bf16 [2, 64] stride 128 boxes [64, 64] swizzled

            entry prefill: up to 8 tokens, 2 sequences, 4 outputs; logits [outputs, 5] at arena+256, stride 32; tokens of the last two steps at arena+0, arena+128
                 0   embed_sm90(table ids, w0, arena+0, n_tokens) <n_tokens·2/4 × 64, 0 B>  ; model.embed_tokens
                 1 | mix_sm90(m0, m1, state+0, kv+0, arena+256) <SMs × 384, 200000 B>  ; layers.0.mamba
                 2 | argmax_sm90(arena+256, arena+0, n_outputs) <n_outputs × 32, 8 B>  ; sampler
                 3 | draw_sm90(arena+256, table settings, arena+128, n_outputs) <n_outputs × 32, 8 B>  ; sampler

            entry decode: up to 1 tokens, 1 sequences, 1 outputs; logits [outputs, 5] at arena+256, stride 32; tokens of the last two steps at arena+0, arena+128
                 0   embed_sm90(table ids, w0, arena+0, n_tokens) <n_tokens·2/4 × 64, 0 B>  ; model.embed_tokens
                 1 | mix_sm90(m0, m1, state+0, kv+0, arena+256) <SMs × 384, 200000 B>  ; layers.0.mamba
                 2 | argmax_sm90(arena+256, arena+0, n_outputs) <n_outputs × 32, 8 B>  ; sampler
                 3 | draw_sm90(arena+256, table settings, arena+128, n_outputs) <n_outputs × 32, 8 B>  ; sampler

            entry decode: up to 2 tokens, 2 sequences, 2 outputs; logits [outputs, 5] at arena+256, stride 32; tokens of the last two steps at arena+0, arena+128
                 0   embed_sm90(table ids, w0, arena+0, n_tokens) <n_tokens·2/4 × 64, 0 B>  ; model.embed_tokens
                 1 | mix_sm90(m0, m1, state+0, kv+0, arena+256) <SMs × 384, 200000 B>  ; layers.0.mamba
                 2 | argmax_sm90(arena+256, arena+0, n_outputs) <n_outputs × 32, 8 B>  ; sampler
                 3 | draw_sm90(arena+256, table settings, arena+128, n_outputs) <n_outputs × 32, 8 B>  ; sampler
        "#]]
        .assert_eq(&super::plan(&plan));
    }
}
