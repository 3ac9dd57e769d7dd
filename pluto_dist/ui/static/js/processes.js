// The processes of a Run as a table that can be sorted, and the nodes they are on.

import { h, fill } from "./dom.js";
import { bytes, number, short, span } from "./format.js";
import { table } from "./parts.js";

const TONES = {
  "failed first": "bad",
  died: "bad",
  crashed: "bad",
  stuck: "warn",
  suspect: "warn",
  behind: "warn",
  lost: "warn",
};
const measured = (write) => (value) => (value === null ? "" : write(value));
const state = (row) =>
  h(
    "span.state",
    { class: TONES[row.health] ?? row.health },
    row.health === "failed first" ? `${row.state}, failed first` : row.state,
  );
// heading, key of a row, how its value is written, class; what no row has is left out
const COLUMNS = [
  ["Process", "who", (value) => value],
  ["Role", "role", (value) => value],
  ["State", "health", (_, row) => state(row)],
  ["Attempt", "attempt", number, "num"],
  ["Step", "steps", (value) => value, "num"],
  ["Steps/s", "rate", measured((value) => value.toFixed(value < 10 ? 2 : 0)), "num"],
  ["Lag", "lag", measured((value) => (value > 0 ? `+${number(value)}` : number(value))), "num"],
  ["Last word", "word_s", measured(span), "num"],
  ["Records", "written", short, "num"],
  ["Backlog", "backlog", short, "num"],
  ["CPU", "cpu", measured((value) => `${Math.round(value)} %`), "num"],
  ["Memory", "memory", measured(bytes), "num"],
  ["Host", "host", (value) => value],
  ["Pid", "pids", (value) => (value.length === 1 ? value[0] : `${value.length} pids`), "num"],
];

/**
 * @param {(participant: string) => void} toConsole
 * @param {{on: boolean, turn: () => void}} whole each process has a row
 */
export function processTable(toConsole, whole) {
  const element = h("section.panel", { "aria-label": "Processes" });
  const sort = { by: "", down: false };
  let page = null;

  function turn(key, kind) {
    sort.down = sort.by === key ? !sort.down : kind === "num";
    sort.by = key;
    draw();
  }

  function heading([text, key, , kind]) {
    const way = sort.by === key ? (sort.down ? "descending" : "ascending") : null;
    const button = { type: "button", onclick: () => turn(key, kind) };
    return h("th", { scope: "col", class: kind, "aria-sort": way }, h("button.sort", button, text));
  }

  function line(row, columns) {
    const mine = row.participants.length === 1 ? row.participants[0] : "";
    const who = { type: "button", title: "Its console", onclick: () => toConsole(mine) };
    const cells = columns.map(([, key, write, kind], index) =>
      index
        ? h("td", { class: kind }, write(row[key], row))
        : h("th", { scope: "row" }, h("button.link", who, write(row[key]))),
    );
    return h("tr", { class: TONES[row.health] }, cells);
  }

  function draw() {
    const known = (key) => page.rows.some((row) => row[key] !== null);
    const columns = COLUMNS.filter(([, key]) => known(key));
    const left = element.querySelector(".scroll")?.scrollLeft ?? 0;
    const label = { tabindex: 0, role: "region", "aria-label": "Processes, table" };
    const folded = page.rows.length < page.processes || whole.on;
    fill(
      element,
      h("h2", "Processes", h("span.count", number(page.processes))),
      page.rows.length === 0 && h("p.quiet", "No process has attached yet."),
      page.rows.length > 0 &&
        h(
          "div.scroll",
          label,
          h(
            "table.people",
            h("caption.hidden", "Processes, the worst first"),
            h("thead", h("tr", columns.map(heading))),
            h(
              "tbody",
              sorted(page.rows, sort).map((row) => line(row, columns)),
            ),
          ),
        ),
      folded &&
        h(
          "button",
          { type: "button", "aria-pressed": String(whole.on), onclick: whole.turn },
          whole.on ? "Fold those that are alike" : `Show all ${number(page.processes)}`,
        ),
      page.machines.length > 0 && machinesOf(page.machines),
    );
    const scroll = element.querySelector(".scroll");
    if (scroll) scroll.scrollLeft = left;
  }

  return {
    element,
    set(found) {
      page = found;
      draw();
    },
  };
}

function sorted(rows, { by, down }) {
  if (!by) return rows;
  const value = (row) => {
    if (by === "steps") return Number.parseInt(row.steps, 10) || -1;
    return (Array.isArray(row[by]) ? row[by][0] : row[by]) ?? -Infinity;
  };
  const found = [...rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
  return down ? found.reverse() : found;
}

function machinesOf(machines) {
  const columns = [
    ["Node"],
    ["CPU", "num"],
    ["Memory", "num"],
    ["GPUs", "num"],
    ["GPU busy", "num"],
    ["GPU memory", "num"],
  ];
  const percent = measured((value) => `${Math.round(value)} %`);
  const rows = machines.map((node) => {
    const busy = node.cards.map((card) => card.busy).filter((value) => value !== null);
    const memory = node.cards.map((card) => card.memory).filter((value) => value !== null);
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    return [
      node.host || "this node",
      percent(node.cpu),
      percent(node.memory),
      node.cards.length || "",
      busy.length ? percent(sum(busy) / busy.length) : "",
      memory.length ? bytes(sum(memory)) : "",
    ];
  });
  return h("div.machines", h("h3", "Nodes"), table("Nodes", columns, rows));
}
