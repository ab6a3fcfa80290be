/* The page: one state, drawn again when it changes. */
const PLAIN = inflated(byId("data").textContent);
const DATA = JSON.parse(PLAIN);
const BASE = DATA.models.find((m) => m.key === DATA.baseline) || null;
const UNIT = DATA.metric.unit;
/** What a share is to a score: values of a metric without natural scale are large or small as the original's is. */
const SCALE = UNIT === "" || UNIT === "%" ? 1 : Math.abs(BASE && BASE.search ? BASE.search[0] : 1) || 1;
const TRIALS = DATA.trials.map(([number, key, name, role, axis, outcome, stage, error, search, latency, speed, size, memory, at, full, reused]) =>
  ({ number, key, name, role, axis, outcome, stage, error, search, latency: latency.length ? latency : null, speed: speed.length ? speed : null, size, memory, at, full: Boolean(full), reused }));
const paired = (a) => (a ? [a[0] - a[3] + a[4], a[0] - a[3] + a[5]] : null);
for (const m of [...DATA.models, ...TRIALS]) m.paired = paired(m.search);
const BY_KEY = new Map(DATA.models.map((m) => [m.key, m]));
const LIMITS = [
  { name: "latency_ms", title: "latency at most", text: MT.msText, flag: (v) => `--latency ${v}ms` },
  { name: "size_bytes", title: "file at most", text: MT.bytesText, flag: (v) => `--size ${v}` },
  { name: "memory_bytes", title: "peak memory at most", text: MT.bytesText, flag: (v) => `--memory ${v}` },
  { name: "max_drop", title: `${UNIT === "" || UNIT === "%" ? "points" : UNIT} lost at most`, text: (v) => (UNIT === "" || UNIT === "%" ? MT.fixed(v, 2) : MT.amount(v / 100)), flag: (v) => `--max-drop ${v}` },
  { name: "min_accuracy", title: `${DATA.metric.name} ${DATA.metric.minimize ? "at most" : "at least"}`, text: (v) => MT.metricText(v, UNIT), flag: (v) => `--min-accuracy ${v}` },
];
const state = {
  x: "latency", y: "accuracy", budget: { ...DATA.budget }, model: BY_KEY.get(DATA.chosen) || null, whiskers: true, others: true, wide: false,
  measured: TRIALS.filter((t) => t.outcome === "MEASURED"), failed: TRIALS.filter((t) => t.outcome !== "MEASURED"),
  rows: "models", sort: "speed", down: true, find: "", all: false, tab: 0,
};
const chart = new Chart(byId("chart"), choose);
const AXIS_WORDS = { none: "the original", formats: "formats only", sparsity: "channels, ranks or zeros", student: "student, or blocks removed" };

const signed = (a) => MT.change(100 * a[3], UNIT);
/** Half of the 95 % interval; nothing where there is none, as for fp32 against itself. */
const margin = (range) => (range[2] > range[1] ? `±${MT.fixed((range[2] - range[1]) / 2, 2)}` : null);
const signedText = (a) => MT.changeText(100 * a[3], UNIT);
function describe(m) {
  const lines = [m.name];
  if (m.outcome && m.outcome !== "MEASURED") return [...lines, `trial ${m.number} failed: ${m.outcome}${m.stage ? " in " + m.stage : ""}`, m.error];
  if (m.speed) lines.push(`${MT.ratio(m.speed[0])} over fp32 (${MT.ratio(m.speed[1])} to ${MT.ratio(m.speed[2])})`);
  if (m.latency) lines.push(`${MT.msText(m.latency[0])}, ${MT.bytesText(m.size)}${m.memory ? `, ${MT.bytesText(m.memory)} peak memory` : ""}`);
  if (m.search) lines.push(`${DATA.metric.name} ${MT.metricText(m.search[0], UNIT)} (${signedText(m.search)}), search split`);
  if (m.search && m.full === false) lines.push("scored on a part of the split only, then given up: it could not matter any more");
  if (m.test) lines.push(`${DATA.metric.name} ${MT.metricText(m.test[0], UNIT)} (${signedText(m.test)}), test split`);
  if (m.front !== undefined) lines.push(m.role === "fp32" ? "the original" : m.role === "baseline" ? "a uniform setting" : m.front ? "on the front" : "certified, not on the front");
  return lines;
}

