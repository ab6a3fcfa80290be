"use strict";
/* How numbers are written and which model is picked: the same rules as wording.py and search/front.py. Tests compare both. */
const MT = (() => {
  const MINUS = "\u2212";
  const TIE = 0.02;
  function fixed(value, digits) {
    const text = Math.abs(value).toFixed(digits);
    return value < 0 && Number(text) !== 0 ? MINUS + text : text;
  }
  function amount(value) {
    if (value === 0) return "0";
    return fixed(value, Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(value))))));
  }
  const msText = (v) => (Math.abs(v) < 10000 ? amount(v) + " ms" : amount(v / 1000) + " s");
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
  const metricText = (v, unit) => (unit === "" || unit === "%" ? percent(v, 2) : amount(v) + " " + unit);
  function secondsText(v) {
    const whole = Math.floor(v + 0.5);
    if (whole < 60) return fixed(v, v >= 10 ? 0 : 1) + " s";
    if (whole < 3600) return Math.floor(whole / 60) + " min " + (whole % 60) + " s";
    return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " min";
  }

  /** Names of the limits that a model's judged figures do not keep. */
  function violations(judged, budget, minimize) {
    const broken = [], slack = 1e-9;
    const share = (name, allowed, value) => { if (allowed != null && (value == null || (value - allowed) / allowed > slack)) broken.push(name); };
    share("latency", budget.latency_ms, judged.latency_ms);
    share("size", budget.size_bytes, judged.size_bytes);
    share("memory", budget.memory_bytes, judged.memory_bytes);
    if (budget.max_drop != null && judged.drop_points - budget.max_drop > slack) broken.push("drop");
    if (budget.min_accuracy != null && 100 * (minimize ? 1 : -1) * (judged.accuracy - budget.min_accuracy) > slack) broken.push("accuracy");
    return broken;
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
  /** The recommended model under a budget, or null: models are {key, speedup, size, accuracy, judged}. */
  function pick(models, budget, minimize) {
    const feasible = models.filter((m) => violations(m.judged, budget, minimize).length === 0);
    if (!feasible.length) return null;
    const sign = minimize ? 1 : -1;
    if (budget.max_drop == null && budget.min_accuracy == null)
      return least(feasible, (m) => [sign * m.accuracy, -m.speedup, m.size, m.key]);
    const fastest = Math.max(...feasible.map((m) => m.speedup));
    const tied = feasible.filter((m) => m.speedup >= fastest * (1 - TIE));
    return least(tied, (m) => [m.size, sign * m.accuracy, m.key]);
  }
  return { fixed, amount, msText, bytesText, ratio, percent, points, change, changeText, metricText, secondsText, violations, pick };
})();
if (typeof module !== "undefined") module.exports = MT;
