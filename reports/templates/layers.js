/* The chosen model along its graph, one column a layer: bytes and time as bars with fp32 as a ghost behind, the rest as a heatmap. */
let sensitivities = null;
function layersOf(m) {
  sensitivities ??= new Map(DATA.layers.sensitivities.map(([name, format, value]) => [`${name}|${format}`, value]));
  const { names, layouts, palette } = DATA.layers, at = (list, i) => (list ? list[i] : null);
  return layouts[m.layout].map(([name, kind, elements, macs, channels, kept, rank], i) => {
    const [format, bits, kernel, family] = palette[m.cells[i]];
    return { name: names[name], kind, elements, macs, channels, kept, rank, format, bits, kernel, family, bytes: m.bytes[i], note: m.notes[i] || "",
      bytesOf: at(m.bytesOf, i), time: at(m.time, i), ms: at(m.ms, i), timeOf: at(m.timeOf, i), zeros: at(m.zeros, i), sensitivity: sensitivities.get(`${name}|${format}`) ?? null };
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

/** Everything that is known of one layer, line by line. */
function layerLines(l, before, m) {
  const lines = [l.name, `${l.format}: ${l.bits} bits stored, ${MT.bytesText(l.bytes)}${before && BASE !== m ? `, ${MT.bytesText(before.bytes)} in fp32` : ""}`, `runs as ${l.kernel}`];
  if (l.time != null) lines.push(`${MT.percent(l.time, 1)} of the time, ${MT.msText(l.ms)}${before && before.ms != null && BASE !== m ? `; ${MT.msText(before.ms)} in fp32` : ""}`);
  if (l.sensitivity != null) lines.push(`alone in ${l.format} it changes the outputs by ${MT.amount(l.sensitivity)}`);
  if (l.kept != null && l.kept !== 1) lines.push(`${MT.percent(l.kept)} of its channels kept (${l.channels})`);
  if (l.rank != null) lines.push(`rank ${l.rank}`);
  if (l.zeros) lines.push(`${MT.percent(l.zeros, 1)} of its weights are zero`);
  if (l.macs) lines.push(`${MT.amount(l.macs / 1e6)} million multiply-adds`);
  if (l.note) lines.push(l.note);
  return lines;
}

const LEFT = 92;
/** Rows of the heatmap that tell something about this model: title, share of full colour, text in the cell. */
function stripsOf(layers) {
  const known = layers.map((l) => l.sensitivity).filter((v) => v > 0), low = Math.log(Math.min(...known)), high = Math.log(Math.max(...known));
  return [
    { title: "sensitivity", show: known.length > 0, share: (l) => (l.sensitivity > 0 ? (high > low ? 0.12 + 0.88 * (Math.log(l.sensitivity) - low) / (high - low) : 0.5) : 0), text: () => "" },
    { title: "channels, %", show: layers.some((l) => l.kept != null && l.kept !== 1), share: (l) => l.kept ?? 0, text: (l) => (l.kept == null ? "" : MT.fixed(100 * l.kept, 0)) },
    { title: "zeros, %", show: layers.some((l) => l.zeros >= 0.005), share: (l) => l.zeros ?? 0, text: (l) => (l.zeros == null ? "" : MT.fixed(100 * l.zeros, 0)) },
    { title: "rank", show: layers.some((l) => l.rank != null), share: (l) => (l.rank == null ? 0 : 0.3), text: (l) => (l.rank == null ? "" : l.rank) },
  ].filter((s) => s.show);
}
/** Bars of one figure on a scale with round values, the original's as ghosts behind. */
function layerBars(root, W, top, floor, scale, marks, text) {
  for (const v of marks) {
    const y = floor - scale(v);
    root.append(svg("line", { x1: LEFT - 4, x2: W, y1: y, y2: y, stroke: "var(--rule)" }), svg("text", { x: LEFT - 10, y: y + 4, "text-anchor": "end" }, axisText(text(v))));
  }
}
function layerChart(m) {
  const layers = layersOf(m), base = new Map((BASE ? layersOf(BASE) : []).map((l) => [l.name, l])), ghosts = BASE !== m;
  const n = layers.length, room = Math.max(320, byId("chosen-body").clientWidth - 2);
  const step = Math.max(7, Math.min(64, (room - LEFT - 4) / Math.max(1, n))), W = LEFT + step * n + 4, gap = step > 14 ? 3 : 1;
  const strips = stripsOf(layers), timed = layers.some((l) => l.ms != null);
  const top = 22, floor = 150, band = floor + 24, timeTop = band + 44, timeFloor = timed ? timeTop + 86 : band + 14, heat = timeFloor + 10;
  const flagged = layers.some((l) => l.note), H = heat + strips.length * 20 + (flagged ? 18 : 0) + 20;
  const most = (pick) => Math.max(...layers.map((l) => Math.max(pick(l) || 0, (ghosts && base.get(l.name) && pick(base.get(l.name))) || 0)), 1e-12);
  const highest = most((l) => l.bytes), longest = most((l) => l.ms);
  const tall = (v) => Math.sqrt(v / highest) * (floor - top), long = (v) => (v / longest) * (timeFloor - timeTop); // a square root keeps small layers visible
  const root = svg("svg", { width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Stored bytes, storage bits, executed kernel${timed ? ", time" : ""}${strips.map((s) => `, ${s.title.split(",")[0]}`).join("")} of ${n} layers; the same as a table below` });
  layerBars(root, W, top, floor, tall, roundBelow(highest).filter((v) => tall(v) > 24), MT.bytesText);
  if (timed) layerBars(root, W, timeTop, timeFloor, long, ticks(0, longest, 3).filter((v) => v > 0), MT.msText);
  root.append(svg("text", { x: LEFT, y: 12, class: "title" }, "Stored bytes"));
  if (timed) root.append(svg("text", { x: LEFT, y: timeTop - 10, class: "title" }, "Time"));
  const left = (y, text) => root.append(svg("text", { x: LEFT - 10, y, "text-anchor": "end" }, text));
  left(floor + 16, "bits"); left(band + 11, "kernel");
  strips.forEach((s, k) => left(heat + 13 + 20 * k, s.title));
  layers.forEach((l, i) => {
    const x = LEFT + i * step, w = step - gap, before = base.get(l.name), lines = layerLines(l, before, m);
    const cell = svg("g", { class: "cell", onpointermove: (e) => showTip(lines, e.clientX, e.clientY), onpointerleave: hideTip });
    cell.append(svg("rect", { x, y: top, width: step, height: H - top - 20, fill: "transparent" }));
    const bar = (y, height, colour, name) => cell.append(svg("rect", { class: name || null, x, y: y - height, width: w, height, fill: colour || null }));
    if (before && ghosts) bar(floor, tall(before.bytes), null, "ghost");
    bar(floor, Math.max(1.5, tall(l.bytes)), shade(l.bits));
    cell.append(svg("rect", { x, y: floor + 4, width: w, height: 16, fill: shade(l.bits) }));
    if (step >= 17) cell.append(svg("text", { x: x + w / 2, y: floor + 16, "text-anchor": "middle", "font-weight": 600, class: l.bits < 6 ? "deep" : l.bits < 32 ? "mid" : "pale" }, l.bits));
    cell.append(svg("rect", { x, y: band, width: w, height: 12, fill: `var(--k-${l.family})`, "fill-opacity": l.family === "float" ? 0.7 : null }));
    if (timed && l.ms != null) {
      if (before && before.ms != null && ghosts) bar(timeFloor, long(before.ms), null, "ghost");
      bar(timeFloor, Math.max(1.5, long(l.ms)), `var(--k-${l.family})`);
    }
    strips.forEach((s, k) => {
      const share = s.share(l), y = heat + 20 * k, text = s.text(l);
      cell.append(svg("rect", { x, y, width: w, height: 16, fill: "var(--ghost)" }), svg("rect", { x, y, width: w, height: 16, fill: "var(--heat)", "fill-opacity": share }));
      if (text !== "" && step >= 25) cell.append(svg("text", { x: x + w / 2, y: y + 12, "text-anchor": "middle", class: share > 0.5 ? "on-heat" : "off-heat" }, text));
    });
    if (l.note) cell.append(svg("text", { x: x + w / 2, y: heat + 20 * strips.length + 13, "text-anchor": "middle", class: "flag" }, "!"));
    root.append(cell);
  });
  root.append(svg("text", { x: LEFT, y: H - 4 }, "input"), svg("text", { x: W - 4, y: H - 4, "text-anchor": "end" }, "output"));
  return root;
}

function layerLegend(m) {
  const layers = layersOf(m);
  const square = (fillWith) => svg("svg", { viewBox: "0 0 15 15", "aria-hidden": "true" }, svg("rect", { x: 1, y: 2, width: 13, height: 12, fill: fillWith }));
  const families = { integer: "8-bit integer kernel", block: "block-wise MatMulNBits", float: "float kernel" };
  const items = [...new Set(layers.map((l) => l.bits))].sort((a, b) => a - b).map((b) => el("li", {}, square(shade(b)), `${b} bits stored`));
  for (const f of Object.keys(families)) if (layers.some((l) => l.family === f)) items.push(el("li", {}, square(`var(--k-${f})`), families[f]));
  items.push(el("li", {}, square("var(--ghost)"), "fp32 original"));
  if (layers.some((l) => l.sensitivity > 0)) items.push(el("li", {}, square("var(--heat)"), "sensitivity: the darker, the more this format alone changes the outputs"));
  if (layers.some((l) => l.zeros >= 0.005)) items.push(el("li", {}, "zeros: weights that are zero, most of them by rounding; these kernels do not skip them"));
  if (layers.some((l) => l.note)) items.push(el("li", {}, "! differs from what was asked; point at it"));
  return el("ul", { class: "legend" }, items);
}

const LAYER_COLUMNS = [
  { title: "layer", name: true, cell: (l) => isolated(l.name) },
  { title: "kind", left: true, cell: (l) => l.kind },
  { title: "format", left: true, cell: (l) => l.format },
  { title: "bits", cell: (l) => l.bits },
  { title: "executed kernel", left: true, cell: (l) => isolated(l.kernel) },
  { title: "bytes", cell: (l) => MT.bytesText(l.bytes) },
  { title: "of fp32", of: (l) => l.bytesOf, cell: (l) => MT.percent(l.bytesOf) },
  { title: "time", of: (l) => l.ms, cell: (l) => MT.msText(l.ms) },
  { title: "share", of: (l) => l.time, cell: (l) => MT.percent(l.time, 1) },
  { title: "of fp32’s time", of: (l) => l.timeOf, cell: (l) => MT.percent(l.timeOf) },
  { title: "sensitivity", of: (l) => l.sensitivity, cell: (l) => MT.amount(l.sensitivity) },
  { title: "channels kept", of: (l) => l.kept, says: (l) => l.kept !== 1, cell: (l) => [MT.percent(l.kept), el("small", {}, String(l.channels))] },
  { title: "zeros", of: (l) => l.zeros, says: (l) => l.zeros >= 0.0005, cell: (l) => MT.percent(l.zeros, 1) },
  { title: "rank", of: (l) => l.rank, cell: (l) => l.rank },
  { title: "note", left: true, of: (l) => l.note || null, cell: (l) => isolated(l.note) },
];
function layerTable(m) {
  const layers = layersOf(m), columns = LAYER_COLUMNS.filter((c) => !c.of || layers.some((l) => c.of(l) != null && (!c.says || c.says(l)))), side = (c) => (c.name ? "name" : c.left ? "l" : null);
  return el("table", {},
    el("caption", { class: "skip" }, "Layers of the chosen model"),
    el("thead", {}, el("tr", {}, columns.map((c) => el("th", { scope: "col", class: c.name ? "l" : side(c) }, c.title)))),
    el("tbody", {}, layers.map((l) => el("tr", {}, columns.map((c) => el("td", { class: side(c) }, c.of && c.of(l) == null ? "–" : c.cell(l)))))));
}

/** What the runtime executed in this file, by its own profile. */
function auditSection(m) {
  const a = m.profile;
  if (!a) return el("div", { class: "audit" }, el("h3", {}, "Where the time goes"), el("p", { class: "note" }, "This file was not profiled: only finalists are."));
  const rows = a.compute.map(([precision, share]) => ({ name: `computing in ${precision}`, values: [share], text: MT.percent(share, 1) }));
  if (a.conversions) rows.push({ name: `${a.conversions} conversion${a.conversions > 1 ? "s" : ""} between number formats`, values: [a.conversion], text: MT.percent(a.conversion, 1) });
  if (a.layout >= 0.0005) rows.push({ name: "moving data into other layouts", values: [a.layout], text: MT.percent(a.layout, 1) });
  const others = [a.evidence === "measured-on-device" ? "Profiled by the runtime on the device itself." : "Profiled by the runtime on this machine, which stands in for the device."];
  if (a.between != null) others.push(`${MT.percent(a.between, 1)} of the time is spent between the layers: additions, pooling, conversions.`);
  return el("div", { class: "audit" }, el("h3", {}, "Where the time goes, and why it is not faster"), el("p", {}, el("strong", {}, isolated(a.sentence))),
    rows.length ? bars(rows, "Time by number format") : null, el("p", { class: "note after" }, others.join(" ")),
    a.falls.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What does not run as asked" }, el("table", {},
      el("thead", {}, el("tr", {}, ["not as asked", "asked", "executed", "time", "why"].map((h, i) => el("th", { scope: "col", class: i === 3 ? null : "l" }, h)))),
      el("tbody", {}, a.falls.map(([node, asked, executed, reason, share]) => el("tr", {}, el("td", { class: "name l" }, isolated(node)), el("td", { class: "l" }, isolated(asked)), el("td", { class: "l" }, isolated(executed)), el("td", {}, MT.percent(share, 1)), el("td", { class: "name l" }, isolated(reason))))))) : null,
    a.nFalls > a.falls.length ? el("p", { class: "note" }, `${a.nFalls - a.falls.length} more.`) : null);
}
