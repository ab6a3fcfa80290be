/* The front: any two figures against each other. Reads the page's state, calls back on a choice. */
const QUANTITIES = {
  accuracy: { title: () => `${DATA.metric.name}, search split`, of: (m) => m.search && m.search[0],
    range: (m) => m.search && m.paired, text: (v, digits) => MT.metricText(v, DATA.metric.unit, digits), better: (minimize) => (minimize ? -1 : 1) },
  latency: { title: () => "latency of one inference", of: (m) => m.latency && m.latency[0],
    range: (m) => m.latency && [m.latency[1], m.latency[2]], text: MT.msText, better: () => -1, ratio: true },
  speedup: { title: () => "speedup over fp32", of: (m) => m.speed && m.speed[0],
    range: (m) => m.speed && [m.speed[1], m.speed[2]], text: MT.ratio, better: () => 1, ratio: true },
  size: { title: () => "file size", of: (m) => m.size, range: () => null, text: MT.bytesText, better: () => -1, ratio: true },
  memory: { title: () => "peak memory", of: (m) => m.memory, range: () => null, text: MT.bytesText, better: () => -1, ratio: true },
};
/** The limit of a budget on one quantity, as a value of that quantity; null if none. */
function limitOn(name, budget) {
  if (name === "latency") return budget.latency_ms;
  if (name === "size") return budget.size_bytes;
  if (name === "memory") return budget.memory_bytes;
  if (name === "accuracy") {
    const sign = DATA.metric.minimize ? 1 : -1, base = BASE ? BASE.search[0] : 0;
    const drop = budget.max_drop == null || !BASE ? null : base + (sign * budget.max_drop) / 100;
    const least = budget.min_accuracy;
    if (drop === null || least == null) return drop === null ? least : drop;
    return DATA.metric.minimize ? Math.min(drop, least) : Math.max(drop, least);
  }
  return null;
}

class Chart {
  constructor(host, onChoose) {
    this.host = host;
    this.onChoose = onChoose;
    this.narrow = () => host.clientWidth < 520;
  }

