/* The front: any two figures against each other. Reads the page's state, calls back on a choice. */
const QUANTITIES = {
  accuracy: { title: () => `${DATA.metric.name}, search split`, of: (m) => m.search && m.search[0],
    range: (m) => m.search && m.paired, text: (v) => MT.metricText(v, DATA.metric.unit), better: (minimize) => (minimize ? -1 : 1) },
  latency: { title: () => "latency of one inference", of: (m) => m.latency && m.latency[0],
    range: (m) => m.latency && [m.latency[1], m.latency[2]], text: MT.msText, better: () => -1 },
  speedup: { title: () => "speedup over fp32", of: (m) => m.speed && m.speed[0],
    range: (m) => m.speed && [m.speed[1], m.speed[2]], text: MT.ratio, better: () => 1 },
  size: { title: () => "file size", of: (m) => m.size, range: () => null, text: MT.bytesText, better: () => -1 },
  memory: { title: () => "peak memory", of: (m) => m.memory, range: () => null, text: MT.bytesText, better: () => -1 },
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
    let core = DATA.models.filter((m) => m.front).map(q.of).filter((v) => v != null);
    if (name === "accuracy" && BASE && !this.state.wide) {
      const reach = Math.max(0.05, 4 * (this.state.budget.max_drop || 0) / 100) * (["", "%"].includes(DATA.metric.unit) ? 1 : Math.abs(BASE.search[0]));
      const close = core.filter((v) => Math.abs(v - BASE.search[0]) <= reach || (v > BASE.search[0]) !== DATA.metric.minimize);
      if (close.length >= 2) { this.cut = this.cut || close.length < core.length; core = close; }
    }
    const near = DATA.models.map(q.of).filter((v) => v != null);
    if (!core.length) core.push(...near);
    if (!core.length) core.push(0, 1);
    let low = Math.min(...core), high = Math.max(...core);
    const reach = (high - low) * 0.9 || Math.abs(high) * 0.1 || 1;
    const soft = [...near, ...(limit == null ? [] : [limit])].filter((v) => v >= low - reach && v <= high + reach);
    low = Math.min(low, ...soft); high = Math.max(high, ...soft);
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad];
  }

  draw(state) {
    this.state = state;
    const narrow = this.narrow();
    const W = narrow ? 460 : 760, H = narrow ? 420 : 500;
    const box = { left: narrow ? 60 : 68, right: W - 14, top: 30, bottom: H - (state.failed.length && state.others ? 74 : 50) };
    const X = QUANTITIES[state.x], Y = QUANTITIES[state.y];
    const limitX = limitOn(state.x, state.budget), limitY = limitOn(state.y, state.budget);
    this.cut = false;
    const [x0, x1] = this.domain(state.x, limitX), [y0, y1] = this.domain(state.y, limitY);
    const clamp = (v, a, b) => Math.min(b, Math.max(a, v));
    const sx = (v) => box.left + (clamp(v, x0, x1) - x0) / (x1 - x0) * (box.right - box.left);
    const sy = (v) => box.bottom - (clamp(v, y0, y1) - y0) / (y1 - y0) * (box.bottom - box.top);
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${Y.title()} against ${X.title()}; models are listed in the table below` });
    const back = svg("g", { "aria-hidden": "true" });
    root.append(back);
    this.frame(back, box, sx, sy, [x0, x1], [y0, y1], X, Y, H);
    this.region(back, box, sx, sy, limitX, limitY, X, Y);
    this.spots = [];
    if (state.others) this.trials(back, sx, sy, X, Y, [x0, x1], [y0, y1]);
    if (state.others) this.failures(back, box, H);
    const shownModels = DATA.models.filter((m) => X.of(m) != null && Y.of(m) != null);
    this.stairs(back, shownModels, sx, sy, X, Y);
    if (state.whiskers) this.whiskers(back, shownModels, sx, sy, X, Y, [x0, x1], [y0, y1]);
    root.append(this.marks(shownModels, sx, sy, X, Y, [x0, x1], [y0, y1]));
    root.append(this.labels(shownModels, sx, sy, X, Y, box));
    root.addEventListener("pointermove", (e) => this.hover(e, root, W));
    root.addEventListener("pointerleave", hideTip);
    root.addEventListener("click", (e) => { const s = this.nearest(e, root, W); if (s && s.model) this.onChoose(s.model); });
    this.host.replaceChildren(root);
    byId("wide-box").hidden = !this.cut && !state.wide;
  }

  frame(g, box, sx, sy, dx, dy, X, Y, H) {
    for (const t of ticks(dx[0], dx[1], this.narrow() ? 4 : 6)) {
      g.append(svg("line", { class: "grid", x1: sx(t), x2: sx(t), y1: box.top, y2: box.bottom }));
      g.append(svg("text", { x: sx(t), y: box.bottom + 18, "text-anchor": "middle" }, axisText(X.text(t))));
    }
    for (const t of ticks(dy[0], dy[1], 6)) {
      g.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: sy(t), y2: sy(t) }));
      g.append(svg("text", { x: box.left - 8, y: sy(t) + 4, "text-anchor": "end" }, axisText(Y.text(t))));
    }
    const arrow = (q) => (q.better(DATA.metric.minimize) > 0 ? "higher is better" : "lower is better");
    g.append(svg("text", { class: "title", x: 0, y: 13 }, `${Y.title()} `, svg("tspan", { "font-weight": 400, fill: "var(--soft)" }, `· ${arrow(Y)}`)));
    g.append(svg("text", { class: "title", x: box.right, y: H - 8, "text-anchor": "end" }, `${X.title()} `, svg("tspan", { "font-weight": 400, fill: "var(--soft)" }, `· ${arrow(X)}`)));
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
      const mark = markOf(t.axis, sx(vx), sy(vy), 3, { class: "trial", fill: `var(--c-${t.axis})` });
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

  whiskers(g, models, sx, sy, X, Y, dx, dy) {
    const all = this.state.measured.length < 80;
    for (const m of models) {
      if (!(m.front || m === this.state.model || all)) continue;
      if (X.of(m) < dx[0] || X.of(m) > dx[1] || Y.of(m) < dy[0] || Y.of(m) > dy[1]) continue;
      const rx = X.range(m), ry = Y.range(m), cx = sx(X.of(m)), cy = sy(Y.of(m));
      let d = "";
      if (rx) d += `M${sx(rx[0])},${cy}H${sx(rx[1])}`;
      if (ry) d += `M${cx},${sy(ry[0])}V${sy(ry[1])}`;
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
      const w = text.length * (m === current ? 6.9 : 6.4), x = sx(X.of(m)), y = sy(Y.of(m));
      const places = [[x + 13, y - 9, "start"], [x + 13, y + 17, "start"], [x - 13, y - 9, "end"], [x - 13, y + 17, "end"], [x, y - 18, "middle"], [x, y + 27, "middle"]];
      for (const [px, py, anchor] of places) {
        const a = anchor === "start" ? px : anchor === "end" ? px - w : px - w / 2;
        const r = { x0: a, x1: a + w, y0: py - 11, y1: py + 3 };
        const free = r.x0 > box.left - 4 && r.x1 < box.right + 8 && r.y0 > box.top - 8 && r.y1 < box.bottom && !used.some((u) => u.x0 < r.x1 && u.x1 > r.x0 && u.y0 < r.y1 && u.y1 > r.y0);
        if (!free) continue;
        used.push(r);
        g.append(svg("text", { class: m === current ? "label" : "label minor", x: px, y: py, "text-anchor": anchor }, text));
        break;
      }
    }
    return g;
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
