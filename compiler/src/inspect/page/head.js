// What the plan is, what it takes, and its weights.

function facts(pairs) {
  return element("dl", { class: "facts" }, pairs.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]).flat());
}

function head() {
  const { model, provenance } = plan.manifest;
  const none = (list) => (list.length ? list.join(", ") : "none");
  const limits = ["max_context", "max_sequences", "kv_tokens", "prefill_chunk", "max_outputs"];
  const sizes = ["n_parameters", "n_layers", "d_model", "vocab"];
  const from = [["compiler", plan.manifest.compiler]];
  if (provenance) {
    from.push(["LLVM", provenance.llvm]);
    from.push(...provenance.options);
    for (const file of provenance.files) {
      from.push([file.name, `${scaled(file.bytes, "B")}, BLAKE3 ${file.blake3.slice(0, 12)} of ${file.covers}`]);
    }
  }
  if (plan.manifest.synthetic_seed !== null) from.push(["synthetic weights", `seed ${plan.manifest.synthetic_seed}`]);
  document.getElementById("head").append(
    element("h1", {}, model.name),
    element("p", { class: "note" }, "plan ", element("code", {}, plan.digest.slice(0, 16)), ", ", number("/file_bytes"), " bytes"),
    element("div", { class: "columns" },
      element("div", {}, element("h2", {}, "Model"), facts([
        ...sizes.map((name) => [name, number(pointer("manifest", "model", name))]),
        ["weights", model.formats.map(([group, format]) => `${group} ${format}`).join(", ")],
        ["targets", none(plan.manifest.programs.flatMap((program) => program.targets))],
        ["passes", none(plan.manifest.programs.find((program) => program.kind === plan.kind).passes)],
      ])),
      element("div", {}, element("h2", {}, "Limits"), facts(limits.map((name) => [name, number(pointer("manifest", "limits", name))]))),
      element("div", {}, element("h2", {}, "Built from"), facts(from))));
}

const POOLS = ["weights", "arena", "state", "kv", "tables"];

function pools() {
  const notes = {
    state: [number("/manifest/limits/max_sequences"), " slots of ", number("/memory/state_slot"), " bytes"],
    kv: ["pages of ", number("/memory/kv_page"), " bytes"],
  };
  const share = (name) => plan.memory[name] / plan.memory.total;
  const part = (name) => element("span", { class: `part pool-${name}`, style: `flex-grow: ${share(name)}`, title: `${name}: ${scaled(plan.memory[name], "B")}` });
  const row = (name) => [
    element("span", {}, element("i", { class: `key pool-${name}` }), name),
    number(pointer("memory", name)),
    element("span", { class: "end" }, scaled(plan.memory[name], "B")),
    element("span", { class: "end" }, (100 * share(name)).toFixed(1) + "\u202f%"),
    element("span", {}, ...(notes[name] ?? [])),
  ];
  document.getElementById("pools").append(
    element("div", { class: "bar", role: "img", "aria-label": "The pools by size" }, POOLS.map(part)),
    table([left("pool"), right("bytes"), right(""), right("share"), left("")], [...POOLS, "total"].map(row)));
}

function weights() {
  const formats = new Map();
  plan.weights.forEach(({ format, bytes }) => formats.set(format, (formats.get(format) ?? 0) + bytes));
  const total = plan.weights.reduce((sum, weight) => sum + weight.bytes, 0);
  const ordered = [...formats].sort((a, b) => b[1] - a[1]);
  const tone = (format) => `format-${ordered.findIndex(([name]) => name === format) % 6}`;
  const part = ([format, bytes]) => element("span", { class: `part ${tone(format)}`, style: `flex-grow: ${bytes / total}`, title: `${format}: ${scaled(bytes, "B")}` });
  const key = ([format, bytes]) => element("li", {}, element("i", { class: `key ${tone(format)}` }), `${format} ${scaled(bytes, "B")}`);
  const row = (weight, index) => [
    element("span", {}, element("i", { class: `key ${tone(weight.format)}` }), weight.format),
    number(pointer("weights", index, "weights")),
    number(pointer("weights", index, "bytes")),
    element("span", { class: "end" }, (100 * weight.bytes / total).toFixed(1) + "\u202f%"),
    element("code", {}, weight.parameters),
  ];
  document.getElementById("weights").append(
    element("div", { class: "bar", role: "img", "aria-label": "Weights by format" }, ordered.map(part)),
    element("ul", { class: "keys" }, ordered.map(key)),
    element("details", {}, element("summary", {}, "by parameter"),
      table([left("format"), right("weights"), right("bytes"), right("share"), left("parameters")], plan.weights.map(row))));
}