/* ---- the verdict ------------------------------------------------------------------------------------------------ */
function figures(m) {
  if (!m) return [];
  const a = m.test || m.search, o = m.over && m.over.key !== m.key && m.role !== "fp32" ? m.over : null;
  const entry = (value, small, name, than) => el("div", {}, el("dt", {}, name, o && than ? el("span", { class: "than" }, than) : null), el("dd", {}, value, small ? el("small", {}, small) : null));
  return [
    entry(MT.ratio(m.speed[0]), margin(m.speed), "the speed of fp32", o && `${MT.ratio(o.speed[0])} ${o.name}${o.told ? "" : ": a tie"}`),
    entry(MT.msText(m.latency[0]), null, `one inference, ${m.evidence.replaceAll("-", " ")}`, null),
    entry(MT.bytesText(m.size), MT.percent(m.sizeRatio), "file, share of fp32’s", o && `${MT.percent(o.size)} of ${o.name}`),
    entry(signed(a), UNIT === "" || UNIT === "%" ? "points" : UNIT, `${DATA.metric.name} against fp32, ${m.test ? "test" : "search"}`, o && (Math.abs(o.points) < 0.005 * SCALE ? `the same as ${o.name}` : `${MT.change(o.points, UNIT)} against ${o.name}${o.toldAccuracy ? "" : ": noise"}`)),
  ];
}
function verdict() {
  const m = BY_KEY.get(DATA.chosen);
  put(byId("figures"), ...figures(m));
  put(byId("limits"), ...(m ? m.limits : []).map((l) => {
    const cut = l.text.indexOf(" (");
    return el("li", { class: l.met ? "met" : "missed" }, el("b", { "aria-hidden": "true" }, l.met ? "✓" : "✕"),
      el("span", {}, cut < 0 ? l.text : l.text.slice(0, cut), " ", el("span", { class: "why" }, cut < 0 ? "" : l.text.slice(cut + 1))));
  }));
}

/* ---- budget sliders --------------------------------------------------------------------------------------------- */
const STEPS = 240;
function span(limit) {
  const field = limit.name === "max_drop" ? "drop_points" : limit.name === "min_accuracy" ? "accuracy" : limit.name;
  const values = DATA.models.filter((m) => m.eligible).map((m) => m.judged[field]).filter((v) => v != null);
  if (!values.length) return null;
  const own = DATA.budget[limit.name];
  if (own != null) values.push(own);
  let low = Math.min(...values), high = Math.max(...values);
  if (limit.name === "max_drop") { low = Math.max(0, low); high = Math.max(high, low + 0.1 * SCALE); return { low, high, log: false, power: 2 }; } // fine steps near no loss
  if (limit.name === "min_accuracy") return { low, high, log: false };
  return { low: low * 0.97, high: high * 1.03, log: true };
}
/** Three digits, so that the limit that is shown is the limit that is used. */
const rounded = (v, name) => (name === "max_drop" ? Number(((Math.round((v / SCALE) * 100) / 100) * SCALE).toPrecision(12)) : name === "size_bytes" || name === "memory_bytes" ? Math.round(Number(v.toPrecision(3))) : Number(v.toPrecision(name === "min_accuracy" ? 4 : 3)));
function fromStep(s, step, name) {
  if (name === "min_accuracy" ? step === 0 : step === STEPS) return null;
  const share = step / STEPS;
  return rounded(s.log ? s.low * Math.pow(s.high / s.low, share) : s.low + (s.high - s.low) * Math.pow(share, s.power || 1), name);
}
function toStep(s, value, name) {
  if (value == null) return name === "min_accuracy" ? 0 : STEPS;
  const share = s.log ? Math.log(value / s.low) / Math.log(s.high / s.low) : Math.pow(Math.max(0, (value - s.low) / (s.high - s.low || 1)), 1 / (s.power || 1));
  return Math.max(0, Math.min(STEPS, Math.round(share * STEPS)));
}
function sliders() {
  const host = byId("sliders");
  host.replaceChildren();
  for (const limit of LIMITS) {
    const s = span(limit);
    if (!s || (limit.name === "min_accuracy" && DATA.budget.min_accuracy == null) || !(s.high > s.low)) continue;
    const out = el("output", { for: `limit-${limit.name}` });
    const show = () => { const v = state.budget[limit.name]; out.textContent = v == null ? "any" : limit.text(v); input.setAttribute("aria-valuetext", out.textContent); };
    const input = el("input", { type: "range", id: `limit-${limit.name}`, min: 0, max: STEPS, step: 1, oninput: () => {
      state.budget[limit.name] = fromStep(s, Number(input.value), limit.name); show(); repick(); } });
    input.value = toStep(s, state.budget[limit.name], limit.name);
    show();
    host.append(el("div", { class: "slider" }, el("label", { for: `limit-${limit.name}` }, limit.title, out), input));
  }
}
function command() {
  const flags = LIMITS.filter((l) => state.budget[l.name] != null).map((l) => l.flag(state.budget[l.name]));
  return ["modeltailor pick RUN", ...flags].join(" ");
}
function repick() {
  const candidates = DATA.models.filter((m) => m.eligible).map((m) => ({ key: m.key, speed: m.speed, size: m.size, accuracy: m.accuracy, judged: m.judged }));
  const found = MT.pick(candidates, state.budget, DATA.metric.minimize);
  const host = byId("picked");
  host.dataset.key = found ? found.key : "";
  host.dataset.nearest = "";
  if (!found) {
    const near = MT.nearest(candidates, state.budget, DATA.metric.minimize, BASE && BASE.search && BASE.search[0]);
    host.dataset.nearest = near ? near.model.key : "";
    put(host, el("strong", { class: "none" }, "No model keeps these limits."), near ? ["Nearest is ", isolated(BY_KEY.get(near.model.key).name), `: ${MT.limitText(near.binding, UNIT)}. `] : null,
      "Loosen that limit, or search longer with it.", el("code", {}, command()));
  } else {
    const m = BY_KEY.get(found.key);
    state.model = m;
    const over = m.over && m.over.key !== m.key ? ` ${MT.ratio(m.over.speed[0])} the speed of ${m.over.name}, the best uniform setting for the run’s budget, at ${MT.percent(m.over.size)} of its size.` : "";
    put(host, el("strong", {}, isolated(m.name)), `${MT.ratio(m.speed[0])} the speed of fp32, ${MT.bytesText(m.size)}, ${signedText(m.test || m.search)} of ${DATA.metric.name}.${over}`, el("code", {}, command()));
  }
  refresh();
}

