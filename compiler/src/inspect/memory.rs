//! The memory map of the arena: which bytes hold what, and while which steps run. As a table, and as a drawing of each entry:
//! steps to the right, bytes upwards, a box for every buffer, and the bytes that are live as a line.

use std::fmt::Write;

use jamba_plan::format::{Buffer, Entry, Program};
use svg::Document;
use svg::node::element::{Group, Path, Rectangle, Style, Text, Title};

use super::work::columns;

/// The most bytes that are live in any step: no arena can be smaller. A buffer that overwrites another is counted once.
pub fn peak_live_bytes(entry: &Entry) -> u64 {
    live_bytes(entry).into_iter().max().unwrap_or(0)
}

/// Bytes that are live in each step.
fn live_bytes(entry: &Entry) -> Vec<u64> {
    let mut live = vec![0; entry.steps.len()];
    for buffer in &entry.buffers {
        let first = buffer.first as usize + usize::from(buffer.in_place_of.is_some());
        live.iter_mut().take(buffer.last as usize + 1).skip(first).for_each(|bytes| *bytes += buffer.bytes);
    }
    live
}

/// Bytes of arena that an entry uses.
pub fn arena_bytes(entry: &Entry) -> u64 {
    entry.buffers.iter().map(|buffer| buffer.offset + buffer.bytes).max().unwrap_or(0)
}

/// What a buffer holds: the result of a step.
fn holds(entry: &Entry, buffer: &Buffer) -> String {
    format!("{} of {}", buffer.holds, entry.steps[buffer.first as usize].source)
}

/// The map of every entry as a table.
pub fn table(program: &Program) -> String {
    let mut text = String::new();
    for entry in &program.entries {
        let (arena, peak) = (arena_bytes(entry), peak_live_bytes(entry));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}: {arena} bytes of arena, {peak} live at the peak", entry.kind.name());
        let head = ["buffer", "from", "to", "bytes", "first step", "last", "holds"].map(str::to_owned);
        let rows = entry.buffers.iter().enumerate().map(|(index, buffer)| {
            [
                buffer.in_place_of.map_or_else(|| format!("b{index}"), |other| format!("b{index}=b{other}")),
                buffer.offset.to_string(),
                (buffer.offset + buffer.bytes).to_string(),
                buffer.bytes.to_string(),
                buffer.first.to_string(),
                buffer.last.to_string(),
                holds(entry, buffer),
            ]
        });
        text += &columns(std::iter::once(head).chain(rows));
    }
    text
}

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;
const GAP: f64 = 110.0;
/// Narrower boxes have no room for their name; a tooltip has it.
const LABEL_WIDTH: f64 = 90.0;
const LABEL_HEIGHT: f64 = 12.0;

