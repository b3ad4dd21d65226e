// The layers of an entry as a strip of boxes; an open one shows its steps as a column, parts of the model as frames, and
// the buffers between them as lines: straight to the next step, as an arc to later ones.

const STEP = { width: 250, height: 30, gap: 12, left: 14, frame: 22 };
const LANE = 12;

function layers(entry) {
  const { layers, edges, steps } = plan.steps[entry];
  const most = Math.max(...layers.map((layer) => layer.bytes));
  const opened = element("div", { class: "opened" });
  const drawn = layers.map((layer, index) => {
    const experts = layer.steps.some((step) => /^(moe|grouped)_/.test(steps[step].op));
    const mixer = layer.parts.includes("self_attn") ? "attention" : layer.parts.some((part) => part.includes("mamba")) ? "mamba" : "other";
    const figure = element("figure", { hidden: true });
    const button = element("button", { type: "button", class: `layer ${mixer}`, "aria-expanded": "false", "data-layer": layer.name, onclick: () => show(figure.hidden) },
      element("b", {}, layer.name),
      element("span", {}, mixer === "other" ? "\u00a0" : `${mixer} · ${experts ? "experts" : "MLP"}`),
      element("span", {}, `${layer.steps.length} ${layer.steps.length === 1 ? "step" : "steps"}, ${scaled(layer.bytes, "B")}`),
      element("i", { class: "meter", style: `width: ${100 * layer.bytes / most}%` }));
    const show = (open) => {
      if (open && !figure.hasChildNodes()) figure.append(...column(entry, index, layer, steps, edges));
      figure.hidden = !open;
      button.setAttribute("aria-expanded", open);
    };
    opened.append(figure);
    return { button, show };
  });
  const all = (open) => drawn.forEach(({ show }) => show(open));
  const repeated = repetitions(layers, steps);
  const fold = element("button", { type: "button", "aria-pressed": "false", onclick: () => setFolded(fold.getAttribute("aria-pressed") === "false") }, "fold repeated layers");
  const badges = repeated.map(({ begin, period, end }) => {
    const badge = element("span", { class: "badge" }, `${period === 1 ? "" : `these ${period} `}× ${(end - begin) / period}, to ${layers[end - 1].name}`);
    drawn[begin].button.append(badge);
    return badge;
  });
  const setFolded = (on) => {
    repeated.forEach(({ begin, period, end }) => drawn.slice(begin + period, end).forEach(({ button }) => { button.hidden = on; }));
    badges.forEach((badge) => { badge.hidden = !on; });
    fold.setAttribute("aria-pressed", on);
  };
  setFolded(true);
  return [
    element("p", { class: "tools" },
      repeated.length ? fold : undefined,
      element("button", { type: "button", onclick: () => all(true) }, "open all"),
      element("button", { type: "button", onclick: () => all(false) }, "close all")),
    element("div", { class: "strip" }, drawn.map(({ button }) => button)),
    opened,
  ];
}

// Runs of layers in which every layer has the same kernels and bytes as the one a period before it, at least two periods. From
// the left, the longest run from each layer; of equally long ones, that of the shortest period.
function repetitions(layers, steps) {
  const signatures = layers.map((layer) => layer.steps.map((step) => `${steps[step].kernel} ${steps[step].bytes}`).join("|"));
  const from = (begin) => {
    let found;
    for (let period = 1; begin + 2 * period <= layers.length; period += 1) {
      let end = begin + period;
      while (end < layers.length && signatures[end] === signatures[end - period]) end += 1;
      end -= (end - begin) % period;
      if (end >= begin + 2 * period && end > (found?.end ?? 0)) found = { begin, period, end };
    }
    return found;
  };
  const runs = [];
  for (let begin = 0; begin < layers.length; begin += 1) {
    const run = from(begin);
    if (!run) continue;
    runs.push(run);
    begin = run.end - 1;
  }
  return runs;
}

// Runs of steps that come from the same part of the layer.
function runs(layer, steps) {
  const runs = [];
  for (const index of layer.steps) {
    const part = steps[index].source;
    if (runs.at(-1)?.part !== part) runs.push({ part, steps: [] });
    runs.at(-1).steps.push(index);
  }
  return runs;
}

