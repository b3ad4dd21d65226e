// Measured times against the machine: the bound on tokens per second, a roofline with a point for each kernel, and the work of
// another plan beside this one's.

// Where the file has no peaks: a guess for two cores, and an H100's data sheet.
const MACHINES = {
  cpu: { bytes_per_s: 20e9, operations_per_s: 200e9, of: "two cores, a guess" },
  sm_90a: { bytes_per_s: 3.35e12, operations_per_s: 989e12, of: "an H100" },
};

function machine() {
  const measured = plan.measured?.find(({ peaks }) => peaks)?.peaks;
  if (measured) return { ...measured, of: `${measured.threads} thread${measured.threads === 1 ? "" : "s"}, measured` };
  return MACHINES[plan.kind] ?? MACHINES.cpu;
}

// Three digits, or all of the integer.
function rounded(value) {
  return value >= 100 ? integer(value) : value.toPrecision(3);
}

function kindOf(entry) {
  return plan.steps[entry].entry.split(" ")[0];
}

// The measurements of an entry's kind: those with a rate first.
function measuredOf(entry) {
  const all = (plan.measured ?? []).map((file) => ({ file, ...file.entries.find((other) => other.entry === kindOf(entry)) }));
  return all.filter(({ kernels }) => kernels?.length).sort((a, b) => (b.tokens_per_s ?? 0) - (a.tokens_per_s ?? 0))[0];
}

// Decode of one sequence reads all of its bytes for every token.
function bound() {
  const entry = plan.work.findIndex(({ entry }) => entry.startsWith("decode"));
  if (entry < 0) return;
  const { bytes } = plan.work[entry].total;
  const { bytes_per_s, of } = machine();
  const rate = element("b", {});
  const share = element("span", {});
  const measured = plan.measured?.map(({ entries }) => entries.find(({ entry }) => entry === "decode")?.tokens_per_s).find(Boolean);
  const input = element("input", { type: "number", min: 0.1, step: "any", value: +(bytes_per_s / 1e9).toPrecision(4), "aria-label": "Memory bandwidth in GB/s" });
  const update = () => {
    const most = Number(input.value) * 1e9 / bytes;
    rate.textContent = rounded(most);
    share.textContent = measured ? ` Measured: ${rounded(measured)} tokens/s, ${(100 * measured / most).toFixed(0)} % of it.` : "";
  };
  input.addEventListener("input", update);
  document.getElementById("bound").append(
    "At most ", rate, " tokens/s: decode moves ", number(pointer("work", entry, "total", "bytes")),
    " bytes for a token of one sequence, and memory moves ", input, ` GB/s (${of}).`, share);
  update();
}

const PLOT = { width: 760, height: 380, left: 74, right: 18, top: 16, bottom: 44 };

// Powers of ten between two numbers.
function decades(begin, end) {
  const found = [];
  for (let power = Math.floor(Math.log10(begin)); power <= Math.ceil(Math.log10(end)); power += 1) found.push(10 ** power);
  return found;
}

function roofline(entry) {
  const measured = measuredOf(entry);
  if (!measured) {
    return [element("p", { class: "note" }, "No measured times. ",
      element("code", {}, "jamba bench PLAN --json > bench.json"), ", then ",
      element("code", {}, "jambac inspect PLAN --html PAGE --measured bench.json"), " adds them; a trace of ",
      element("code", {}, "jamba run --trace"), " does too.")];
  }
  const { bytes_per_s, operations_per_s, of } = machine();
  const all = measured.kernels.reduce((sum, kernel) => sum + kernel.seconds, 0);
  const points = measured.kernels.map((kernel, index) => ({
    ...kernel, index, share: kernel.seconds / all, x: kernel.operations / kernel.bytes, y: kernel.operations / kernel.seconds,
  }));
  const rate = measured.tokens_per_s ? `${rounded(measured.tokens_per_s)} tokens/s, ` : "";
  return [
    element("p", { class: "note" }, `${measured.file.file}: ${rate}${measured.file.device}. Peaks of ${of}: ${scaled(bytes_per_s, "B/s")}, ${scaled(operations_per_s, "OP/s")}. The area of a point is its share of the time.`),
    element("div", { class: "scroll" }, plot(points.filter(({ x, y }) => x > 0 && y > 0 && Number.isFinite(x) && Number.isFinite(y)), bytes_per_s, operations_per_s)),
    table([left("kernel"), right("steps"), right("ms"), right("of time"), right("GB/s"), right("of peak"), right("GOP/s"), right("of peak"), right("OP/B")],
      points.map((point) => kernelRow(point, bytes_per_s, operations_per_s))),
  ];
}

function kernelRow(point, bytes_per_s, operations_per_s) {
  const end = (text) => element("span", { class: "end" }, text);
  const percent = (part) => end(`${(100 * part).toFixed(0)}\u202f%`);
  const [bytes, operations] = [point.bytes / point.seconds, point.operations / point.seconds];
  return [
    element("span", {}, element("i", { class: `key point-${point.index % 10}` }), element("code", {}, point.symbol)),
    end(String(point.steps)), end((1e3 * point.seconds).toFixed(2)), percent(point.share),
    end((bytes / 1e9).toFixed(1)), percent(bytes / bytes_per_s),
    end((operations / 1e9).toFixed(1)), percent(operations / operations_per_s),
    end(point.bytes ? (point.operations / point.bytes).toFixed(2) : ""),
  ];
}

