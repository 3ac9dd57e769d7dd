// What a person asks first: how is it and why, who failed first and with which last words, who takes part.

import { h, fill } from "./dom.js";
import { ago, bytes, clock, number, plural, short, span } from "./format.js";
import { chartView } from "./charts.js";
import { Chart } from "./chart.js";
import { marked } from "./console.js";
import { problem, table } from "./parts.js";
import { drawTimeline } from "./timeline.js";

const FIRST = [/(^|[/_.-])loss$/i, /acc/i, /grad_?norm/i, /^lr$|learning_rate/i, /per_s|throughput/i];
const CHARTS = 3;

/** The series that a person looks at first. */
export function important(metrics) {
  const own = metrics.filter((metric) => !metric.name.startsWith("sys/") && metric.last !== "NaN");
  const ranked = own.map((metric) => [FIRST.findIndex((pattern) => pattern.test(metric.name)), metric]);
  ranked.sort(([a, x], [b, y]) => ((a < 0 ? 99 : a) - (b < 0 ? 99 : b)) || y.count - x.count);
  return ranked.slice(0, CHARTS).map(([, metric]) => metric);
}

export function overviewPart(run, { toConsole, whole }) {
  const notes = h("div.remarks");
  const verdict = h("div");
  const time = h("section.panel", { "aria-label": "Timeline" });
  const grid = h("div.grid");
  const people = h("section.panel", { "aria-label": "Processes" });
  const facts = h("section.panel.facts", { "aria-label": "Facts" });
  const element = h("div.overview", notes, verdict, grid, time, people, facts);
  const charts = new Map();
  const view = chartView([run], { ranks: "band", axis: "step", smoothing: 0 });
  view.zoom = (first, last) => { Object.assign(view, { first, last }); for (const chart of charts.values()) chart.touch(); };
  const drawn = {};
  const sort = { by: "", down: false };
  let page = null;

  /** Draws a part anew only if what it shows is another; a table keeps its place then, and a reader the focus. */
  function part(name, shown, draw) {
    const now = JSON.stringify(shown);
    if (drawn[name] === now) return;
    drawn[name] = now;
    draw();
  }

  function set(found) {
    page = found;
    part("notes", [page.remark, page.trouble, page.differs], () => fill(notes, [page.remark, page.trouble, page.differs].filter(Boolean).map(problem)));
    part("verdict", [page.status, page.why, page.failure, page.attempts], () => {
      fill(verdict, ...verdictOf(page, toConsole));
      for (const pre of verdict.querySelectorAll("pre")) pre.scrollTop = pre.scrollHeight;
    });
    const lasting = page.ended_at === null;
    part("time", [page.timeline, lasting ? Math.floor(page.now / 5000) : 0], () => {
      const open = time.querySelector("details")?.open;
      fill(time, h("h2", "Timeline"), drawTimeline(page.timeline, { choose: toConsole }));
      if (open) time.querySelector("details").open = true;
    });
    const wanted = important(page.metrics);
    part("charts", wanted.map((metric) => metric.name), () => {
      for (const [name, chart] of charts) if (!wanted.some((metric) => metric.name === name)) { chart.destroy(); charts.delete(name); }
      fill(grid, h("h2.hidden", "First charts"), wanted.map(({ name }) => {
        if (!charts.has(name)) charts.set(name, new Chart({ title: name, asked: { metric: name } }, view));
        return charts.get(name).element;
      }));
    });
    part("people", [page.rows, page.machines], drawPeople);
    part("facts", [page.points, page.pending, page.rejected, page.repeats, page.dropped, page.damaged, page.store, page.url, page.reported], () => fill(facts, h("h2", "Facts"), factsOf(page)));
  }

  function drawPeople() {
    const columns = shownColumns(page);
    const rows = sort.by ? sorted(page.rows, columns.find(([, key]) => key === sort.by), sort.down) : page.rows;
    const scroll = people.querySelector(".scroll")?.scrollLeft ?? 0;
    const held = document.activeElement?.dataset?.sort;
    fill(people, h("h2", "Processes", h("span.count", number(page.processes))),
      page.rows.length ? h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Processes, table" }, h("table.people", h("caption.hidden", "Processes, the worst first"),
        h("thead", h("tr", columns.map(([text, key, , kind]) => h("th", { scope: "col", class: kind, "aria-sort": sort.by === key ? (sort.down ? "descending" : "ascending") : null },
          h("button.sort", { type: "button", "data-sort": key, onclick: () => { sort.down = sort.by === key ? !sort.down : kind === "num"; sort.by = key; drawPeople(); } }, text))))),
        h("tbody", rows.map((row) => h("tr", { class: TONES[row.health] }, columns.map(([, key, show, kind], index) => h(index ? "td" : "th", { class: kind, scope: index ? null : "row" }, index ? show(row) : h("button.link", { type: "button", title: "Its console", onclick: () => toConsole(row.participants.length === 1 ? row.participants[0] : "") }, show(row))))))))) : h("p.quiet", "No process has attached yet."),
      page.rows.length < page.processes || whole.on ? h("button", { type: "button", "aria-pressed": String(whole.on), onclick: whole.turn }, whole.on ? "Fold those that are alike" : `Show all ${number(page.processes)}`) : null,
      page.machines.length ? machinesOf(page.machines) : null);
    const table = people.querySelector(".scroll");
    if (table) table.scrollLeft = scroll;
    if (held) people.querySelector(`[data-sort="${held}"]`)?.focus();
  }

  const again = () => { for (const chart of charts.values()) { chart.shape = ""; chart.draw(); } };
  window.addEventListener("theme", again);
  return { element, set, points: () => { for (const chart of charts.values()) chart.touch(); }, destroy() { window.removeEventListener("theme", again); for (const chart of charts.values()) chart.destroy(); } };
}