const STYLE: &str = "
    svg { background: #fff; font: 11px ui-monospace, monospace; }
    text { fill: #222; } .axis { stroke: #888; fill: none; } .live { stroke: #c0392b; stroke-width: 1.5; fill: none; }
    rect { stroke: #fff; stroke-width: 0.5; } .name { fill: #10222e; } .title { font-size: 15px; font-weight: bold; }
    .key { fill: #c0392b; }
    @media (prefers-color-scheme: dark) {
        svg { background: #16191d; } text { fill: #ddd; } rect { stroke: #16191d; } .name { fill: #10222e; }
        .live { stroke: #ff7b6b; } .key { fill: #ff7b6b; }
    }
";

/// The drawing of all entries.
pub fn drawing(program: &Program) -> String {
    let n = program.entries.len() as f64;
    let (width, height) = (LEFT + WIDTH + 40.0, n * (HEIGHT + GAP) + 20.0);
    let mut document =
        Document::new().set("viewBox", (0.0, 0.0, width, height)).set("width", width).set("height", height);
    document = document.add(Style::new(STYLE));
    for (index, entry) in program.entries.iter().enumerate() {
        document = document.add(timeline(program, entry, index as f64 * (HEIGHT + GAP) + TOP));
    }
    document.add(legend(&ops(program), n * (HEIGHT + GAP))).to_string()
}

fn timeline(program: &Program, entry: &Entry, top: f64) -> Group {
    let (arena, n_steps) = (arena_bytes(entry).max(1) as f64, entry.steps.len().max(1) as f64);
    let ops = ops(program);
    let (x, y) = (|step: f64| LEFT + WIDTH * step / n_steps, |bytes: f64| top + HEIGHT * (1.0 - bytes / arena));
    let title = format!(
        "{}: {} steps, {} of arena, {} live at the peak",
        entry.kind.name(),
        entry.steps.len(),
        size(arena),
        size(peak_live_bytes(entry) as f64)
    );
    let mut group = Group::new().add(Text::new(title).set("x", LEFT).set("y", top - 30.0).set("class", "title"));
    group =
        group.add(Text::new("boxes: buffers of the arena, while steps need them").set("x", LEFT).set("y", top - 12.0));
    group = group.add(Text::new("line: live bytes").set("x", LEFT + 380.0).set("y", top - 12.0).set("class", "key"));
    for (index, buffer) in entry.buffers.iter().enumerate() {
        let (first, last) = (f64::from(buffer.first), f64::from(buffer.last) + 1.0);
        let (offset, bytes) = (buffer.offset as f64, buffer.bytes as f64);
        let (width, height) = (x(last) - x(first), HEIGHT * bytes / arena);
        let step = &entry.steps[buffer.first as usize];
        let op = &program.kernels[step.kernel as usize].op;
        let about = format!(
            "b{index}: {}\n{} bytes at {}\nsteps {} … {}",
            holds(entry, buffer),
            buffer.bytes,
            buffer.offset,
            buffer.first,
            buffer.last
        );
        let rectangle = Rectangle::new()
            .set("x", x(first))
            .set("y", y(offset + bytes))
            .set("width", width)
            .set("height", height)
            .set("fill", colour(&ops, op))
            .add(Title::new(about));
        group = group.add(rectangle);
        if width >= LABEL_WIDTH && height >= LABEL_HEIGHT {
            let fits = (width / 6.8) as usize;
            let name: String = format!("{} ({op})", holds(entry, buffer)).chars().take(fits).collect();
            group = group.add(
                Text::new(name).set("x", x(first) + 3.0).set("y", y(offset + bytes / 2.0) + 4.0).set("class", "name"),
            );
        }
    }
    let mut line = String::new();
    for (step, bytes) in live_bytes(entry).into_iter().enumerate() {
        // Writing to a String cannot fail.
        let (from, to, at) = (x(step as f64), x(step as f64 + 1.0), y(bytes as f64));
        let _ = write!(line, "{}{from:.1} {at:.1}L{to:.1} {at:.1}", if step == 0 { "M" } else { "L" });
    }
    group = group.add(Path::new().set("d", line).set("class", "live"));
    axes(group, arena, entry.steps.len(), top)
}

/// Four marks on each axis.
fn axes(mut group: Group, arena: f64, n_steps: usize, top: f64) -> Group {
    let (bottom, right) = (top + HEIGHT, LEFT + WIDTH);
    group = group.add(Path::new().set("d", format!("M{LEFT} {top}V{bottom}H{right}")).set("class", "axis"));
    for quarter in 0..=4 {
        let part = f64::from(quarter) / 4.0;
        let bytes = Text::new(size(arena * part));
        group = group.add(bytes.set("x", LEFT - 6.0).set("y", bottom - HEIGHT * part + 4.0).set("text-anchor", "end"));
        let step = Text::new(format!("step {:.0}", n_steps as f64 * part));
        group = group.add(step.set("x", LEFT + WIDTH * part).set("y", bottom + 16.0).set("text-anchor", "middle"));
    }
    group
}

/// `arena` bytes in the unit that suits it.
fn size(bytes: f64) -> String {
    if bytes < 1e6 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.2} MB", bytes / 1e6) }
}

/// What each colour is the result of.
fn legend(ops: &[&str], top: f64) -> Group {
    let mut group = Group::new();
    let mut left = LEFT;
    for op in ops {
        let square = Rectangle::new().set("x", left).set("y", top - 10.0).set("width", 12).set("height", 12);
        group = group.add(square.set("fill", colour(ops, op)));
        group = group.add(Text::new(*op).set("x", left + 17.0).set("y", top));
        left += 34.0 + 6.8 * op.len() as f64;
    }
    group
}

/// The ops of a program, each once, in order of first use.
fn ops(program: &Program) -> Vec<&str> {
    let mut ops: Vec<&str> = Vec::new();
    for kernel in &program.kernels {
        if !ops.contains(&kernel.op.as_str()) {
            ops.push(&kernel.op);
        }
    }
    ops
}

/// Light enough for dark names to be read on.
const COLOURS: [&str; 16] = [
    "#8dd3c7", "#fdb462", "#bebada", "#80b1d3", "#b3de69", "#fccde5", "#ffed6f", "#d9d9d9", "#fb9a99", "#a6cee3",
    "#cab2d6", "#b2df8a", "#fdbf6f", "#e5c494", "#66c2a5", "#e78ac3",
];

/// One colour for each op, as far as they go.
fn colour(ops: &[&str], op: &str) -> &'static str {
    COLOURS[ops.iter().position(|other| *other == op).unwrap_or(0) % COLOURS.len()]
}
