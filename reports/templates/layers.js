/* The chosen model along its graph: bytes as bars, bits as shades, the executed kernel as a band; fp32 as a ghost behind. */
function layersOf(m) {
  const { names, layouts, palette } = DATA.layers;
  return layouts[m.layout].map(([name, kind, elements, macs], i) => {
    const [format, bits, kernel, family] = palette[m.cells[i]];
    return { name: names[name], kind, elements, macs, format, bits, kernel, family, bytes: m.bytes[i], note: m.notes[i] || "" };
  });
}
const shade = (bits) => `var(--b${[1, 2, 3, 4, 6, 8, 16, 32].find((b) => bits <= b) || 32})`;

/** 1, 2, 5, 10 ... up to a value, thinned from the top so that labels on a square-root scale stay apart. */
function roundBelow(highest) {
  const out = [];
  for (let power = Math.pow(10, Math.floor(Math.log10(highest))), last = Infinity; power >= 1 && out.length < 5; power /= 10)
    for (const m of [5, 2, 1]) if (m * power <= highest && Math.sqrt(m * power / highest) < last - 0.17) { out.push(m * power); last = Math.sqrt(m * power / highest); }
  return out;
}

function layerChart(m) {
  const layers = layersOf(m), base = new Map((BASE ? layersOf(BASE) : []).map((l) => [l.name, l]));
  const n = layers.length, room = Math.max(320, byId("chosen-body").clientWidth - 2);
  const step = Math.max(7, Math.min(64, (room - 64) / Math.max(1, n))), W = 64 + step * n + 4, gap = step > 14 ? 3 : 1;
  const H = 250, floor = 168, top = 14;
  const highest = Math.max(...layers.map((l) => Math.max(l.bytes, (base.get(l.name) || l).bytes)), 1);
  const tall = (v) => Math.sqrt(v / highest) * (floor - top); // area under a square root keeps small layers visible
  const root = svg("svg", { width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Stored bytes, storage bits and executed kernel of ${n} layers; the same as a table below` });
  for (const v of roundBelow(highest).filter((v) => tall(v) > 24)) {
    const y = floor - tall(v);
    root.append(svg("line", { x1: 60, x2: W, y1: y, y2: y, stroke: "var(--rule)" }), svg("text", { x: 54, y: y + 4, "text-anchor": "end" }, axisText(MT.bytesText(v))));
  }
  root.append(svg("text", { x: 54, y: floor + 16, "text-anchor": "end" }, "bits"), svg("text", { x: 54, y: floor + 37, "text-anchor": "end" }, "kernel"));
  layers.forEach((l, i) => {
    const x = 62 + i * step, w = step - gap, before = base.get(l.name);
    const lines = [l.name, `${l.format}: ${l.bits} bits stored, ${MT.bytesText(l.bytes)}`, `runs as ${l.kernel}`];
    if (before && BASE !== m) lines.push(`fp32: ${MT.bytesText(before.bytes)}`);
    if (l.macs) lines.push(`${MT.amount(l.macs / 1e6)} million multiply-adds`);
    if (l.note) lines.push(l.note);
    const cell = svg("g", { class: "cell", onpointermove: (e) => showTip(lines, e.clientX, e.clientY), onpointerleave: hideTip });
    cell.append(svg("rect", { x, y: top, width: step, height: H - top - 30, fill: "transparent" }));
    if (before) cell.append(svg("rect", { class: "ghost", x, y: floor - tall(before.bytes), width: w, height: tall(before.bytes) }));
    cell.append(svg("rect", { x, y: floor - Math.max(1.5, tall(l.bytes)), width: w, height: Math.max(1.5, tall(l.bytes)), fill: shade(l.bits) }));
    cell.append(svg("rect", { x, y: floor + 4, width: w, height: 16, fill: shade(l.bits) }));
    if (step >= 17) cell.append(svg("text", { x: x + w / 2, y: floor + 16, "text-anchor": "middle", "font-weight": 600, class: l.bits < 6 ? "deep" : l.bits < 32 ? "mid" : "pale" }, l.bits));
    const band = { x, y: floor + 26, width: w, height: 12, fill: `var(--k-${l.family})` };
    cell.append(svg("rect", l.family === "float" ? { ...band, rx: 0, "fill-opacity": 0.7 } : band));
    if (l.note) cell.append(svg("text", { x: x + w / 2, y: floor + 54, "text-anchor": "middle", class: "flag" }, "!"));
    root.append(cell);
  });
  root.append(svg("text", { x: 62, y: H - 6 }, "input"), svg("text", { x: W - 4, y: H - 6, "text-anchor": "end" }, "output"));
  return root;
}

function layerLegend(m) {
  const layers = layersOf(m);
  const square = (fillWith) => svg("svg", { viewBox: "0 0 15 15", "aria-hidden": "true" }, svg("rect", { x: 1, y: 2, width: 13, height: 12, fill: fillWith }));
  const families = { integer: "8-bit integer kernel", block: "block-wise MatMulNBits", float: "float kernel" };
  const items = [...new Set(layers.map((l) => l.bits))].sort((a, b) => a - b).map((b) => el("li", {}, square(shade(b)), `${b} bits stored`));
  for (const f of Object.keys(families)) if (layers.some((l) => l.family === f)) items.push(el("li", {}, square(`var(--k-${f})`), families[f]));
  items.push(el("li", {}, square("var(--ghost)"), "fp32 original"));
  if (layers.some((l) => l.note)) items.push(el("li", {}, "! differs from what was asked; point at it"));
  return el("ul", { class: "legend" }, items);
}

function layerTable(m) {
  const base = new Map((BASE ? layersOf(BASE) : []).map((l) => [l.name, l]));
  const head = ["layer", "kind", "format", "bits", "executed kernel", "bytes", "of fp32", "note"];
  return el("table", {},
    el("caption", { class: "skip" }, "Layers of the chosen model"),
    el("thead", {}, el("tr", {}, head.map((h, i) => el("th", { scope: "col", class: [0, 1, 2, 4, 7].includes(i) ? "l" : null }, h)))),
    el("tbody", {}, layersOf(m).map((l) => {
      const before = base.get(l.name);
      return el("tr", {}, el("td", { class: "name" }, isolated(l.name)), el("td", { class: "l" }, l.kind), el("td", { class: "l" }, l.format), el("td", {}, l.bits), el("td", { class: "l" }, isolated(l.kernel)),
        el("td", {}, MT.bytesText(l.bytes)), el("td", {}, before && before.bytes ? MT.percent(l.bytes / before.bytes) : "–"), el("td", { class: "l" }, isolated(l.note)));
    })));
}