/* ---- models and trials ------------------------------------------------------------------------------------------ */
const withChange = (m, a) => (a ? [MT.metricText(a[0], UNIT), m.role === "fp32" ? el("small", { class: "blank", "aria-hidden": "true" }, signed(a)) : el("small", {}, signed(a))] : "–");
const COLUMNS = [
  { id: "name", title: "model", value: (m) => m.name.toLowerCase() },
  { id: "speed", title: "speedup", value: (m) => (m.speed ? m.speed[0] : null), cell: (m) => (m.speed ? [MT.ratio(m.speed[0]), el("small", {}, margin(m.speed))] : "–") },
  { id: "latency", title: "latency", value: (m) => (m.latency ? m.latency[0] : null), cell: (m) => (m.latency ? MT.msText(m.latency[0]) : "–") },
  { id: "size", title: "file", value: (m) => m.size, cell: (m) => (m.size == null ? "–" : MT.bytesText(m.size)) },
  { id: "memory", title: "memory", value: (m) => m.memory, cell: (m) => (m.memory == null ? "–" : MT.bytesText(m.memory)) },
  { id: "search", title: `${DATA.metric.name}, search`, value: (m) => (m.search ? m.search[0] : null), cell: (m) => withChange(m, m.search) },
  { id: "test", title: `${DATA.metric.name}, test`, value: (m) => (m.test ? m.test[0] : null), cell: (m) => withChange(m, m.test) },
  { id: "meets", title: "in budget", value: (m) => (m.meets ? 1 : 0), cell: (m) => (m.meets === undefined ? "–" : el("span", { class: m.meets ? "yes" : "no" }, m.meets ? "yes" : "no")) },
];
const TRIAL_COLUMNS = [{ id: "number", title: "trial", value: (m) => m.number, cell: (m) => m.number }, COLUMNS[0], ...COLUMNS.slice(1, 6),
  { id: "outcome", title: "outcome", left: true, value: (m) => m.outcome, cell: (m) => (m.outcome === "MEASURED" ? "measured" : isolated(`${m.outcome}${m.stage ? " · " + m.stage : ""}`)) }];
