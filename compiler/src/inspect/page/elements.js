// Making elements. Text goes in as text, never as markup.

const plan = JSON.parse(document.getElementById("plan").textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined));
  return node;
}

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// The value at a JSON pointer of the document.
function at(pointer) {
  const names = pointer.split("/").slice(1).map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
  return names.reduce((value, name) => value[name], plan);
}

function pointer(...names) {
  return names.map((name) => "/" + String(name).replaceAll("~", "~0").replaceAll("/", "~1")).join("");
}

// 1234567 as 1 234 567, in spaces that do not break.
function integer(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

// A number of the document, and where in it.
function number(path) {
  return element("span", { class: "number", "data-path": path }, integer(at(path)));
}

const UNITS = ["", "k", "M", "G", "T", "P"];

// In the unit that suits it: 1.23 MB.
function scaled(value, unit) {
  let power = 0;
  while (value >= 999.5 && power < UNITS.length - 1) {
    value /= 1000;
    power += 1;
  }
  const digits = power === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(digits) + "\u202f" + UNITS[power] + unit;
}

function table(head, rows) {
  const cells = (tag, row) => row.map((cell) => element(tag, { class: cell instanceof Element && cell.matches(".number, .end") ? "end" : false }, cell));
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, head.map((cell) => element("th", { scope: "col", class: cell.end ? "end" : false }, cell.text)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, cells("td", row))))));
}

const left = (text) => ({ text, end: false });
const right = (text) => ({ text, end: true });
