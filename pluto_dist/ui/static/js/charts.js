// Charts of one or several Runs: what is along the axis, zoom, smoothing, which names.
// An item is {name, title, group, asked}; `asked` is what the server is asked for, see its `Asked`.

import { h, fill, choice, settled } from "./dom.js";
import { clock, elapsed, number } from "./format.js";
import { Chart } from "./chart.js";

const AXES = [
  ["step", "Step"],
  ["elapsed", "Elapsed"],
  ["time", "Time"],
];
const RANKS = [
  ["band", "Band"],
  ["lines", "Lines"],
];
const SCALES = [
  ["", "Linear"],
  ["log", "Log"],
];

const OPENED = 48; // charts that are there at first; groups behind them are closed
const SHOWN = 96; // of a group

const kept = JSON.parse(localStorage.getItem("charts") ?? "{}");
const keep = (given) => localStorage.setItem("charts", JSON.stringify(Object.assign(kept, given)));

/** How all charts of a view are drawn; what a person has chosen before, unless `given` says otherwise. */
export function chartView(runs, given = {}) {
  const { axis = "step", ranks = "band", smoothing = 0 } = kept;
  return { runs, axis, ranks, smoothing, log: false, first: null, last: null, zoom: () => {}, ...given };
}

/** The charts of a view by name: made when they are first shown, and ended when they are not any more. */
export function chartSet(view) {
  const charts = new Map();
  const each = (action) => charts.forEach((chart) => action(chart));
  const restyled = () => each((chart) => chart.restyle());
  const touch = () => each((chart) => chart.touch());
  view.zoom = (first, last) => {
    Object.assign(view, { first, last });
    touch();
  };
  window.addEventListener("theme", restyled);
  return {
    touch,
    draw: () => each((chart) => chart.draw()),
    /** Elements of these items, in their order; all other charts end. */
    elements(items) {
      const wanted = new Set(items.map((item) => item.name));
      for (const [name, chart] of charts) {
        if (wanted.has(name)) continue;
        chart.destroy();
        charts.delete(name);
      }
      return items.map((item) => {
        if (!charts.has(item.name)) charts.set(item.name, new Chart(item, view));
        return charts.get(item.name).element;
      });
    },
    destroy() {
      window.removeEventListener("theme", restyled);
      each((chart) => chart.destroy());
    },
  };
}

