"use strict";
/* How numbers are written and which model is picked: the same rules as wording.py and search/front.py. Tests compare both. */
const MT = (() => {
  const MINUS = "\u2212";
  const TIE = 0.02;
  function fixed(value, digits) {
    const text = Number(Math.abs(value).toPrecision(12)).toFixed(digits);
    return value < 0 && Number(text) !== 0 ? MINUS + text : text;
  }
  function amount(value) {
    if (value === 0) return "0";
    return fixed(value, Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(value))))));
  }
  const msText = (v, digits) => {
    const [figure, unit, more] = Math.abs(v) < 10000 ? [v, " ms", 0] : [v / 1000, " s", 3];
    return (digits == null ? amount(figure) : fixed(figure, digits + more)) + unit;
  };
  function bytesText(v) {
    for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["KB", 1e3]])
      if (Math.abs(v) >= size) return amount(v / size) + " " + unit;
    return fixed(v, 0) + " B";
  }
  const ratio = (v) => fixed(v, Math.abs(v) < 10 ? 2 : 1) + "×";
  const percent = (v, digits = 0) => fixed(100 * v, digits) + " %";
  function points(v) {
    const text = fixed(v, 2);
    return text.startsWith(MINUS) ? text : "+" + text;
  }
  /** A signed change of the metric, given in points (percent of 1), without and with its unit. */
  function change(v, unit) {
    if (unit === "" || unit === "%") return points(v);
    const text = amount(v / 100);
    return text.startsWith(MINUS) ? text : "+" + text;
  }
  const changeText = (v, unit) => `${change(v, unit)} ${unit === "" || unit === "%" ? "points" : unit}`;
  const metricText = (v, unit, digits) =>
    unit === "" || unit === "%" ? percent(v, digits == null ? 2 : Math.max(0, digits - 2)) : `${digits == null ? amount(v) : fixed(v, digits)} ${unit}`;
  /** What stands at the marks of an axis: the usual text, with as many decimals as tell neighbours apart where it does not. */
  function tickTexts(values, text) {
    const usual = values.map((v) => text(v));
    if (new Set(usual).size === usual.length) return usual;
    const step = Math.min(...values.slice(1).map((v, i) => v - values[i]));
    const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    return values.map((v) => text(v, digits));
  }
  function secondsText(v) {
    const whole = Math.floor(v + 0.5);
    if (whole < 60) return fixed(v, v >= 10 ? 0 : 1) + " s";
    if (whole < 3600) return Math.floor(whole / 60) + " min " + (whole % 60) + " s";
    return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " min";
  }

  /** How a model's judged figures stand to each limit; excess is a share of the limit, or points of the metric. */
  function margins(judged, budget, minimize) {
    const out = [];
    const add = (limit, allowed, value, excess, points) => { if (allowed != null) out.push({ limit, allowed, value, excess, points, kept: value != null && excess <= 1e-9 }); };
    const share = (limit, allowed, value) => add(limit, allowed, value, value == null ? 1 : (value - allowed) / allowed, false);
    share("latency", budget.latency_ms, judged.latency_ms);
    share("size", budget.size_bytes, judged.size_bytes);
    share("memory", budget.memory_bytes, judged.memory_bytes);
    add("drop", budget.max_drop, judged.drop_points, judged.drop_points - budget.max_drop, true);
    add("accuracy", budget.min_accuracy, judged.accuracy, 100 * (minimize ? 1 : -1) * (judged.accuracy - budget.min_accuracy), true);
    return out;
  }
  const violations = (judged, budget, minimize) => margins(judged, budget, minimize).filter((m) => !m.kept);
  /** The loss that makes a model worthless, as search/scale.py has it; of a score where the original is not known. */
  function worthlessLoss(original, minimize) {
    const isScore = original == null || (!minimize && original >= -1e-9 && original <= 1 + 1e-9);
    return isScore ? 0.1 : 0.5 * Math.abs(original) || 0.1;
  }
  /** An excess of the metric weighs by what makes a model worthless: one point of a score as much as 10 % of a limit. */
  const weight = (m, original, minimize) => (m.points ? m.excess / (100 * worthlessLoss(original, minimize)) : m.excess);
  const LIMIT_NAMES = { latency: "latency", size: "file size", memory: "peak memory", drop: "accuracy loss", accuracy: "accuracy" };
  /** One limit in words, as verdict.py has it. */
  function limitText(m, unit) {
    const name = LIMIT_NAMES[m.limit];
    if (m.value == null) return `${name} not kept: it was not measured`;
    const text = (v) => ({ latency: msText, size: bytesText, memory: bytesText, drop: (x) => (unit === "" || unit === "%" ? fixed(x, 2) + " points" : `${amount(x / 100)} ${unit}`), accuracy: (x) => metricText(x, unit) })[m.limit](v);
    const room = m.points ? changeText(Math.abs(m.excess), unit).replace(/^\+/, "") : percent(Math.abs(m.excess), 1);
    const figures = `${["size", "memory"].includes(m.limit) ? "" : "at worst "}${text(m.value)}, limit ${text(m.allowed)}`;
    if (m.kept) return `${name} kept with ${room} to spare (${figures})`;
    if (!m.points && m.excess >= 1) return `${name} missed, ${ratio(1 + m.excess)} what is allowed (${figures})`;
    return `${name} missed by ${room} (${figures})`;
  }
  function least(models, costs) {
    let best = null, bestCost = null;
    for (const m of models) {
      const cost = costs(m);
      let before = best === null;
      for (let i = 0; !before && i < cost.length; i++) {
        if (cost[i] < bestCost[i]) before = true;
        else if (cost[i] > bestCost[i]) break;
      }
      if (before) { best = m; bestCost = cost; }
    }
    return best;
  }
  /** Whether two models cannot be told apart in speed: the interval of the ratio holds 1. */
  function sameSpeed(a, b) {
    const half = (m) => 0.5 * Math.log(Math.max(m.speed[2], 1e-12) / Math.max(m.speed[1], 1e-12));
    return Math.abs(Math.log(a.speed[0] / b.speed[0])) <= Math.hypot(half(a), half(b));
  }
  /** The recommended model under a budget, or null: models are {key, speed: [value, low, high], size, accuracy, judged}. */
  function pick(models, budget, minimize) {
    const feasible = models.filter((m) => violations(m.judged, budget, minimize).length === 0);
    if (!feasible.length) return null;
    const sign = minimize ? 1 : -1;
    if (budget.max_drop == null && budget.min_accuracy == null)
      return least(feasible, (m) => [sign * m.accuracy, -m.speed[0], m.size, m.key]);
    const fastest = feasible.reduce((a, m) => (m.speed[0] > a.speed[0] || (m.speed[0] === a.speed[0] && m.key > a.key) ? m : a));
    const tied = feasible.filter((m) => m.speed[0] >= fastest.speed[0] * (1 - TIE) || sameSpeed(fastest, m));
    const smallest = Math.min(...tied.map((m) => m.size));
    const small = tied.filter((m) => m.size <= smallest * (1 + TIE));
    return least(small, (m) => [sign * m.accuracy, m.size, -m.speed[0], m.key]);
  }
  /** The model whose worst excess is smallest, and the limit that it misses most; null if there is no model. The original's
      value of the metric tells what an excess of it weighs. */
  function nearest(models, budget, minimize, original) {
    const weightOf = (v) => weight(v, original, minimize);
    const worst = (m) => violations(m.judged, budget, minimize).reduce((a, v) => (a === null || weightOf(v) > weightOf(a) ? v : a), null);
    const model = least(models, (m) => { const w = worst(m); return [w === null ? 0 : Math.max(0, weightOf(w)), m.key]; });
    return model && { model, binding: worst(model) };
  }
  return { margins, nearest, limitText, fixed, amount, msText, bytesText, ratio, percent, points, change, changeText, metricText, secondsText, tickTexts, violations, pick };
})();
if (typeof module !== "undefined") module.exports = MT;
