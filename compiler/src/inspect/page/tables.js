// The tables of an entry: work by kind of kernel, and the steps, which can be sorted and filtered.

function kinds(entry) {
  const names = Object.keys(plan.work[entry].kinds);
  const cell = (...names) => number(pointer("work", entry, ...names));
  const columns = ["steps", "barriers", "bytes", "operations"];
  const row = (name) => [element("code", {}, name), ...columns.map((column) => cell("kinds", name, column))];
  const all = [element("b", {}, "all"), ...columns.map((column) => cell("total", column))];
  return [
    element("p", { class: "note" }, "The least that a step of ", cell("tokens"), plan.work[entry].tokens === 1 ? " token" : " tokens", " of one sequence reads, writes and computes."),
    table([left("kind"), ...columns.map(right)], [...names.map(row), all]),
  ];
}

const COLUMNS = [
  { name: "step", end: true, key: (step) => step.index },
  { name: "op", key: (step) => step.op },
  { name: "source", key: (step) => step.source },
  { name: "bytes", end: true, key: (step) => step.bytes },
  { name: "operations", end: true, key: (step) => step.operations },
  { name: "operations / byte", end: true, key: (step) => step.operations / Math.max(step.bytes, 1) },
  { name: "bound", key: (step) => step.bound },
  { name: "waits", key: (step) => step.barrier },
  { name: "kernel", key: (step) => step.kernel },
];

function stepTable(entry) {
  const { steps, balance } = plan.steps[entry];
  const rows = steps.map((step, index) => ({ step: { ...step, index }, row: stepRow(entry, { ...step, index }) }));
  const body = element("tbody", {}, rows.map(({ row }) => row));
  const count = element("span", { class: "count", "aria-live": "polite" });
  const words = element("input", { type: "search", placeholder: "filter: mamba, linear, layers.3", "aria-label": "Filter steps", oninput: () => filter() });
  const bound = element("select", { "aria-label": "Bound", onchange: () => filter() },
    ["any bound", "bytes", "operations"].map((name) => element("option", {}, name)));
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { step, row } of rows) {
      const text = `${step.index} ${step.op} ${step.source} ${step.kernel}`.toLowerCase();
      const fits = wanted.every((word) => text.includes(word)) && (bound.selectedIndex === 0 || step.bound === bound.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${rows.length} steps` : `${shown} of ${rows.length} steps`;
  };
  const headers = COLUMNS.map(({ name, end, key }) => {
    const header = element("th", { scope: "col", class: end ? "end" : false, "aria-sort": "none" },
      element("button", { type: "button", onclick: () => sort() }, name));
    const sort = () => {
      // The largest first, as they are looked for; names from the beginning.
      const falling = header.getAttribute("aria-sort") === "none" ? end && name !== "step" : header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      rows.sort((a, b) => (falling ? -1 : 1) * order(key(a.step), key(b.step)) || a.step.index - b.step.index);
      body.append(...rows.map(({ row }) => row));
    };
    return header;
  });
  filter();
  return [
    element("p", { class: "note" }, "A step is bound by operations where it does more than ", number(pointer("steps", entry, "balance")),
      balance === 1 ? " operation" : " operations", " a byte (", element("code", {}, "--balance"), "), else by bytes."),
    element("p", { class: "tools" }, words, bound, count),
    element("div", { class: "scroll tall" }, element("table", { class: "steps" }, element("thead", {}, element("tr", {}, headers)), body)),
  ];
}

function stepRow(entry, step) {
  const path = (name) => pointer("steps", entry, "steps", step.index, name);
  const end = (child) => element("td", { class: "end" }, child);
  return element("tr", {},
    end(String(step.index)),
    element("td", {}, step.op),
    element("td", {}, step.source),
    end(number(path("bytes"))),
    end(number(path("operations"))),
    end((step.operations / Math.max(step.bytes, 1)).toFixed(2)),
    element("td", {}, element("span", { class: `bound ${step.bound}` }, step.bound)),
    element("td", {}, step.barrier ? "yes" : ""),
    element("td", {}, element("code", { title: step.args.join(", ") }, step.kernel)));
}
