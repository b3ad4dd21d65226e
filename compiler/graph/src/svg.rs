//! The graph as a drawing, for `jambac graph --svg`: a column of boxes in topological order, with a frame around each layer. An edge
//! goes straight down to the next box, or through a lane on the right to a later one.

use std::collections::BTreeMap;

use svg::Document;
use svg::node::element::{Group, Path, Rectangle, Style, Text, Title};

use crate::dot::{group, label};
use crate::graph::{Graph, NodeId};
use crate::op::Op;

const BOX_WIDTH: f64 = 460.0;
const BOX_LEFT: f64 = 24.0;
const LINE_HEIGHT: f64 = 13.0;
const BOX_GAP: f64 = 16.0;
const FRAME_TITLE: f64 = 22.0;
const FRAME_GAP: f64 = 14.0;
const LANE_WIDTH: f64 = 11.0;
const LETTER_WIDTH: f64 = 6.1;
const TOP: f64 = 40.0;

const STYLE: &str = "
    .graph { background: #fff; font: 10px ui-monospace, monospace; }
    .graph text { fill: #1c2126; } .graph .quiet { fill: #5b6570; } .graph .title { font-size: 15px; font-weight: bold; }
    .graph .op { font-weight: bold; } .graph .node rect { fill: #eef3f9; stroke: #4878a8; }
    .graph .end rect { fill: #f6f1e7; stroke: #b65c1c; } .graph .frame { fill: none; stroke: #b9c1c9; stroke-dasharray: 3 3; }
    .graph .line { fill: none; stroke: #7a838c; } .graph .line:hover { stroke: #c0392b; stroke-width: 2.5; }
    @media (prefers-color-scheme: dark) {
        .graph { background: #16191d; } .graph text { fill: #dfe4e9; } .graph .quiet { fill: #98a2ad; }
        .graph .node rect { fill: #1d2730; stroke: #6fa3d8; } .graph .end rect { fill: #2b241b; stroke: #ef9a55; }
        .graph .frame { stroke: #3b444d; } .graph .line:hover { stroke: #ff7b6b; }
    }
";

/// A box: an op, an input, a state or an output.
struct Placed {
    lines: Vec<String>,
    class: &'static str,
    layer: String,
    top: f64,
}

impl Placed {
    fn height(&self) -> f64 {
        self.lines.len() as f64 * LINE_HEIGHT + 7.0
    }
}

/// A value from one box to another, by their index in the column.
struct Edge {
    from: usize,
    to: usize,
    ty: String,
}

/// The drawing. Parameters are named inside the op that reads them; inputs, states and outputs have boxes of their own.
pub fn svg(graph: &Graph) -> String {
    let (mut boxes, edges) = column(graph);
    let (frames, bottom) = place(&mut boxes);
    let (lines, n_lanes) = lines(&boxes, &edges);
    let width = BOX_LEFT + BOX_WIDTH + 24.0 + n_lanes as f64 * LANE_WIDTH + 16.0;
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, width, bottom))
        .set("width", width)
        .set("height", bottom)
        .set("class", "graph")
        .add(Style::new(STYLE))
        .add(Text::new(graph.name.as_str()).set("x", 8.0).set("y", 24.0).set("class", "title"));
    for part in [frames, lines] {
        document = document.add(part);
    }
    boxes.iter().fold(document, |document, placed| document.add(draw(placed))).to_string()
}

/// The boxes in topological order, outputs at the end of the layer that they come from, and the values between them.
fn column(graph: &Graph) -> (Vec<Placed>, Vec<Edge>) {
    let is_box = |node: NodeId| !matches!(graph.op(node), Op::Parameter { .. });
    let order: Vec<NodeId> = graph.order().into_iter().filter(|&node| is_box(node)).collect();
    let mut places: BTreeMap<NodeId, usize> = BTreeMap::new();
    let (mut boxes, mut edges) = (Vec::new(), Vec::new());
    for run in order.chunk_by(|&a, &b| layer(graph, a) == layer(graph, b)) {
        for &node in run {
            places.insert(node, boxes.len());
            for operand in graph.operands(node).iter().filter(|operand| is_box(operand.node)) {
                edges.push(Edge { from: places[&operand.node], to: boxes.len(), ty: graph.ty(*operand).to_string() });
            }
            let class = if graph.operands(node).is_empty() { "node end" } else { "node" };
            let lines = label(graph, node).lines().map(str::to_owned).collect();
            boxes.push(Placed { lines, class, layer: layer(graph, node), top: 0.0 });
        }
        for (name, value) in graph.outputs().iter().filter(|(_, value)| run.contains(&value.node)) {
            edges.push(Edge { from: places[&value.node], to: boxes.len(), ty: graph.ty(*value).to_string() });
            let lines = vec!["output".to_owned(), name.to_string()];
            boxes.push(Placed { lines, class: "node end", layer: layer(graph, value.node), top: 0.0 });
        }
    }
    (boxes, edges)
}

/// `layers.3` of a node that comes from `layers.3.mamba`.
fn layer(graph: &Graph, node: NodeId) -> String {
    let parts = group(&graph.node(node).source);
    parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(".")
}

/// Places the boxes below each other. Returns the frames around layers, and the bottom.
fn place(boxes: &mut [Placed]) -> (Group, f64) {
    let mut frames = Group::new();
    let mut y = TOP;
    for run in boxes.chunk_by_mut(|a, b| a.layer == b.layer) {
        let begin = y;
        let named = !run[0].layer.is_empty();
        y += if named { FRAME_TITLE } else { 0.0 };
        for placed in run.iter_mut() {
            placed.top = y;
            y += placed.height() + BOX_GAP;
        }
        if named {
            let frame = Rectangle::new().set("x", BOX_LEFT - 10.0).set("y", begin).set("width", BOX_WIDTH + 20.0);
            frames = frames.add(frame.set("height", y - begin - BOX_GAP + 10.0).set("rx", 5).set("class", "frame"));
            let name = Text::new(run[0].layer.as_str()).set("x", BOX_LEFT - 2.0).set("y", begin + 14.0);
            frames = frames.add(name.set("class", "quiet"));
        }
        y += FRAME_GAP;
    }
    (frames, y)
}

/// The edges, short ones in the lanes near the boxes, and the number of lanes.
fn lines(boxes: &[Placed], edges: &[Edge]) -> (Group, usize) {
    let mut group = Group::new();
    let mut lanes: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut by_length: Vec<&Edge> = edges.iter().collect();
    by_length.sort_by_key(|edge| (edge.to - edge.from, edge.from));
    let mut straight = None; // one edge goes down the middle, others between the same boxes take a lane
    for edge in by_length {
        let (from, to) = (&boxes[edge.from], &boxes[edge.to]);
        let path = if edge.to == edge.from + 1 && straight != Some(edge.from) {
            straight = Some(edge.from);
            let (x, begin, end) = (BOX_LEFT + BOX_WIDTH / 2.0, from.top + from.height(), to.top);
            format!("M{x} {begin}V{end}m-3 -5l3 5l3 -5")
        } else {
            let (begin, end) = (from.top + from.height() - 5.0, to.top + 6.0);
            let free = |taken: &Vec<(f64, f64)>| taken.iter().all(|&(from, to)| end < from || begin > to);
            let lane = lanes.iter().position(free).unwrap_or(lanes.len());
            if lane == lanes.len() {
                lanes.push(Vec::new());
            }
            lanes[lane].push((begin, end));
            let right = BOX_LEFT + BOX_WIDTH;
            let x = right + 18.0 + lane as f64 * LANE_WIDTH;
            format!("M{right} {begin}H{x}V{end}H{right}m5 -3l-5 3l5 3")
        };
        group = group.add(Path::new().set("d", path).set("class", "line").add(Title::new(edge.ty.as_str())));
    }
    (group, lanes.len())
}

fn draw(placed: &Placed) -> Group {
    let rectangle = Rectangle::new().set("x", BOX_LEFT).set("y", placed.top).set("width", BOX_WIDTH);
    let rectangle = rectangle.set("height", placed.height()).set("rx", 4);
    let mut group = Group::new().set("class", placed.class).add(Title::new(placed.lines.join("\n"))).add(rectangle);
    let fits = ((BOX_WIDTH - 16.0) / LETTER_WIDTH) as usize;
    for (index, line) in placed.lines.iter().enumerate() {
        let text: String = if line.chars().count() > fits {
            line.chars().take(fits - 1).chain(['…']).collect()
        } else {
            line.clone()
        };
        let y = placed.top + (index + 1) as f64 * LINE_HEIGHT;
        let class = if index == 0 { "op" } else { "quiet" };
        group = group.add(Text::new(text).set("x", BOX_LEFT + 8.0).set("y", y).set("class", class));
    }
    group
}

#[cfg(test)]
mod tests {
    use crate::text::read;

    #[test]
    fn draws_a_box_for_each_op_and_a_line_for_each_value() {
        let graph = read(
            r#"graph @prefill {
                %0 = input "x<y" : f32[tokens, 8] loc "embed"
                %1 = parameter "w" : bf16[8, 8] loc "layers.0.mlp"
                %2 = linear %0, %1 : f32[tokens, 8] loc "layers.0.mlp"
                %3 = silu %2 : f32[tokens, 8] loc "layers.0.mlp"
                %4 = add %0, %3 : f32[tokens, 8] loc "layers.0"
                output "y" = %4
            }"#,
        );
        let drawing = super::svg(&graph.unwrap());
        let n = |text: &str| drawing.matches(text).count();
        // x, linear, silu, add, y; 5 values of which one, from x to add, takes a lane; embed and layers.0.
        assert_eq!((n("class=\"node"), n("class=\"line\""), n("class=\"frame\"")), (5, 5, 2), "{drawing}");
        assert_eq!((n("l3 5l3 -5"), n("l-5 3l5 3")), (4, 1), "{drawing}");
        assert!(n("weight = w bf16[8, 8]") == 2 && n("f32[tokens, 8]") == 5, "{drawing}");
        assert!(n("x&lt;y") > 0 && n("x<y") == 0, "{drawing}");
    }
}
