// Charts of one or several Runs: what is along the axis, zoom, smoothing, which names.

import { h, fill, choice, settled } from "./dom.js";
import { elapsed, number, clock } from "./format.js";
import { Chart } from "./chart.js";

const kept = JSON.parse(localStorage.getItem("charts") ?? "{}");
const keep = (given) => localStorage.setItem("charts", JSON.stringify(Object.assign(kept, given)));

/** How all charts of a view are drawn. */
export function chartView(runs, given = {}) {
  return { runs, axis: kept.axis ?? "step", ranks: kept.ranks ?? "band", smoothing: kept.smoothing ?? 0, log: false, first: null, last: null, zoom: () => {}, ...given };
}

export const groupOf = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "");

/**
 * @param {object[]} runs [{key, label, index}]
 * @param {(name: string) => string} title of a group
 * @returns what the caller shows (`element`), and `set(items)`, `touch(key)`, `destroy()`;
 *   an item is {name, title, group, asked}
 */
export function chartGrid(runs, { given = {}, empty = "No series yet." } = {}) {
  const view = chartView(runs, given);
  const charts = new Map();
  let items = [];
  let text = "";
  const closed = new Set();

  const whole = h("button", { type: "button", onclick: () => view.zoom(null, null) }, "Show all");
  const range = h("span.range", { role: "status" });
  const zoomed = h("span.zoomed", { hidden: true }, range, whole);
  const output = h("output", number(view.smoothing));
  const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: view.smoothing, "aria-label": "Smoothing",
    oninput: (event) => { view.smoothing = Number(event.target.value); output.textContent = number(view.smoothing); keep({ smoothing: view.smoothing }); for (const chart of charts.values()) if (chart.visible) chart.draw(); else chart.dirty = true; } });
  const search = h("input", { type: "search", placeholder: "Filter series", "aria-label": "Filter series", oninput: settled((event) => { text = event.target.value.trim().toLowerCase(); draw(); }, 120) });
  const toolbar = h("form.toolbar.sticky", { "aria-label": "How charts are drawn", onsubmit: (event) => event.preventDefault() },
    search,
    choice("Axis", [["step", "Step"], ["elapsed", "Elapsed"], ["time", "Time"]], view.axis, (axis) => { keep({ axis }); view.axis = axis; view.zoom(null, null); }),
    choice("Ranks", [["band", "Band"], ["lines", "Lines"]], view.ranks, (value) => { keep({ ranks: value }); view.ranks = value; touch(); }),
    choice("Scale", [["", "Linear"], ["log", "Log"]], "", (value) => { view.log = value === "log"; for (const chart of charts.values()) chart.draw(); }),
    h("label.field", h("span", "Smoothing"), slider, output), zoomed);
  const body = h("div.groups");
  const element = h("div", toolbar, body);

  view.zoom = (first, last) => {
    Object.assign(view, { first, last });
    zoomed.hidden = first === null;
    const write = { step: (value) => number(Math.round(value)), elapsed, time: (value) => clock(value, { day: false }) }[view.axis];
    range.textContent = first === null ? "" : `${write(first)} to ${write(last)}`;
    touch();
  };

  function touch(key) {
    for (const chart of charts.values()) if (!key || view.runs.some((run) => run.key === key)) chart.touch();
  }

  function draw() {
    const groups = new Map();
    for (const item of items) {
      if (text && !`${item.name} ${item.title}`.toLowerCase().includes(text)) continue;
      groups.set(item.group, [...(groups.get(item.group) ?? []), item]);
    }
    const wanted = new Set([...groups.values()].flat().map((item) => item.name));
    for (const [name, chart] of charts) if (!wanted.has(name)) { chart.destroy(); charts.delete(name); }
    fill(body, [...groups].map(([group, members]) => {
      const grid = h("div.grid", members.map((item) => {
        if (!charts.has(item.name)) charts.set(item.name, new Chart(item, view));
        return charts.get(item.name).element;
      }));
      if (groups.size === 1) return [h("h2.hidden", group || "Charts"), grid];
      const details = h("details.group", { open: !closed.has(group), ontoggle: () => (details.open ? closed.delete(group) : closed.add(group)) }, h("summary", h("h2", group || "General"), h("span.count", String(members.length))), grid);
      return details;
    }), wanted.size ? null : h("p.quiet", items.length ? "No series of that name." : empty));
  }

  const again = () => { for (const chart of charts.values()) { chart.shape = ""; chart.draw(); } };
  window.addEventListener("theme", again);
  return {
    element, touch,
    set(found) {
      const same = found.length === items.length && found.every((item, index) => item.name === items[index].name && String(item.asked.names) === String(items[index].asked.names));
      if (same && (found.length || body.childElementCount)) return;
      items = found;
      draw();
    },
    destroy() { window.removeEventListener("theme", again); for (const chart of charts.values()) chart.destroy(); },
  };
}

/** Series of numbers that a training has logged, as items. */
export const metricItems = (metrics) => metrics.filter((metric) => !metric.name.startsWith("sys/"))
  .map((metric) => ({ name: metric.name, title: metric.name, group: groupOf(metric.name), asked: { metric: metric.name } }));

/** What the nodes measured: cores and cards of a kind share a chart. */
export function systemItems(names) {
  const families = new Map();
  for (const name of names) {
    const cut = name.lastIndexOf("/");
    const host = cut > 3 ? name.slice(4, cut) : "";
    const family = name.slice(cut + 1).replace(/\.\d+(?=\.|$)/, "");
    const key = `${host}/${family}`;
    families.set(key, { host, family, names: [...(families.get(key)?.names ?? []), name] });
  }
  return [...families.values()].map(({ host, family, names }) => ({ name: `sys/${host}/${family}`, title: family, group: host || "This node", asked: { names } }))
    .sort((a, b) => (a.group === b.group ? place(a.title) - place(b.title) || (a.title < b.title ? -1 : 1) : a.group < b.group ? -1 : 1));
}

const ORDER = [/^gpu/, /^cpu/, /^mem/, /^network/, /^net/, /^disk/];
const place = (title) => { const found = ORDER.findIndex((pattern) => pattern.test(title)); return found < 0 ? ORDER.length : found; };
