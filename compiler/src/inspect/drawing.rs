//! A drawing of each entry's arena: steps to the right, bytes upwards, a box for every buffer, and a line for the live bytes.

use std::fmt::Write;

use jamba_plan::format::{Buffer, Entry, Program};
use svg::Document;
use svg::node::element::{Group, Path, Rectangle, Style, Text, Title};

use super::memory::{arena_bytes, holds, live_bytes, peak_live_bytes};

const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 54.0;
/// The minimum width; entries with many steps get `STEP_WIDTH` for each.
const LEAST_WIDTH: f64 = 1200.0;
const STEP_WIDTH: f64 = 8.0;
/// Narrower boxes show their name in a tooltip only.
const LABEL_WIDTH: f64 = 90.0;
const LABEL_HEIGHT: f64 = 12.0;
/// Width of a character of the font.
const LETTER_WIDTH: f64 = 6.8;
const LEGEND_LINE: f64 = 20.0;

/// Every rule is scoped to `.arena`, because a page may embed the drawing.
const STYLE: &str = "
    .arena { background: #fff; font: 11px ui-monospace, monospace; }
    .arena text { fill: #222; } .arena .axis { stroke: #888; fill: none; }
    .arena .live { stroke: #c0392b; stroke-width: 1.5; fill: none; pointer-events: none; }
    .arena rect { stroke: #fff; stroke-width: 0.5; } .arena .name { fill: #10222e; pointer-events: none; }
    .arena .title { font-size: 15px; font-weight: bold; } .arena .key { fill: #c0392b; }
    @media (prefers-color-scheme: dark) {
        .arena { background: #16191d; } .arena text { fill: #ddd; } .arena rect { stroke: #16191d; }
        .arena .name { fill: #10222e; } .arena .live { stroke: #ff7b6b; } .arena .key { fill: #ff7b6b; }
    }
";

/// All entries, one below the other.
pub fn program(program: &Program) -> String {
    let entries: Vec<&Entry> = program.entries.iter().collect();
    draw(program, &entries)
}

/// One entry. Each box has the index of its buffer as `data-buffer`.
pub fn entry(program: &Program, entry: &Entry) -> String {
    draw(program, &[entry])
}

fn draw(program: &Program, entries: &[&Entry]) -> String {
    let plot_width = |entry: &&Entry| entry.steps.len() as f64 * STEP_WIDTH;
    let width = entries.iter().map(plot_width).fold(LEAST_WIDTH, f64::max);
    let timelines = entries.len() as f64 * (TOP + HEIGHT + BOTTOM);
    let (legend, legend_height) = legend(&ops(program), timelines, width);
    let (width_all, height_all) = (LEFT + width + RIGHT, timelines + legend_height);
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, width_all, height_all))
        .set("width", width_all)
        .set("height", height_all)
        .set("class", "arena")
        .add(Style::new(STYLE));
    for (index, entry) in entries.iter().enumerate() {
        document = document.add(timeline(program, entry, width, index as f64 * (TOP + HEIGHT + BOTTOM) + TOP));
    }
    document.add(legend).to_string()
}

/// Converts steps and bytes to coordinates.
struct Scale {
    top: f64,
    width: f64,
    n_steps: f64,
    arena: f64,
}

impl Scale {
    fn x(&self, step: f64) -> f64 {
        LEFT + self.width * step / self.n_steps
    }

    fn y(&self, bytes: f64) -> f64 {
        self.top + HEIGHT * (1.0 - bytes / self.arena)
    }
}

fn timeline(program: &Program, entry: &Entry, width: f64, top: f64) -> Group {
    let (arena, n_steps) = (arena_bytes(entry).max(1) as f64, entry.steps.len().max(1) as f64);
    let scale = Scale { top, width, n_steps, arena };
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
    let ops = ops(program);
    for (index, buffer) in entry.buffers.iter().enumerate() {
        group = boxed(group, &scale, index, buffer, (program, entry, &ops));
    }
    group = group.add(Path::new().set("d", live_line(&scale, entry)).set("class", "live"));
    axes(group, &scale)
}

/// Adds the box of a buffer, and its name where there is room.
fn boxed(
    group: Group,
    scale: &Scale,
    index: usize,
    buffer: &Buffer,
    (program, entry, ops): (&Program, &Entry, &[&str]),
) -> Group {
    let (first, last) = (f64::from(buffer.first), f64::from(buffer.last) + 1.0);
    let (offset, bytes) = (buffer.offset as f64, buffer.bytes as f64);
    let (left, width, height) = (scale.x(first), scale.x(last) - scale.x(first), HEIGHT * bytes / scale.arena);
    let op = &program.kernels[entry.steps[buffer.first as usize].kernel as usize].op;
    let about = format!(
        "b{index}: {}\n{} bytes at {}\nsteps {} … {}",
        holds(entry, buffer),
        buffer.bytes,
        buffer.offset,
        buffer.first,
        buffer.last
    );
    let rectangle = Rectangle::new()
        .set("x", left)
        .set("y", scale.y(offset + bytes))
        .set("width", width)
        .set("height", height)
        .set("fill", colour(ops, op))
        .set("data-buffer", index)
        .add(Title::new(about));
    let group = group.add(rectangle);
    if width < LABEL_WIDTH || height < LABEL_HEIGHT {
        return group;
    }
    let fits = ((width - 6.0) / LETTER_WIDTH) as usize;
    let name: String = format!("{} ({op})", holds(entry, buffer)).chars().take(fits).collect();
    let middle = scale.y(offset + bytes / 2.0) + 4.0;
    group.add(Text::new(name).set("x", left + 3.0).set("y", middle).set("class", "name"))
}

fn live_line(scale: &Scale, entry: &Entry) -> String {
    let mut line = String::new();
    for (step, bytes) in live_bytes(entry).into_iter().enumerate() {
        let (from, to, at) = (scale.x(step as f64), scale.x(step as f64 + 1.0), scale.y(bytes as f64));
        // Writing to a String cannot fail.
        let _ = write!(line, "{}{from:.1} {at:.1}L{to:.1} {at:.1}", if step == 0 { "M" } else { "L" });
    }
    line
}

/// Four marks on the byte axis, and one mark every 300 points on the step axis.
fn axes(mut group: Group, scale: &Scale) -> Group {
    let (top, bottom, right) = (scale.top, scale.top + HEIGHT, LEFT + scale.width);
    group = group.add(Path::new().set("d", format!("M{LEFT} {top}V{bottom}H{right}")).set("class", "axis"));
    for quarter in 0..=4 {
        let part = f64::from(quarter) / 4.0;
        let bytes = Text::new(size(scale.arena * part));
        group = group.add(bytes.set("x", LEFT - 6.0).set("y", bottom - HEIGHT * part + 4.0).set("text-anchor", "end"));
    }
    let n_marks = (scale.width / 300.0).round().max(1.0);
    for mark in 0..=n_marks as u32 {
        let step = scale.n_steps * f64::from(mark) / n_marks;
        let text = Text::new(format!("step {step:.0}"));
        group = group.add(text.set("x", scale.x(step)).set("y", bottom + 16.0).set("text-anchor", "middle"));
    }
    group
}

/// `12.3 kB`, `4.56 MB`.
fn size(bytes: f64) -> String {
    if bytes < 1e6 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.2} MB", bytes / 1e6) }
}

/// The legend, which maps colours to ops, in lines no wider than the drawing; and its height.
fn legend(ops: &[&str], top: f64, width: f64) -> (Group, f64) {
    let mut group = Group::new();
    let (mut left, mut line) = (LEFT, 0.0);
    for op in ops {
        let needs = 34.0 + LETTER_WIDTH * op.len() as f64;
        if left + needs > LEFT + width && left > LEFT {
            (left, line) = (LEFT, line + LEGEND_LINE);
        }
        let square = Rectangle::new().set("x", left).set("y", top + line - 10.0).set("width", 12).set("height", 12);
        group = group.add(square.set("fill", colour(ops, op)));
        group = group.add(Text::new(*op).set("x", left + 17.0).set("y", top + line));
        left += needs;
    }
    (group, line + LEGEND_LINE)
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

/// Light enough for dark labels.
const COLOURS: [&str; 16] = [
    "#7fc8b8", "#f4a261", "#b9a7e0", "#6fa8dc", "#a4d65e", "#f7b6d2", "#ffe066", "#c9c9c9", "#ef7d7d", "#9fe8f5",
    "#d98cd9", "#4fb477", "#c68642", "#e8d5b5", "#88a0e8", "#d0e8c8",
];

/// The colour of an op; colours repeat after the last.
fn colour(ops: &[&str], op: &str) -> &'static str {
    COLOURS[ops.iter().position(|other| *other == op).unwrap_or(0) % COLOURS.len()]
}