  /** The span that is worth seeing: the front, and whatever lies near it; the rest sticks to the edge. A front also
      holds tiny models that are worth nothing: without "whole scale" the metric is shown near the original's. */
  domain(name, limit) {
    const q = QUANTITIES[name];
    // a front of one or two says little alone: then the uniform settings count as well
    const few = DATA.models.filter((m) => m.front).length < 4;
    let core = DATA.models.filter((m) => few || m.front || m === BASE).map(q.of).filter((v) => v != null);
    let near = DATA.models.map(q.of).filter((v) => v != null);
    if (name === "accuracy" && BASE && !this.state.wide) {
      const reach = Math.max(0.05 * (["", "%"].includes(DATA.metric.unit) ? 1 : Math.abs(BASE.search[0]) || 1), 0.04 * (this.state.budget.max_drop || 0));
      const isClose = (v) => Math.abs(v - BASE.search[0]) <= reach || (v > BASE.search[0]) !== DATA.metric.minimize;
      const close = core.filter(isClose);
      if (close.length >= 2) { this.cut = this.cut || close.length < core.length; core = close; near = near.filter(isClose); }
    }
    if (!core.length) core.push(...near);
    if (!core.length) core.push(0, 1);
    let low = Math.min(...core), high = Math.max(...core);
    const more = [...near, ...(limit == null ? [] : [limit])], factor = low > 0 && q.ratio ? Math.max(1.25, Math.pow(high / low, 0.9)) : null;
    const reach = (high - low) * 0.9 || Math.abs(high) * 0.1 || 1;
    const soft = more.filter((v) => (factor ? v >= low / factor && v <= high * factor : v >= low - reach && v <= high + reach));
    low = Math.min(low, ...soft); high = Math.max(high, ...soft);
    // intervals get room, but leave the models themselves a third of it
    const span = high - low || Infinity, ends = this.state.whiskers ? DATA.models.filter((m) => this.hasWhisker(m)).filter((m) => q.of(m) >= low && q.of(m) <= high).flatMap((m) => q.range(m) || []) : [];
    if (ends.length) [low, high] = [Math.min(low, Math.max(low - span, Math.min(...ends))), Math.max(high, Math.min(high + span, Math.max(...ends)))];
    if (q.ratio && low > 0 && high / low > 2.2) { const room = Math.pow(high / low, 0.06); return [low / room, high * room, true]; }
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad, false];
  }

  /** From a value to its place between two ends; the scale is logarithmic where a factor says more than a difference. */
  scale([low, high, log], from, to) {
    const at = log ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
    return (v) => from + at(Math.min(high, Math.max(low, v))) * (to - from);
  }

  /** Round values whose places are far enough from each other to be read. */
  marksOf([low, high, log], place, count, room) {
    if (!log) return ticks(low, high, count);
    const powers = [], first = Math.floor(Math.log10(low));
    for (let p = first; Math.pow(10, p) <= high; p++) powers.push(Math.pow(10, p));
    const sets = [[1], [1, 2, 5], [1, 2, 3, 5, 7], [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8]];
    let best = [];
    for (const set of sets) {
      const found = powers.flatMap((p) => set.map((m) => m * p)).filter((v) => v >= low && v <= high);
      if (found.every((v, i) => !i || Math.abs(place(v) - place(found[i - 1])) >= room)) best = found;
    }
    return best;
  }

  draw(state) {
    this.state = state;
    const narrow = this.narrow();
    const W = narrow ? 460 : 760, H = narrow ? 420 : 500;
    const box = { left: narrow ? 60 : 68, right: W - 14, top: 30, bottom: H - (state.failed.length && state.others ? 74 : 50) };
    const X = QUANTITIES[state.x], Y = QUANTITIES[state.y];
    const limitX = limitOn(state.x, state.budget), limitY = limitOn(state.y, state.budget);
    this.cut = false;
    const dx = this.domain(state.x, limitX), dy = this.domain(state.y, limitY);
    const sx = this.scale(dx, box.left, box.right), sy = this.scale(dy, box.bottom, box.top);
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${Y.title()} against ${X.title()}; models are listed in the table below` });
    const back = svg("g", { "aria-hidden": "true" });
    root.append(back);
    this.frame(back, box, sx, sy, dx, dy, X, Y, H);
    this.region(back, box, sx, sy, limitX, limitY, X, Y);
    this.spots = [];
    if (state.others) this.trials(back, sx, sy, X, Y, dx, dy);
    if (state.others) this.failures(back, box, H);
    const shownModels = DATA.models.filter((m) => X.of(m) != null && Y.of(m) != null);
    this.stairs(back, shownModels, sx, sy, X, Y);
    if (state.whiskers) this.whiskers(back, shownModels, sx, sy, X, Y, dx, dy);
    root.append(this.marks(shownModels, sx, sy, X, Y, dx, dy));
    root.append(this.labels(shownModels, sx, sy, X, Y, box));
    root.addEventListener("pointermove", (e) => this.hover(e, root, W));
    root.addEventListener("pointerleave", hideTip);
    root.addEventListener("click", (e) => { const s = this.nearest(e, root, W); if (s && s.model) this.onChoose(s.model); });
    this.host.replaceChildren(root);
    byId("wide-box").hidden = !this.cut && !state.wide;
  }

  frame(g, box, sx, sy, dx, dy, X, Y, H) {
    const across = this.marksOf(dx, sx, this.narrow() ? 4 : 6, this.narrow() ? 62 : 54), up = this.marksOf(dy, sy, 6, 26);
    const textsAcross = MT.tickTexts(across, X.text), textsUp = MT.tickTexts(up, Y.text);
    for (const [i, t] of across.entries()) {
      g.append(svg("line", { class: "grid", x1: sx(t), x2: sx(t), y1: box.top, y2: box.bottom }));
      g.append(svg("text", { x: sx(t), y: box.bottom + 18, "text-anchor": "middle" }, axisText(textsAcross[i])));
    }
    for (const [i, t] of up.entries()) {
      g.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: sy(t), y2: sy(t) }));
      g.append(svg("text", { x: box.left - 8, y: sy(t) + 4, "text-anchor": "end" }, axisText(textsUp[i])));
    }
    const arrow = (q, d) => (q.better(DATA.metric.minimize) > 0 ? "higher is better" : "lower is better") + (d[2] ? ", logarithmic" : "");
    g.append(svg("text", { class: "title", x: 0, y: 13 }, `${Y.title()} `, svg("tspan", { "font-weight": 400, fill: "var(--soft)" }, `· ${arrow(Y, dy)}`)));
    g.append(svg("text", { class: "title", x: box.right, y: H - 8, "text-anchor": "end" }, `${X.title()} `, svg("tspan", { "font-weight": 400, fill: "var(--soft)" }, `· ${arrow(X, dx)}`)));
  }

  region(g, box, sx, sy, limitX, limitY, X, Y) {
    if (limitX == null && limitY == null) return;
    const upX = X.better(DATA.metric.minimize) > 0, upY = Y.better(DATA.metric.minimize) > 0;
    const ex = limitX == null ? null : sx(limitX), ey = limitY == null ? null : sy(limitY);
    const left = ex !== null && upX ? ex : box.left, right = ex !== null && !upX ? ex : box.right;
    const top = ey !== null && !upY ? ey : box.top, bottom = ey !== null && upY ? ey : box.bottom;
    g.append(svg("rect", { class: "region", x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) }));
    if (ex !== null) g.append(svg("path", { class: "edge", d: `M${ex},${box.top}V${box.bottom}` }));
    if (ey !== null) g.append(svg("path", { class: "edge", d: `M${box.left},${ey}H${box.right}` }));
  }

  trials(g, sx, sy, X, Y, dx, dy) {
    const taken = new Set(DATA.models.map((m) => m.key));
    for (const t of this.state.measured) {
      if (taken.has(t.key)) continue;
      const vx = X.of(t), vy = Y.of(t);
      if (vx == null || vy == null || vy < dy[0] || vy > dy[1] || vx < dx[0] || vx > dx[1]) continue;
      const colour = `var(--c-${t.axis})`, look = t.full ? { fill: colour } : { fill: "none", stroke: colour, "stroke-width": 1.2 };
      const mark = markOf(t.axis, sx(vx), sy(vy), 3, { class: "trial", ...look });
      g.append(mark);
      this.spots.push({ x: sx(vx), y: sy(vy), trial: t, mark });
    }
  }

  failures(g, box, H) {
    const failed = this.state.failed;
    if (!failed.length) return;
    const y = box.bottom + 36, label = `${failed.length} failed`;
    g.append(svg("text", { x: box.left - 8, y: y + 4, "text-anchor": "end" }, label));
    const step = Math.min(16, (box.right - box.left - 10) / failed.length);
    failed.forEach((t, i) => {
      const x = box.left + 8 + i * step, r = Math.min(3.6, step * 0.4);
      g.append(svg("path", { class: "failed", d: `M${x - r},${y - r}L${x + r},${y + r}M${x + r},${y - r}L${x - r},${y + r}` }));
      this.spots.push({ x, y, trial: t });
    });
  }

  stairs(g, models, sx, sy, X, Y) {
    const upX = X.better(DATA.metric.minimize) > 0 ? 1 : -1, upY = Y.better(DATA.metric.minimize) > 0 ? 1 : -1;
    const points = models.filter((m) => m.front).map((m) => [X.of(m), Y.of(m)]).sort((a, b) => upX * (b[0] - a[0]) || upY * (b[1] - a[1]));
    let best = null, d = "";
    for (const [x, y] of points) {
      if (best !== null && upY * (y - best) <= 0) continue;
      d += best === null ? `M${sx(x)},${sy(y)}` : `H${sx(x)}V${sy(y)}`;
      best = y;
    }
    g.append(svg("path", { class: "stairs", d }));
  }

  hasWhisker(m) { return m.front || m === this.state.model || this.state.measured.length < 80; }

  /** Intervals as lines; one with a bar across its end ends there, one without goes on beyond the picture. */
  whiskers(g, models, sx, sy, X, Y, dx, dy) {
    for (const m of models) {
      if (!this.hasWhisker(m)) continue;
      if (X.of(m) < dx[0] || X.of(m) > dx[1] || Y.of(m) < dy[0] || Y.of(m) > dy[1]) continue;
      const rx = X.range(m), ry = Y.range(m), cx = sx(X.of(m)), cy = sy(Y.of(m));
      let d = "";
      if (rx) d += `M${sx(rx[0])},${cy}H${sx(rx[1])}`;
      if (ry) d += `M${cx},${sy(ry[0])}V${sy(ry[1])}`;
      for (const v of rx || []) if (v >= dx[0] && v <= dx[1]) d += `M${sx(v)},${cy - 3}v6`;
      for (const v of ry || []) if (v >= dy[0] && v <= dy[1]) d += `M${cx - 3},${sy(v)}h6`;
      if (d) g.append(svg("path", { class: m === this.state.model ? "whisker sel" : "whisker", d }));
    }
  }

  marks(models, sx, sy, X, Y, dx, dy) {
    const order = models.slice().sort((a, b) => X.of(a) - X.of(b));
    const list = svg("g", { role: "listbox", "aria-label": "Models of the chart; arrow keys move, Enter chooses" });
    const current = this.state.model;
    order.sort((a, b) => (a === current) - (b === current));
    const byX = models.slice().sort((a, b) => X.of(a) - X.of(b));
    for (const m of order) {
      const x = sx(X.of(m)), y = sy(Y.of(m)), size = m.front ? 6.2 : 5.4;
      const out = X.of(m) < dx[0] || X.of(m) > dx[1] || Y.of(m) < dy[0] || Y.of(m) > dy[1];
      const tied = current && current.ties.includes(DATA.models.indexOf(m));
      const node = svg("g", { class: `model${m === current ? " sel" : ""}${tied ? " tied" : ""}${out ? " out" : ""}`, role: "option",
        tabindex: m === current || (!current && m === order[0]) ? 0 : -1, "aria-selected": m === current ? "true" : "false",
        "aria-label": describe(m).join(", "), "data-key": m.key,
        onfocus: () => { const b = node.getBoundingClientRect(); showTip(describe(m), b.left + b.width / 2, b.top); }, onblur: hideTip,
        onkeydown: (e) => this.keys(e, m, byX, list) },
        svg("circle", { class: "halo", cx: x, cy: y, r: 11 }), markOf(m.axis, x, y, size, paint(m.axis, m.front)));
      list.append(node);
      this.spots.push({ x, y, model: m });
    }
    return list;
  }

  keys(event, m, order, list) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step) {
      const next = order[(order.indexOf(m) + step + order.length) % order.length];
      const node = [...list.children].find((n) => n.dataset.key === next.key);
      for (const n of list.children) n.setAttribute("tabindex", "-1");
      node.setAttribute("tabindex", "0");
      node.focus();
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      this.onChoose(m, true);
      event.preventDefault();
    }
  }

  labels(models, sx, sy, X, Y, box) {
    const g = svg("g", { "aria-hidden": "true", "pointer-events": "none" });
    const used = models.map((m) => ({ x0: sx(X.of(m)) - 7, x1: sx(X.of(m)) + 7, y0: sy(Y.of(m)) - 7, y1: sy(Y.of(m)) + 7 }));
    const current = this.state.model;
    const wanted = [...(current ? [current] : []), ...models.filter((m) => m !== current && (m.role === "fp32" || m.role === "baseline"))];
    for (const m of wanted) {
      if (X.of(m) == null || Y.of(m) == null) continue;
      const limit = m === current ? 34 : 24;
      const text = m.name.length > limit ? m.name.slice(0, limit - 1) + "…" : m.name;
      const w = this.width(text, m === current ? 600 : 450), x = sx(X.of(m)), y = sy(Y.of(m));
      const near = [[x + 13, y - 9, "start"], [x + 13, y + 17, "start"], [x - 13, y - 9, "end"], [x - 13, y + 17, "end"], [x, y - 18, "middle"], [x, y + 27, "middle"]];
      const far = m !== current ? [] : [-44, 52, -78, 86, -112, 120].flatMap((dy) => [[x + 26, y + dy, "start"], [x - 26, y + dy, "end"], [x + 90, y + dy, "start"], [x - 90, y + dy, "end"]]);
      for (const [px, py, anchor] of [...near, ...far]) {
        const a = anchor === "start" ? px : anchor === "end" ? px - w : px - w / 2;
        const r = { x0: a, x1: a + w, y0: py - 11, y1: py + 3 };
        const free = r.x0 > box.left - 4 && r.x1 < box.right + 8 && r.y0 > box.top - 8 && r.y1 < box.bottom && !used.some((u) => u.x0 < r.x1 && u.x1 > r.x0 && u.y0 < r.y1 && u.y1 > r.y0);
        if (!free) continue;
        used.push(r);
        if (!near.some((n) => n[0] === px && n[1] === py)) g.append(svg("path", { class: "leader", d: `M${x},${y}L${anchor === "start" ? px - 4 : px + 4},${py - 4}` }));
        g.append(svg("text", { class: m === current ? "label" : "label minor", x: px, y: py, "text-anchor": anchor }, text));
        break;
      }
    }
    return g;
  }

  /** Width of a text in the units of the picture. */
  width(text, weight) {
    this.pen ??= document.createElement("canvas").getContext("2d");
    if (!this.pen) return text.length * 7.5;
    this.family ??= getComputedStyle(document.body).fontFamily;
    this.pen.font = `${weight} ${this.narrow() ? 14 : 12.5}px ${this.family}`;
    return this.pen.measureText(text).width + 4;
  }

  nearest(event, root, W) {
    const r = root.getBoundingClientRect(), k = W / r.width;
    const x = (event.clientX - r.left) * k, y = (event.clientY - r.top) * k;
    let best = null, reach = 16 * 16;
    for (const s of this.spots) {
      const d = (s.x - x) ** 2 + (s.y - y) ** 2 - (s.model ? 40 : 0);
      if (d < reach) { reach = d; best = s; }
    }
    return best;
  }

  hover(event, root, W) {
    const s = this.nearest(event, root, W);
    if (this.lit) this.lit.classList.remove("lit");
    this.lit = s && s.mark;
    if (this.lit) this.lit.classList.add("lit");
    root.style.cursor = s && s.model ? "pointer" : "";
    if (!s) return hideTip();
    showTip(describe(s.model || s.trial), event.clientX, event.clientY);
  }
}