const ROWS = {
  models: { title: "front and uniform settings", rows: () => DATA.models, columns: COLUMNS },
  budget: { title: "those within the budget", rows: () => DATA.models.filter((m) => m.meets), columns: COLUMNS },
  trials: { title: "all trials", rows: () => TRIALS, columns: TRIAL_COLUMNS },
  failed: { title: "failed trials", rows: () => state.failed, columns: TRIAL_COLUMNS },
};
const SHOWN = 40;
/** What the names of the models mean. */
function glossary() {
  if (!DATA.glossary.length) return;
  put(byId("glossary"), el("p", { class: "note" }, `In the names, “${DATA.glossary[0][0]} ×3” are three layers in that format, and “+2” two more formats.`),
    el("dl", { class: "pairs small" }, DATA.glossary.map(([name, text]) => [el("dt", {}, isolated(name)), el("dd", {}, text)])));
}
const columnsOf = (kind) => kind.columns.filter((c) => !["memory", "test"].includes(c.id) || kind.rows().some((m) => c.value(m) != null));
function nameCell(m) {
  const model = BY_KEY.get(m.key), tags = [];
  if (m.key === DATA.best) tags.push(el("span", { class: "tag best" }, "recommended"));
  if (m.role === "baseline") tags.push(el("span", { class: "tag" }, "uniform"));
  if (m.role === "fp32") tags.push(el("span", { class: "tag" }, "original"));
  if (model && model.front && m.number !== undefined) tags.push(el("span", { class: "tag" }, "front"));
  if (m.search && m.full === false) tags.push(el("span", { class: "tag" }, "scored in part"));
  if (m.verdict && !["certified", "compared"].includes(m.verdict)) tags.push(el("span", { class: "tag" }, m.verdict.toLowerCase()));
  const mark = svg("svg", { class: "mark", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, markOf(m.axis, 0, 0, 5.2, paint(m.axis, Boolean(model && model.front))));
  const text = model ? el("button", { type: "button", class: "rowname", onclick: (e) => { e.stopPropagation(); choose(model, true); } }, isolated(m.name)) : isolated(m.name);
  return el("div", { class: "who" }, mark, el("span", {}, text, tags, m.error ? el("div", {}, el("small", {}, isolated(m.error))) : null));
}
function table() {
  const { rows } = ROWS[state.rows], columns = columnsOf(ROWS[state.rows]);
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  let list = rows().filter((m) => { const text = `${m.name} ${m.role} ${m.axis} ${m.outcome || ""} ${m.error || ""} ${m.key}`.toLowerCase(); return words.every((w) => text.includes(w)); });
  const column = columns.find((c) => c.id === state.sort) || columns[0], way = state.down ? -1 : 1;
  list = list.slice().sort((a, b) => { const p = column.value(a), q = column.value(b); if (p == null || q == null) return (p == null) - (q == null); return p < q ? -way : p > q ? way : 0; });
  const kept = state.all ? list : list.slice(0, SHOWN);
  const head = el("tr", {}, columns.map((c) => el("th", { scope: "col", class: c.left || c.id === "name" ? "l" : null, "aria-sort": c === column ? (state.down ? "descending" : "ascending") : null },
    el("button", { type: "button", "data-sort": c.id, onclick: () => { state.down = c.id === state.sort ? !state.down : !["name", "number", "latency", "size", "memory"].includes(c.id); state.sort = c.id; table(); byId("table").querySelector(`[data-sort="${c.id}"]`).focus(); } }, c.title))));
  const body = kept.map((m) => {
    const model = BY_KEY.get(m.key);
    return el("tr", { class: `${model ? "pickable" : ""}${model && model === state.model ? " sel" : ""}`, "data-key": m.key, onclick: model ? () => choose(model) : null },
      columns.map((c) => el("td", { class: c.id === "name" ? "name l" : c.left ? "l" : null }, c.id === "name" ? nameCell(m) : c.cell(m))));
  });
  put(byId("table"), el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
  const note = byId("table-note");
  put(note, `${kept.length} of ${rows().length} shown. Speedup ± is half of the 95 % interval; small figures are changes against fp32${UNIT === "" || UNIT === "%" ? " in points" : ""}. `);
  if (list.length > kept.length) note.append(el("button", { type: "button", class: "quiet", onclick: () => { state.all = true; table(); } }, `Show all ${list.length}`));
}

/* ---- the chosen model ------------------------------------------------------------------------------------------- */
const pairs = (entries) => el("dl", { class: "pairs" }, entries.filter(Boolean).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
const ends = (a, text) => `${text(a[0])} (${text(a[1])} to ${text(a[2])})`;
function accuracyText(a) {
  return `${MT.metricText(a[0], UNIT)} (${MT.metricText(a[1], UNIT)} to ${MT.metricText(a[2], UNIT)}); against fp32 on the same ${a[6]} samples ${MT.changeText(100 * a[3], UNIT)} (${MT.change(100 * a[4], UNIT)} to ${MT.change(100 * a[5], UNIT)})`;
}
function chosenModel() {
  const m = state.model, host = byId("chosen-body");
  if (!m) { byId("chosen-kind").textContent = ""; put(host, el("p", {}, "Nothing has been measured yet.")); return; }
  byId("chosen-kind").textContent = `Layer by layer · trial ${m.trial}${m.key === DATA.best ? " · recommended" : m.role === "fp32" ? " · the original" : m.role === "baseline" ? " · uniform setting" : m.front ? " · on the front" : " · beside the front"}`;
  put(byId("chosen-h"), isolated(m.name));
  const ties = m.ties.map((i) => DATA.models[i].name);
  put(host, el("div", { class: "prose" }, el("p", {}, isolated(m.text)), el("p", {}, el("strong", {}, "What executes: "), m.audit), m.loading ? el("p", {}, el("strong", {}, "Loading: "), m.loading) : null,
      m.nMissing ? el("p", {}, el("strong", {}, "Taken out: "), `${m.nMissing} layer${m.nMissing > 1 ? "s" : ""} of the original: `, isolated(m.missing.join(", ")), m.nMissing > m.missing.length ? " …" : "") : null),
    m.cells.length ? el("div", { class: "layers", tabindex: 0, role: "region", "aria-label": "Layers along the graph" }, layerChart(m)) : null,
    m.cells.length ? layerLegend(m) : null,
    m.cells.length ? lazy("The layers as a table", () => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layers as a table" }, layerTable(m))) : null,
    m.cells.length ? auditSection(m) : null,
    el("div", { class: "cols" },
      pairs([["speedup", ends(m.speed, MT.ratio)], ["latency", ends(m.latency, MT.msText)], ["file", `${MT.bytesText(m.size)}, ${MT.percent(m.sizeRatio)} of fp32`],
        m.memory == null ? null : ["peak memory", `${MT.bytesText(m.memory)} over the bare runtime`], m.load == null ? null : ["load", MT.msText(m.load)]]),
      pairs([["search split", accuracyText(m.search)], ["test split", m.test ? accuracyText(m.test) : "not scored: not a finalist"],
        m.over && m.over.key !== m.key ? ["best uniform", `${m.over.name}: ${MT.ratio(m.over.speed[0])} its speed (${MT.ratio(m.over.speed[1])} to ${MT.ratio(m.over.speed[2])}), ${MT.percent(m.over.size)} of its size, ${MT.changeText(m.over.points, UNIT)} (${m.over.split} split)`] : null,
        ties.length ? ["ties", `${ties.slice(0, 4).join("; ")}${ties.length > 4 ? ` and ${ties.length - 4} more` : ""}: not told apart in speed and ${DATA.metric.name}`] : null])),
    m.limits.length ? el("ul", { class: "limits" }, m.limits.map((l) => el("li", { class: l.met ? "met" : "missed" }, el("b", { "aria-hidden": "true" }, l.met ? "✓" : "✕"), l.text))) : null,
  );
}
function lazy(title, make) {
  const box = el("details", { ontoggle: () => { if (box.open && box.children.length === 1) box.append(make()); } }, el("summary", {}, title));
  return box;
}

/* ---- why believe it --------------------------------------------------------------------------------------------- */
const EVIDENCE = {
  "measured-on-device": "Latencies were measured on the device itself.",
  "measured-here": "Latencies were measured on this machine, which stands in for the device under its threads and limits. The ratio to fp32 is the stable figure; absolute times on the device will differ.",
  predicted: "Latencies were predicted, not measured; their intervals hold the model's error.",
};
function trust() {
  const s = DATA.search, n = DATA.noise, device = DATA.device;
  const facts = (map) => Object.entries(map).map(([k, v]) => [k.replace(/^options\./, "").replaceAll("_", " "), v]);
  put(byId("trust-body"), 
    el("div", { class: "prose" },
      el("p", {}, EVIDENCE[DATA.evidence] || "Nothing has been measured yet.", " Every candidate ran in a fresh process, interleaved with the fp32 original."),
      el("p", {}, n.screening == null ? "" : `While searching, the speedup’s 95 % interval was ±${MT.percent(n.screening, 1)} (median).`, n.final == null ? "" : ` In the final measurement it was ±${MT.percent(n.final, 1)}; ${n.n_finals} models were measured again${n.n_undecided ? `, ${n.n_undecided} of them stayed undecided` : ""}.`),
      el("p", {}, "Accuracy is that of the very ONNX file, run by ONNX Runtime. The search split drove decisions; the test split was scored once, for finalists only. A limit counts as kept only on the unfavourable end of the interval."),
      DATA.notes.length ? [el("h3", {}, "Notes of the run"), el("ul", { class: "notes" }, DATA.notes.map((t) => el("li", {}, isolated(t))))] : null),
    s.failures.length ? [el("h3", {}, `${s.failed} of ${s.trials} trials failed`), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Failed trials by reason" }, el("table", {},
      el("thead", {}, el("tr", {}, ["outcome", "stage", "trials", "what the first one said"].map((h, i) => el("th", { scope: "col", class: i === 2 ? null : "l" }, h)))),
      el("tbody", {}, s.failures.map((f) => el("tr", {}, el("td", { class: "l" }, isolated(f.outcome)), el("td", { class: "l" }, isolated(f.stage || "–")), el("td", {}, f.count), el("td", { class: "name l" }, isolated(f.example)))))))] : el("p", {}, "No trial failed."),
    el("div", { class: "cols", id: "conditions" },
      el("div", {}, el("h3", {}, "Measured on"), pairs(facts(device)), Object.keys(DATA.profile).length ? [el("h3", {}, "Target profile"), pairs(facts(DATA.profile))] : null),
      el("div", {}, el("h3", {}, "Versions and seed"), pairs([["seed", DATA.seed], ["started", DATA.started], ...facts(DATA.environment)]),
        el("h3", {}, "Data"), pairs(Object.entries(DATA.splits).map(([k, v]) => [k, Object.entries(v).map(([a, b]) => (a === "samples" ? `${b} samples` : `${a.replaceAll("_", " ")}: ${b}`)).join(", ")])))),
  );
}

/* ---- the search ------------------------------------------------------------------------------------------------- */
function bars(rows, label, kind) {
  const most = Math.max(...rows.map((r) => Math.max(...r.values)), 1e-12);
  return el("div", { class: kind ? `bars ${kind}` : "bars", role: "list", "aria-label": label }, rows.map((r) => el("div", { role: "listitem", class: "row" }, el("span", { class: "n" }, isolated(r.name)),
    el("span", { class: "two" }, r.values.map((v, i) => { const bar = el("span", { class: i ? "bar alt" : "bar" }); bar.style.display = "block"; bar.style.width = `${(100 * v) / most}%`; return bar; })), el("span", { class: "v" }, r.text))));
}
function curve(points) {
  const W = 520, H = 190, left = 44, bottom = H - 26, top = 12, end = points[points.length - 1][0] || 1;
  const low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]), low + 1e-9);
  const sx = (v) => left + (v / end) * (W - left - 8), sy = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Hypervolume from ${MT.amount(low)} to ${MT.amount(high)} over ${MT.secondsText(end)}` });
  for (const t of ticks(low, high, 4)) root.append(svg("line", { class: "grid", x1: left, x2: W - 8, y1: sy(t), y2: sy(t) }), svg("text", { x: left - 8, y: sy(t) + 4, "text-anchor": "end" }, axisText(MT.amount(t))));
  const unit = end >= 7200 ? 3600 : end >= 120 ? 60 : 1, name = { 3600: "h", 60: "min", 1: "s" }[unit];
  for (const t of ticks(0, end / unit, 5)) root.append(svg("text", { x: sx(t * unit), y: H - 8, "text-anchor": "middle" }, `${axisText(MT.amount(t))} ${name}`));
  root.append(svg("path", { d: points.map((p, i) => (i ? `H${sx(p[0])}V${sy(p[1])}` : `M${sx(p[0])},${sy(p[1])}`)).join(""), fill: "none", stroke: "var(--accent)", "stroke-width": 2 }));
  return el("div", { class: "chart" }, root);
}
function searchSection() {
  const s = DATA.search, total = s.split.reduce((a, r) => a + r[1], 0) || 1;
  put(byId("search-body"), 
    el("p", { class: "prose" }, `${s.trials} trials in ${MT.secondsText(s.seconds)}: ${s.measured} measured, ${s.failed} failed${s.partly ? `; scoring of ${s.partly} was given up early, because they could not matter any more` : ""}${s.reused ? `; figures of ${s.reused} were known from an earlier run on the same file` : ""}. Seed ${DATA.seed}; axes: ${DATA.axes.join(", ")}. `, s.stopped ? el("span", {}, isolated(s.stopped)) : "The search is still going on."),
    el("div", { class: "cols" },
      s.hypervolume.length > 1 ? el("div", { class: "search-curve" }, el("h3", {}, "How far the front has come"), el("p", { class: "note" }, `Hypervolume: how much of the space of ${DATA.metric.name}, speed and size the models found so far cover. It rises with every model that moves the front.`), curve(s.hypervolume)) : null,
      s.split.length ? el("div", {}, el("h3", {}, "Where the time went"), bars(s.split.map(([name, v]) => ({ name, values: [v], text: `${MT.secondsText(v)}, ${MT.percent(v / total)}` })), "Time by stage")) : null),
    s.importance.length ? el("div", { class: "importance" }, el("h3", {}, "Which options mattered"), el("p", { class: "note" }, "How much each option alone tells of the results of the search (adjusted share of explained variance). Effects that options share are counted under each of them."),
      el("ul", { class: "legend" }, el("li", {}, swatch("var(--accent)"), `upper bar: ${DATA.metric.name}`), el("li", {}, swatch("var(--c-sparsity)"), "lower bar: latency")),
      bars(s.importance.map(([name, a, l]) => ({ name, values: [a, l], text: [el("span", {}, MT.percent(a)), el("span", {}, MT.percent(l))] })), "Importance of options", "pair")) : null,
  );
}
const swatch = (colour) => svg("svg", { viewBox: "0 0 15 15", "aria-hidden": "true" }, svg("rect", { x: 0, y: 4, width: 15, height: 8, fill: colour }));

/* ---- take it away ----------------------------------------------------------------------------------------------- */
function csvText() {
  const cell = (v) => { let t = v == null ? "" : String(v); if (typeof v === "string" && /^[=+\-@\t\r]/.test(t)) t = "'" + t; return /[",\n]/.test(t) ? `"${t.replaceAll('"', '""')}"` : t; };
  const head = ["trial", "key", "name", "role", "axis", "outcome", "stage", "error", "on_front", "accuracy", "accuracy_low", "accuracy_high", "difference", "difference_low", "difference_high", "latency_ms", "latency_low_ms", "latency_high_ms", "speedup", "speedup_low", "speedup_high", "size_bytes", "peak_memory_bytes", "evidence", "finished_at_s", "scored_fully"]; // those of outcomes.csv
  const none = [null, null, null], rows = TRIALS.map((t) => [t.number, t.key, t.name, t.role, t.axis, t.outcome, t.stage, t.error, Number(Boolean(BY_KEY.get(t.key) && BY_KEY.get(t.key).front)), ...(t.search ? t.search.slice(0, 6) : [...none, ...none]), ...(t.latency || none), ...(t.speed || none), t.size, t.memory, t.latency ? DATA.evidence : null, t.at, t.search ? Number(t.full) : null]);
  return [head, ...rows].map((r) => r.map(cell).join(",")).join("\n") + "\n";
}
function download(title, name, type, make) {
  const link = el("a", { href: "#take", download: name, onclick: () => { link.href = `data:${type};charset=utf-8,${encodeURIComponent(make())}`; } }, title);
  return link;
}
function take() {
  const m = state.model, file = m ? (m.key === DATA.best ? DATA.snippetFile : m.file) : "";
  const code = (s) => (file ? s.code.replaceAll(DATA.snippetFile, file) : s.code);
  const chosen = DATA.snippets[state.tab];
  const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Language" }, DATA.snippets.map((s, i) => el("button", { type: "button", role: "tab", id: `tab-${i}`, "aria-selected": i === state.tab ? "true" : "false", "aria-controls": "snippet", tabindex: i === state.tab ? 0 : -1,
    onclick: () => { state.tab = i; take(); byId(`tab-${i}`).focus(); },
    onkeydown: (e) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (step) { state.tab = (i + step + DATA.snippets.length) % DATA.snippets.length; take(); byId(`tab-${state.tab}`).focus(); e.preventDefault(); } } }, s.title)));
  const copied = el("span", { role: "status" });
  const copy = el("button", { type: "button", class: "quiet", onclick: async () => { try { await navigator.clipboard.writeText(code(chosen)); copied.textContent = "Copied "; } catch { copied.textContent = "Select the text and copy it "; } } }, "Copy");
  put(byId("take-body"), 
    m && file ? pairs([["file", el("code", {}, isolated(file))], ["SHA-256", el("code", {}, m.sha256 || "–")], ["bytes", String(m.size)]]) : el("p", {}, "The file of this model was not kept."),
    tabs, el("div", { id: "snippet", role: "tabpanel", tabindex: 0, "aria-labelledby": `tab-${state.tab}` }, el("pre", { tabindex: 0 }, el("code", {}, code(chosen)))),
    el("p", { class: "under" }, el("span", {}, chosen.needs), el("span", {}, copied, copy)),
    DATA.snippetsLeftOut ? el("p", { class: "note" }, DATA.snippetsLeftOut) : null,
    el("div", { class: "downloads" }, download("All trials as CSV", "outcomes.csv", "text/csv", csvText), download("This report’s data as JSON", "report-data.json", "application/json", () => PLAIN),
      download("The job file", "job.yaml", "text/yaml", () => DATA.job)),
    lazy("Show the job file", () => el("pre", { tabindex: 0 }, el("code", {}, DATA.job))),
  );
}

