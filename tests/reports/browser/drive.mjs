// Drives a report in headless Chromium and prints what it saw as JSON. Usage: node drive.mjs CHROMIUM REPORT [SHOTS]
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [chromiumPath, report, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: chromiumPath, args: quiet });
const seen = { errors: [], requests: [], ready: [], picks: [], axe: [], overflow: {}, dialogs: [] };

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) seen.errors.push(m.text()); });
  page.on("dialog", (d) => { seen.dialogs.push(d.message()); d.dismiss(); });
  page.on("pageerror", (e) => seen.errors.push(e.message));
  page.on("request", (r) => { if (!/^(file|data):/.test(r.url())) seen.requests.push(r.url()); });
  await page.goto("file://" + report);
  await page.waitForSelector("html[data-ready]");
  return page;
}

for (let i = 0; i < 3; i++) {
  const page = await open();
  seen.ready.push(Number(await page.getAttribute("html", "data-ready")));
  await page.context().close();
}

const page = await open();
const sliders = await page.$$eval("#sliders input", (list) => list.map((n) => n.id));
let turn = 7;
const draw = (n) => { turn = (turn * 1103515245 + 12345) % 2147483648; return Math.floor((turn / 2147483648) * n); };
for (let i = 0; i < 60; i++) {
  const id = sliders[draw(sliders.length)], step = draw(4) === 0 ? 240 : draw(241);
  seen.picks.push(await page.evaluate(([id, step]) => {
    const input = document.getElementById(id);
    input.value = step;
    input.dispatchEvent(new Event("input"));
    return { budget: { ...state.budget }, key: document.getElementById("picked").dataset.key, nearest: document.getElementById("picked").dataset.nearest, text: document.getElementById("picked").innerText };
  }, [id, step]));
}
await page.click("#reset");
seen.reset = await page.evaluate(() => document.getElementById("picked").dataset.key);

// the chart: hover, click, keyboard
const other = await page.evaluate(() => (DATA.models.find((m) => m.front && m !== state.model) || DATA.models.find((m) => m !== state.model)).key);
const mark = page.locator(`#chart [data-key="${other}"]`);
await mark.scrollIntoViewIfNeeded();
const box = await mark.boundingBox();
await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
seen.tip = await page.locator("#tip").innerText();
await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
seen.clicked = await page.evaluate(() => ({ key: state.model.key, title: document.getElementById("chosen-h").innerText, row: document.querySelector("#table tr.sel")?.dataset.key, name: state.model.name }));
await page.locator('#chart [tabindex="0"]').focus();
await page.keyboard.press("ArrowRight");
seen.focused = await page.evaluate(() => document.activeElement.dataset.key);
await page.keyboard.press("Enter");
seen.entered = await page.evaluate(() => state.model.key);
seen.axes = [];
const measuresMemory = await page.evaluate(() => DATA.models.some((m) => m.memory != null));
for (const [x, y] of [["size", "accuracy"], ["speedup", "size"], [measuresMemory ? "memory" : "accuracy", "latency"]]) {
  await page.selectOption("#x-axis", x);
  await page.selectOption("#y-axis", y);
  seen.axes.push(await page.locator("#chart .model").count());
}

// the table: sort, filter, rows
const column = (i) => page.$$eval("#table tbody tr", (rows, i) => rows.map((r) => r.children[i].innerText), i);
await page.click('[data-sort="size"]');
seen.sorted = await page.$$eval("#table tbody tr", (rows) => rows.map((r) => BY_KEY.get(r.dataset.key).size));
await page.click('[data-sort="size"]');
seen.reversed = await page.$$eval("#table tbody tr", (rows) => rows.map((r) => BY_KEY.get(r.dataset.key).size));
seen.table = await page.$$eval("#table tbody tr", (rows) => rows.map((r) => [r.dataset.key, ...[...r.children].map((c) => c.textContent.replaceAll("\u00a0", " "))]));
seen.figures = await page.$$eval("#figures dd", (list) => list.map((n) => n.textContent.replaceAll("\u00a0", " ")));
await page.fill("#find", "int8");
seen.filtered = await column(0);
await page.fill("#find", "");
seen.contents = await page.locator(".contents").innerText();
await page.selectOption("#rows", "failed");
seen.failed = await page.locator("#table tbody tr").count();
await page.selectOption("#rows", "trials");
seen.partly = await page.$$eval("#table tbody tr", (rows) => rows.filter((r) => r.textContent.includes("scored in part")).map((r) => r.dataset.key));
seen.partlyTips = await page.evaluate(() => TRIALS.filter((t) => describe(t).some((line) => line.includes("a part of the split"))).map((t) => t.key));
seen.legend = await page.locator("#legend").innerText();
seen.hollow = await page.locator('#chart .trial[fill="none"]').count();
await page.selectOption("#rows", "models");
seen.kinds = await page.evaluate(() => { const before = state.model; const out = DATA.models.map((m) => { choose(m); return [m.key, byId("chosen-kind").textContent]; }); choose(before); return out; });
seen.trust = await page.locator("#trust-body").innerText();

// details, tabs, downloads
await page.click("#chosen summary");
await page.waitForSelector("#chosen details table");
seen.layers = await page.locator("#chosen details tbody tr").count();
seen.layerModel = await page.evaluate(() => state.model.key);
seen.layerHead = await page.$$eval("#chosen details thead th", (list) => list.map((n) => n.textContent));
seen.layerTable = await page.$$eval("#chosen details tbody tr", (rows) => rows.map((r) => [...r.children].map((c) => c.textContent.replaceAll("\u00a0", " "))));
seen.audit = await page.locator("#chosen .audit").innerText();
// every word of the page but programs and the round figures at axes
seen.words = await page.evaluate(() => { const copy = document.body.cloneNode(true); for (const n of copy.querySelectorAll("script, style, pre, svg, noscript, select")) n.replaceWith(" "); for (const n of copy.querySelectorAll("*")) n.append(" "); return copy.textContent; });
seen.strips = await page.$$eval("#chosen .layers svg text", (list) => list.map((n) => n.textContent));
await page.click("#tab-1");
seen.cpp = await page.locator("#snippet").innerText();
const [file] = await Promise.all([page.waitForEvent("download"), page.click('a[download="outcomes.csv"]')]);
seen.csv = readFileSync(await file.path(), "utf8");
await page.context().close();

for (const [name, options] of [["light", {}], ["dark", { colorScheme: "dark" }], ["phone", { viewport: { width: 390, height: 844 } }]]) {
  const p = await open({ ...options, bypassCSP: true }); // the policy rightly keeps the checker's script out otherwise
  await p.evaluate(axe);
  const found = await p.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const v of found.violations) seen.axe.push({ page: name, id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 4).map((n) => n.html.slice(0, 160) + " :: " + n.failureSummary.slice(0, 300)) });
  seen.overflow[name] = await p.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (shots) await p.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
  await p.context().close();
}
await browser.close();
process.stdout.write(JSON.stringify(seen));