/** Charts in groups below a toolbar. */
export function chartGrid(runs, { given = {}, empty = "No series yet." } = {}) {
  const view = chartView(runs, given);
  const charts = chartSet(view);
  const turned = new Map(); // group -> whether a person wants it open
  const whole = new Set(); // groups of which all charts are wanted
  const body = h("div.groups");
  let items = [];
  let text = "";

  const all = h("button", { type: "button", onclick: () => view.zoom(null, null) }, "Show all");
  const range = h("span.range", { role: "status" });
  const zoomed = h("span.zoomed", { hidden: true }, range, all);
  const zoom = view.zoom;
  view.zoom = (first, last) => {
    zoomed.hidden = first === null;
    range.textContent = first === null ? "" : `${onAxis(first, view.axis)} to ${onAxis(last, view.axis)}`;
    zoom(first, last);
  };

  function set(name, value, then) {
    view[name] = value;
    keep({ [name]: value });
    then();
  }

  const found = settled((event) => {
    text = event.target.value.trim().toLowerCase();
    draw();
  }, 120);
  const toolbar = h(
    "form.toolbar.sticky",
    { "aria-label": "How charts are drawn", onsubmit: (event) => event.preventDefault() },
    h("input", {
      type: "search",
      placeholder: "Filter series",
      "aria-label": "Filter series",
      oninput: found,
    }),
    choice("Axis", AXES, view.axis, (axis) => set("axis", axis, () => view.zoom(null, null))),
    choice("Ranks", RANKS, view.ranks, (ranks) => set("ranks", ranks, charts.touch)),
    choice("Scale", SCALES, "", (scale) => {
      view.log = scale === "log";
      charts.draw();
    }),
    slider(view.smoothing, (smoothing) => set("smoothing", smoothing, charts.draw)),
    zoomed,
  );

  function draw() {
    const wanted = items.filter((item) => `${item.name} ${item.title}`.toLowerCase().includes(text));
    const groups = [...Map.groupBy(wanted, (item) => item.group)].map(([name, members]) => ({
      name,
      members,
    }));
    let room = OPENED;
    for (const group of groups) {
      group.open = turned.get(group.name) ?? room > 0;
      const shown = group.open ? group.members.slice(0, whole.has(group.name) ? Infinity : SHOWN) : [];
      group.shown = shown;
      room -= shown.length;
    }
    const elements = charts.elements(groups.flatMap((group) => group.shown));
    for (const group of groups) group.elements = elements.splice(0, group.shown.length);
    const nothing = items.length ? "No series of that name." : empty;
    fill(
      body,
      groups.map(groups.length === 1 ? groupBody : details),
      !wanted.length && h("p.quiet", nothing),
    );
  }

  function groupBody({ name, members, elements }) {
    const left = members.length - elements.length;
    const more = () => (whole.add(name), draw());
    const button = h("button", { type: "button", onclick: more }, `Show ${number(left)} more`);
    return [h("h2.hidden", name || "Charts"), h("div.grid", elements), left > 0 && button];
  }

  /** Charts of a group are made when it is opened: of thousands of series only the first groups are. */
  function details(group) {
    const onclick = (event) => {
      event.preventDefault();
      turned.set(group.name, !group.open);
      draw();
      body.querySelector(`[data-group="${CSS.escape(group.name)}"]`)?.focus();
    };
    const count = h("span.count", number(group.members.length));
    const title = h("h2", group.name || "General");
    return h(
      "details.group",
      { open: group.open },
      h("summary", { "data-group": group.name, onclick }, title, count),
      group.open && groupBody(group).slice(1),
    );
  }

  return {
    element: h("div", toolbar, body),
    touch: charts.touch,
    destroy: charts.destroy,
    set(now) {
      const same = JSON.stringify(now) === JSON.stringify(items);
      if (same && body.childElementCount) return;
      items = now;
      draw();
    },
  };
}

function onAxis(value, axis) {
  if (axis === "step") return number(Math.round(value));
  return axis === "elapsed" ? elapsed(value) : clock(value, { day: false });
}

function slider(value, change) {
  const output = h("output", number(value));
  const oninput = (event) => {
    const now = Number(event.target.value);
    output.textContent = number(now);
    change(now);
  };
  const range = { type: "range", min: 0, max: 0.99, step: 0.01, value, "aria-label": "Smoothing", oninput };
  return h("label.field", h("span", "Smoothing"), h("input", range), output);
}

const groupOf = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "");

const SPREAD = "Deviation, count and largest rank";

/** Series of numbers that a training has logged; behind them how its ranks differ in them. */
export const metricItems = (metrics) =>
  metrics
    .map(({ name, spread }) => ({
      name,
      title: name,
      group: spread ? SPREAD : groupOf(name),
      asked: { metric: name },
    }))
    .sort((a, b) => (a.group === SPREAD) - (b.group === SPREAD) || order(a.group, b.group));

const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const ORDER = [/^gpu/, /^cpu/, /^mem/, /^net/, /^disk/];

/** What the nodes measured: cores and cards of a kind share a chart. */
export function systemItems(names) {
  const families = new Map();
  for (const name of names) {
    const cut = name.lastIndexOf("/");
    const host = name.slice("sys/".length, Math.max(cut, "sys/".length));
    const title = name.slice(cut + 1).replace(/\.\d+(?=\.|$)/, "");
    const key = `${host}/${title}`;
    if (!families.has(key)) families.set(key, { host, title, names: [] });
    families.get(key).names.push(name);
  }
  const place = ({ title }) =>
    (ORDER.findIndex((kind) => kind.test(title)) + ORDER.length + 1) % (ORDER.length + 1);
  return [...families]
    .map(([key, { host, title, names: asked }]) => ({
      name: `sys/${key}`,
      title,
      group: host || "This node",
      asked: { names: asked },
    }))
    .sort((a, b) => a.group.localeCompare(b.group) || place(a) - place(b) || a.title.localeCompare(b.title));
}