// Operations a second over operations a byte, both logarithmic, under the roof of the machine.
function plot(points, bytes_per_s, operations_per_s) {
  const ridge = operations_per_s / bytes_per_s;
  const xs = points.map(({ x }) => x).concat(ridge);
  const ys = points.map(({ y }) => y).concat(operations_per_s);
  const [x0, x1] = [Math.min(...xs) / 3, Math.max(...xs) * 3];
  const [y0, y1] = [Math.min(...ys, x0 * bytes_per_s) / 2, Math.max(...ys) * 3];
  const scale = (value, low, high, begin, end) => begin + (end - begin) * Math.log(value / low) / Math.log(high / low);
  const x = (value) => scale(value, x0, x1, PLOT.left, PLOT.width - PLOT.right);
  const y = (value) => scale(value, y0, y1, PLOT.height - PLOT.bottom, PLOT.top);
  const [bottom, rightmost] = [PLOT.height - PLOT.bottom, PLOT.width - PLOT.right];
  const marks = [
    ...decades(x0, x1).filter((value) => value >= x0 && value <= x1).map((value) => [
      shape("path", { class: "grid", d: `M${x(value)} ${PLOT.top}V${bottom}` }),
      shape("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, String(+value.toPrecision(1)))]),
    ...decades(y0, y1).filter((value) => value >= y0 && value <= y1).map((value) => [
      shape("path", { class: "grid", d: `M${PLOT.left} ${y(value)}H${rightmost}` }),
      shape("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, scaled(value, "OP/s"))]),
  ].flat();
  const roof = shape("path", { class: "roof", d: `M${x(x0)} ${y(x0 * bytes_per_s)}L${x(ridge)} ${y(operations_per_s)}H${rightmost}` });
  const largest = [...points].sort((a, b) => b.share - a.share);
  const circles = largest.map((point) => shape("circle", { class: `point-${point.index % 10}`, cx: x(point.x), cy: y(point.y), r: 4 + 18 * Math.sqrt(point.share) },
    shape("title", {}, `${point.symbol}\n${(1e3 * point.seconds).toFixed(3)} ms, ${(100 * point.share).toFixed(0)} % of the time\n${scaled(point.y, "OP/s")}, ${scaled(point.bytes / point.seconds, "B/s")}, ${point.x.toFixed(2)} OP/B`)));
  return shape("svg", { class: "roofline", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": "Roofline" },
    marks, roof, circles, labels(largest, x, y),
    shape("text", { x: rightmost, y: PLOT.height - 8, "text-anchor": "end" }, "operations / byte"));
}

// Names of the points with the most time, each where no other name is.
function labels(points, x, y) {
  const taken = [];
  return points.slice(0, 8).map((point) => {
    const [left, width] = [x(point.x) + 8 + 18 * Math.sqrt(point.share), 7 * point.symbol.length];
    const flipped = left + width > PLOT.width - PLOT.right;
    const begin = flipped ? x(point.x) - 8 - 18 * Math.sqrt(point.share) - width : left;
    let top = y(point.y) + 4;
    for (let tries = 0; tries < 20 && taken.some((other) => Math.abs(other.top - top) < 13 && begin < other.end && other.begin < begin + width); tries += 1) top += 13;
    if (top > PLOT.height - PLOT.bottom) return undefined;
    taken.push({ top, begin, end: begin + width });
    return shape("text", { class: "label", x: begin, y: top }, point.symbol);
  });
}

// Bars of this plan and of the other one, for each kind of kernel.
function beside(entry) {
  const other = plan.against?.work.find(({ entry: name }) => name === plan.work[entry].entry);
  if (!other) return [];
  const ours = plan.work[entry];
  const kinds = [...new Set([...Object.keys(other.kinds), ...Object.keys(ours.kinds)])].sort();
  const columns = ["steps", "barriers", "bytes", "operations"];
  const rows = [["all", other.total, ours.total], ...kinds.map((kind) => [kind, other.kinds[kind], ours.kinds[kind]])];
  const most = (column) => Math.max(1, ...rows.slice(1).flatMap(([, a, b]) => [a?.[column] ?? 0, b?.[column] ?? 0]));
  const bar = (value, column, kind, side) => element("span", { class: "pair" },
    kind === "all" ? undefined : element("i", { class: side, style: `width: ${6 * (value ?? 0) / most(column)}em` }),
    scaled(value ?? 0, ""));
  const row = ([kind, before, after]) => [
    element(kind === "all" ? "b" : "code", {}, kind),
    ...columns.map((column) => element("span", { class: "pairs" }, bar(before?.[column], column, kind, "before"), bar(after?.[column], column, kind, "after"))),
  ];
  const passes = (list) => `${list.length} pass${list.length === 1 ? "" : "es"}`;
  return [
    element("h3", {}, "Beside another plan"),
    element("p", { class: "note" }, element("i", { class: "key before" }), `${plan.against.plan} (${passes(plan.against.passes)}) `,
      element("i", { class: "key after" }), `this plan (${passes(plan.manifest.programs.find(({ kind }) => kind === plan.kind).passes)})`),
    table([left("kind"), ...columns.map(left)], rows.map(row)),
  ];
}