function column(entry, index, layer, steps, edges) {
  const top = new Map();
  const frames = [];
  let y = 26;
  for (const run of runs(layer, steps)) {
    const begin = y;
    y += STEP.frame;
    for (const step of run.steps) {
      top.set(step, y);
      y += STEP.height + STEP.gap;
    }
    frames.push(shape("rect", { class: "frame", x: 4, y: begin, width: STEP.width + 20, height: y - begin - 4, rx: 5 }),
      shape("text", { class: "part-name", x: 10, y: begin + 14 }, run.part.slice(layer.name.length).replace(/^\./, "") || run.part));
    y += 6;
  }
  const lines = arcs(edges, top, y);
  const boxes = [...top].map(([step, y]) => box(entry, step, steps[step], y));
  const width = STEP.width + 34 + lines.width;
  const svg = shape("svg", { class: "column", viewBox: `0 0 ${width} ${y + 24}`, width, height: y + 24, role: "img", "aria-label": `Steps of ${layer.name}` },
    frames, lines.shapes, boxes);
  const caption = element("figcaption", {}, element("b", {}, layer.name), ": ",
    number(pointer("steps", entry, "layers", index, "bytes")), " bytes, ",
    number(pointer("steps", entry, "layers", index, "operations")), " operations");
  return [caption, svg];
}

function box(entry, index, step, y) {
  const about = `${step.kernel}(${step.args.join(", ")})\n${step.source}\n${integer(step.bytes)} bytes, ${integer(step.operations)} operations, bound by ${step.bound}`;
  return shape("g", { class: `step ${step.bound}`, transform: `translate(${STEP.left} ${y})` },
    shape("title", {}, about),
    shape("rect", { width: STEP.width, height: STEP.height, rx: 4 }),
    shape("text", { x: 8, y: 13 }, `${index}  ${step.op}`),
    shape("text", { class: "small", x: 8, y: 25 }, `${scaled(step.bytes, "B")}, ${scaled(step.operations, "OP")}${step.barrier ? ", waits" : ""}`));
}

// Lines beside the steps, each in the leftmost lane that is free; those from or to other layers end above and below.
function arcs(edges, top, bottom) {
  const order = [...top.keys()];
  const inside = edges.filter(({ from, to }) => top.has(from) || top.has(to));
  const ends = inside.map((edge) => ({
    ...edge,
    begin: top.has(edge.from) ? top.get(edge.from) + STEP.height - 6 : 8,
    end: top.has(edge.to) ? top.get(edge.to) + 6 : bottom + 14,
    next: top.has(edge.from) && order.indexOf(edge.to) === order.indexOf(edge.from) + 1,
  }));
  const lanes = [];
  const shapes = [];
  const right = STEP.left + STEP.width;
  for (const edge of ends.sort((a, b) => (a.end - a.begin) - (b.end - b.begin))) {
    const title = shape("title", {}, `b${edge.buffer}: step ${edge.from} to step ${edge.to}`);
    if (edge.next && !shapes.some((other) => other.dataset.from === String(edge.from))) {
      const x = STEP.left + STEP.width / 2;
      shapes.push(shape("path", { class: "line", "data-from": edge.from, d: `M${x} ${edge.begin + 6}V${edge.end - 7}l-3 -5m3 5l3 -5` }, title));
      continue;
    }
    let lane = lanes.findIndex((taken) => taken.every(([begin, end]) => edge.end < begin || edge.begin > end));
    if (lane < 0) lane = lanes.push([]) - 1;
    lanes[lane].push([edge.begin, edge.end]);
    const x = right + 14 + lane * LANE;
    const begin = top.has(edge.from) ? `M${right} ${edge.begin}H${x}` : `M${x} ${edge.begin}`;
    const end = top.has(edge.to) ? `V${edge.end}H${right}m5 -3l-5 3l5 3` : `V${edge.end}m-3 -5l3 5l3 -5`;
    shapes.push(shape("path", { class: "line", d: begin + end }, title));
  }
  return { shapes, width: lanes.length * LANE };
}