/* ---- all together ----------------------------------------------------------------------------------------------- */
function legend() {
  const mark = (axis, solid) => svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, markOf(axis, 0, 0, 6, paint(axis, solid)));
  const present = new Set([...DATA.models, ...state.measured].map((m) => m.axis));
  const items = ["formats", "sparsity", "student", "none"].filter((a) => present.has(a)).map((a) => el("li", {}, mark(a, true), AXIS_WORDS[a]));
  if (DATA.models.some((m) => !m.front)) items.push(el("li", {}, mark("formats", false), "hollow: not on the front"));
  items.push(el("li", {}, svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("circle", { r: 7, fill: "none", stroke: "var(--ink)", "stroke-width": 2 })), "shown below"));
  if (state.model && state.model.ties.length) items.push(el("li", {}, svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("circle", { r: 7, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, "stroke-dasharray": "2.5 2.5" })), "cannot be told apart from it"));
  if (state.others && state.measured.some((t) => !t.full)) items.push(el("li", {}, svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, markOf("formats", 0, 0, 3, { class: "trial", fill: "none", stroke: "var(--c-formats)", "stroke-width": 1.2 })), "small and hollow: scored in part"));
  if (state.failed.length) items.push(el("li", {}, svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("path", { d: "M-4,-4L4,4M4,-4L-4,4", stroke: "var(--bad)", "stroke-width": 1.8 })), "failed: no place in the chart"));
  put(byId("legend"), ...items);
}
function refresh() {
  hideTip();
  chart.draw(state);
  legend();
  table();
  chosenModel();
  take();
}
function choose(model, focus) {
  state.model = model;
  refresh();
  if (focus) { const node = byId("chart").querySelector(`[data-key="${model.key}"]`); if (node) node.focus({ preventScroll: true }); hideTip(); }
}
function controls() {
  const axes = ["latency", "speedup", "size", "accuracy", ...(DATA.models.some((m) => m.memory != null) ? ["memory"] : [])];
  for (const [id, key] of [["x-axis", "x"], ["y-axis", "y"]]) {
    const box = byId(id);
    box.append(...axes.map((a) => el("option", { value: a }, a === "accuracy" ? DATA.metric.name : a === "size" ? "file size" : a === "memory" ? "peak memory" : a)));
    box.value = state[key];
    box.addEventListener("change", () => { state[key] = box.value; chart.draw(state); });
  }
  for (const id of ["whiskers", "others", "wide"]) byId(id).addEventListener("change", (e) => { state[id] = e.target.checked; chart.draw(state); });
  const rows = byId("rows");
  rows.append(...Object.entries(ROWS).map(([k, v]) => el("option", { value: k }, `${v.title} (${v.rows().length})`)));
  rows.addEventListener("change", () => { state.rows = rows.value; state.all = false; if (!ROWS[state.rows].columns.some((c) => c.id === state.sort)) state.sort = "number"; table(); });
  byId("find").addEventListener("input", (e) => { state.find = e.target.value; table(); });
  byId("what-if").addEventListener("submit", (e) => e.preventDefault());
  byId("reset").addEventListener("click", () => { state.budget = { ...DATA.budget }; sliders(); repick(); });
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = byId("theme"), name = () => { theme.setAttribute("aria-pressed", String(dark())); };
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; refresh(); } });
  addEventListener("keydown", (e) => { if (e.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
}
byId("front-note").textContent = unbroken("Filled marks are models that no other beats in accuracy, latency and size together. Whiskers are 95 % intervals; that of the metric is the paired one against fp32. The shaded part keeps the budget. Choose a model to see it everywhere below.");
controls();
glossary();
if (!DATA.models.length) for (const id of ["front", "models", "chosen", "take"]) { byId(id).hidden = true; document.querySelector(`.contents [href="#${id}"]`).hidden = true; }
verdict();
trust();
searchSection();
sliders();
repick();
if (DATA.chosen && !byId("picked").dataset.key) { state.model = BY_KEY.get(DATA.chosen); refresh(); }
document.documentElement.dataset.ready = String(Math.round(performance.now()));
