/* Making elements. Text only ever enters as text nodes. */
const NS = "http://www.w3.org/2000/svg";
/** Keeps a number and its unit on one line. */
const unbroken = (text) => text.replace(/(\d) (?=%|[KMG]?B\b|ms\b|s\b|min\b|points\b)/g, "$1\u00a0");
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  const literal = node.tagName === "CODE";
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false)
    node.append(child instanceof Node ? child : document.createTextNode(literal ? String(child) : unbroken(String(child))));
  return node;
}
/** Replaces what a node holds. */
const put = (host, ...children) => { host.replaceChildren(); return fill(host, null, children); };
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
const byId = (id) => document.getElementById(id);
const isolated = (text) => el("bdi", {}, text);

/** A figure on an axis: without idle zeros. */
const axisText = (text) => text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
/** Round values that divide low..high into about count steps. */
function ticks(low, high, count) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const power = Math.pow(10, Math.floor(Math.log10(span / count)));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= (span / count) * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}

/** The mark of a model: its shape says which axis of the search changed it, so colour is never alone. */
function markOf(axis, x, y, size, attributes) {
  if (axis === "sparsity") return svg("rect", { x: x - size * 0.9, y: y - size * 0.9, width: size * 1.8, height: size * 1.8, ...attributes });
  if (axis === "student") return svg("path", { d: `M${x},${y - 1.15 * size}L${x + 1.1 * size},${y + 0.85 * size}H${x - 1.1 * size}Z`, ...attributes });
  if (axis === "none") return svg("path", { d: `M${x},${y - 1.2 * size}L${x + 1.2 * size},${y}L${x},${y + 1.2 * size}L${x - 1.2 * size},${y}Z`, ...attributes });
  return svg("circle", { cx: x, cy: y, r: size, ...attributes });
}
function paint(axis, solid) {
  const colour = `var(--c-${axis})`;
  return solid ? { fill: colour, stroke: "var(--bg)", "stroke-width": 1.2 } : { fill: "var(--bg)", stroke: colour, "stroke-width": 1.8 };
}

const tip = byId("tip");
function showTip(lines, x, y) {
  put(tip, el("b", {}, isolated(lines[0])), ...lines.slice(1).map((l) => el("div", {}, isolated(l))));
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  const left = x + 16 + box.width > wide - 8 ? x - box.width - 16 : x + 16;
  tip.style.left = Math.max(8, left) + window.scrollX + "px";
  tip.style.top = Math.max(8, y - box.height - 10) + window.scrollY + "px";
}
const hideTip = () => { tip.hidden = true; };
