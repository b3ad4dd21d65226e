// The page: what the plan is, then one of its entries.

function showBuffer(event) {
  const index = event.target.closest("[data-buffer]")?.dataset.buffer;
  if (index === undefined) return;
  const entry = plan.steps.findIndex(({ entry }) => entry === event.currentTarget.dataset.entry);
  const buffer = plan.arena[entry].buffers[index];
  const step = plan.steps[entry].steps[buffer.first];
  document.getElementById("buffer").textContent =
    `b${index}: ${buffer.holds} of ${step.op}, ${step.source}; ${integer(buffer.bytes)} bytes at ${integer(buffer.offset)}, steps ${buffer.first} to ${buffer.last}`;
}

function show(entry) {
  const name = plan.steps[entry].entry;
  document.querySelectorAll("#entries button").forEach((button, index) => button.setAttribute("aria-pressed", index === entry));
  document.querySelectorAll(".drawing").forEach((drawing) => { drawing.hidden = drawing.dataset.entry !== name; });
  document.getElementById("buffer").textContent = "Point at a buffer.";
  document.getElementById("layers").replaceChildren(...layers(entry));
  document.getElementById("roofline").replaceChildren(...roofline(entry));
  document.getElementById("kinds").replaceChildren(...kinds(entry));
  document.getElementById("beside").replaceChildren(...beside(entry));
  document.getElementById("steps").replaceChildren(...stepTable(entry));
}

head();
bound();
pools();
memory();
weights();
document.getElementById("entries").append(...plan.steps.map(({ entry }, index) =>
  element("button", { type: "button", onclick: () => show(index) }, entry)));
for (const drawing of document.querySelectorAll(".drawing")) {
  drawing.addEventListener("pointerover", showBuffer);
  drawing.addEventListener("click", showBuffer);
}
show(0);
