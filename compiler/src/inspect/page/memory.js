// Memory of a plan with other limits: a slider for the context and one for the sequences, and a table of both. The arena and
// the tables are those of this plan; the state grows with the sequences, keys and values with their tokens.

const PAGE_TOKENS = 16;

function bytesFor(context, sequences) {
  const { weights, arena, tables, state_slot, kv_page } = plan.memory;
  const kv = sequences * Math.ceil(context / PAGE_TOKENS) * kv_page;
  const state = sequences * state_slot;
  return { weights, arena, state, kv, tables, total: weights + arena + state + kv + tables };
}

const CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144];
const SEQUENCES = [1, 2, 4, 8, 16, 32, 64];

function tokens(count) {
  return count >= 1024 && count % 1024 === 0 ? `${count / 1024}K` : integer(count);
}

function slider(label, values, value, oninput) {
  const index = Math.max(0, values.findLastIndex((other) => other <= value));
  const text = element("output", {}, tokens(values[index]));
  const range = element("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: index, "aria-label": label });
  range.addEventListener("input", () => {
    text.textContent = tokens(values[range.value]);
    oninput(values[range.value]);
  });
  return { value: values[index], row: element("label", { class: "slider" }, element("span", {}, label), range, text) };
}

function memory() {
  const { max_context, max_sequences } = plan.manifest.limits;
  const bar = element("div", { class: "bar" });
  const keys = element("ul", { class: "keys" });
  const total = element("p", { class: "total", "aria-live": "polite" });
  const cells = new Map();
  const budget = element("input", { type: "number", min: 1, step: "any", "aria-label": "Memory in GB", placeholder: "GB" });
  const chosen = {};
  const update = () => {
    const bytes = bytesFor(chosen.context, chosen.sequences);
    bar.replaceChildren(...POOLS.map((name) => element("span", { class: `part pool-${name}`, style: `flex-grow: ${bytes[name] / bytes.total}`, title: `${name}: ${scaled(bytes[name], "B")}` })));
    keys.replaceChildren(...POOLS.map((name) => element("li", {}, element("i", { class: `key pool-${name}` }), `${name} ${scaled(bytes[name], "B")}`)));
    total.textContent = `${scaled(bytes.total, "B")} for ${chosen.sequences} sequence${chosen.sequences === 1 ? "" : "s"} of ${tokens(chosen.context)} tokens each`;
    for (const [key, cell] of cells) {
      const [context, sequences] = key.split(" ").map(Number);
      const limit = Number(budget.value) * 1e9;
      cell.className = "end" + (limit > 0 ? (bytesFor(context, sequences).total <= limit ? " fits" : " exceeds") : "");
      cell.toggleAttribute("data-chosen", context === chosen.context && sequences === chosen.sequences);
    }
  };
  const context = slider("context", CONTEXTS, max_context, (value) => { chosen.context = value; update(); });
  const sequences = slider("sequences", SEQUENCES, max_sequences, (value) => { chosen.sequences = value; update(); });
  [chosen.context, chosen.sequences] = [context.value, sequences.value];
  const row = (count) => element("tr", {},
    element("th", { scope: "row", class: "end" }, String(count)),
    CONTEXTS.map((length) => {
      const cell = element("td", { class: "end" }, scaled(bytesFor(length, count).total, "B"));
      cells.set(`${length} ${count}`, cell);
      return cell;
    }));
  budget.addEventListener("input", update);
  document.getElementById("memory").append(
    context.row, sequences.row, total, bar, keys,
    element("p", { class: "tools" }, element("label", {}, "mark what fits into ", budget, " GB")),
    element("div", { class: "scroll" }, element("table", { class: "matrix" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col", class: "end" }, "sequences"), CONTEXTS.map((length) => element("th", { scope: "col", class: "end" }, tokens(length))))),
      element("tbody", {}, SEQUENCES.map(row)))),
    element("p", { class: "note" }, "Every sequence with its full context. The arena and the tables are those of this plan; ", element("code", {}, "jambac fit"), " computes them for any limits."));
  update();
}