const TONES = { "failed first": "bad", died: "bad", stuck: "warn", suspect: "warn", behind: "warn", lost: "warn" };
const COLUMNS = [
  ["Process", "who", (row) => row.who, ""],
  ["Role", "role", (row) => row.role, ""],
  ["State", "health", (row) => h("span.state", { class: TONES[row.health] ?? row.health }, row.health === "failed first" ? `${row.state}, failed first` : row.state), ""],
  ["Attempt", "attempt", (row) => number(row.attempt), "num"],
  ["Step", "steps", (row) => row.steps, "num"],
  ["Steps/s", "rate", (row) => (row.rate === null ? "" : row.rate.toFixed(row.rate < 10 ? 2 : 0)), "num"],
  ["Lag", "lag", (row) => (row.lag === null ? "" : row.lag > 0 ? `+${number(row.lag)}` : number(row.lag)), "num"],
  ["Last word", "word_s", (row) => (row.word_s === null ? "" : span(row.word_s)), "num"],
  ["Records", "written", (row) => short(row.written), "num"],
  ["Backlog", "backlog", (row) => short(row.backlog), "num"],
  ["CPU", "cpu", (row) => (row.cpu === null ? "" : `${Math.round(row.cpu)} %`), "num"],
  ["Memory", "memory", (row) => bytes(row.memory), "num"],
  ["Host", "host", (row) => row.host, ""],
  ["Pid", "pids", (row) => (row.pids.length === 1 ? row.pids[0] : `${row.pids.length} pids`), "num"],
];

/** Without columns in which no row has anything. */
const shownColumns = (page) => COLUMNS.filter(([, key]) => !["rate", "lag", "word_s", "cpu", "memory"].includes(key) || page.rows.some((row) => row[key] !== null));

function sorted(rows, [, key], down) {
  const value = (row) => (key === "steps" ? Number.parseInt(row.steps, 10) : Array.isArray(row[key]) ? row[key][0] : row[key]);
  const found = [...rows].sort((a, b) => { const [x, y] = [value(a) ?? -Infinity, value(b) ?? -Infinity]; return x < y ? -1 : x > y ? 1 : 0; });
  return down ? found.reverse() : found;
}

function verdictOf(page, toConsole) {
  const { failure, verdict } = page;
  const earlier = verdict ? page.attempts : page.attempts.slice(0, -1);
  if (!page.why && !failure) return [];
  const tone = failure ? "bad" : page.status === "COMPLETED" ? "good" : "odd";
  const who = failure?.failure;
  const participant = who && page.timeline.lanes.find((lane) => lane.spans.some((each) => each.failed_first))?.participant;
  return [h("section.verdict", { class: tone, "aria-label": "How it ended" },
    h("p.why", page.why),
    who ? h("div.failure",
      page.why.includes(failure.how) ? null : h("p", h("strong", "First failure: "), h("b", who.label), `: ${failure.how}`),
      h("p.quiet", `${who.label}: ${who.role}${who.rank !== null && who.label !== `rank${who.rank}` ? `, rank ${who.rank}` : ""}, pid ${who.pid} on ${who.host}, attempt ${who.attempt}; ${who.found_at ? `last known to live at ${clock(who.at)}, found at ${clock(who.found_at)}` : `at ${clock(who.at)}`}`),
      h("div.evidence",
        who.traceback ? h("figure", h("figcaption", "Traceback"), h("pre", { tabindex: 0 }, who.traceback.trimEnd())) : null,
        failure.last_lines.length ? h("figure", h("figcaption", "Last lines of its console ", participant !== undefined ? h("button.link", { type: "button", onclick: () => toConsole(participant) }, "open") : null),
          h("pre", { tabindex: 0 }, failure.last_lines.map((line) => [h("span.time", `${clock(line.time, { day: false })} `), marked(line.message, ""), "\n"]))) : null)) : null,
    earlier.length ? h("ul.earlier", earlier.map((end) => h("li", h("b", `Attempt ${end.attempt}: `), end.reason))) : null)];
}

function machinesOf(machines) {
  return h("div.machines", h("h3", "Nodes"), table("Nodes", [["Node"], ["CPU", "num"], ["Memory", "num"], ["GPUs", "num"], ["GPU busy", "num"], ["GPU memory", "num"]],
    machines.map((node) => {
      const known = node.cards.filter((card) => card.busy !== null);
      const held = node.cards.filter((card) => card.memory !== null);
      return [node.host || "this node", node.cpu === null ? "" : `${Math.round(node.cpu)} %`, node.memory === null ? "" : `${Math.round(node.memory)} %`, node.cards.length || "",
        known.length ? `${Math.round(known.reduce((sum, card) => sum + card.busy, 0) / known.length)} %` : "", held.length ? bytes(held.reduce((sum, card) => sum + card.memory, 0)) : ""];
    })));
}

function factsOf(page) {
  const known = [
    ["Run id", page.run_id], ["Key", page.key], ["Kept in", page.url || page.store], ["Mode", page.mode],
    ["Started", `${clock(page.created_at)} (${ago(page.created_at)})`], ["Ended", page.ended_at === null ? "" : clock(page.ended_at)],
    ["Continues", page.fork ? `Run ${page.fork.run_id} from step ${page.fork.step ?? "its end"}` : ""],
    ["Points", number(page.points)], ["Not delivered", page.pending ? bytes(page.pending) : ""],
    ["Rejected", page.rejected ? `${number(page.rejected)}; the first: ${page.first_reject}` : ""], ["Dropped", page.dropped ? `${plural(page.dropped, "record")} lost to a full disk or quota` : ""],
    ["Damaged", page.damaged ? `${plural(page.damaged, "place")} in the spool` : ""], ["Repeats", page.repeats ? `up to ${plural(page.repeats, "row")} twice on the server` : ""],
    ["Status", page.verdict && !page.reported ? "not accepted by the backend yet" : ""],
  ];
  return h("dl", known.filter(([, value]) => value).map(([name, value]) => h("div", h("dt", name), h("dd", value))));
}
