// What a person asks first: how is it and why, who failed first, how does it go, who takes part.

import { h, fill } from "./dom.js";
import { bytes, clock, number, plural } from "./format.js";
import { chartSet, chartView } from "./charts.js";
import { problem, table } from "./parts.js";
import { processTable } from "./processes.js";
import { drawTimeline } from "./timeline.js";
import { verdictOf } from "./verdict.js";

const FIRST = [/(^|[/_.-])loss$/i, /acc/i, /grad_?norm/i, /^lr$|learning_rate/i, /per_s|throughput/i];
const CHARTS = 3;
const REDRAWN_MS = 5000; // a timeline that grows

/** The series that a person looks at first. */
function important(metrics) {
  const place = ({ name }) => {
    const found = FIRST.findIndex((pattern) => pattern.test(name));
    return found < 0 ? FIRST.length : found;
  };
  const known = metrics.filter((metric) => metric.last !== "NaN" && !metric.spread);
  return known.sort((a, b) => place(a) - place(b) || b.count - a.count).slice(0, CHARTS);
}

export function overviewPart(run, { toConsole, whole }) {
  const notes = h("div.remarks");
  const verdict = h("div");
  const grid = h("div.grid");
  const time = h("section.panel", { "aria-label": "Timeline" });
  const people = processTable(toConsole, whole);
  const handed = h("section.panel", { "aria-label": "Handed over" });
  const facts = h("section.panel.facts", { "aria-label": "Facts" });
  const view = chartView([run], { ranks: "band", axis: "step", smoothing: 0 });
  const charts = chartSet(view);
  const drawn = new Map();

  /** Draws a part anew only if what it shows is another; a table keeps its place then, and a reader the focus. */
  function part(name, shown, draw) {
    const now = JSON.stringify(shown);
    if (drawn.get(name) === now) return;
    drawn.set(name, now);
    draw();
  }

  function drawTime({ timeline }) {
    const open = time.querySelector("details")?.open;
    fill(time, h("h2", "Timeline"), drawTimeline(timeline, toConsole));
    if (open) time.querySelector("details").open = true;
  }

  function drawVerdict(page) {
    fill(verdict, verdictOf(page, toConsole));
    for (const pre of verdict.querySelectorAll("pre")) pre.scrollTop = pre.scrollHeight;
  }

  function set(page) {
    const said = [page.remark, page.trouble, page.differs].filter(Boolean);
    const items = important(page.metrics).map(({ name }) => ({ name, title: name, asked: { metric: name } }));
    const topics = Object.entries(page.topics);
    const tick = page.ended_at === null ? Math.floor(page.now / REDRAWN_MS) : 0;
    const { end: _, ...still } = page.timeline;
    part("notes", said, () => fill(notes, said.map(problem)));
    part("verdict", [page.status, page.why, page.failure, page.attempts], () => drawVerdict(page));
    part("charts", items, () => fill(grid, h("h2.hidden", "First charts"), charts.elements(items)));
    part("time", [still, tick], () => drawTime(page));
    part("people", [page.rows, page.machines], () => people.set(page));
    part("handed", topics, () => fill(handed, h("h2", "Handed over"), topics.map(topicOf)));
    handed.hidden = topics.length === 0;
    const known = factsOf(page);
    part("facts", known, () => fill(facts, h("h2", "Facts"), h("dl", known.map(factOf))));
  }

  return {
    element: h("div.overview", notes, verdict, grid, time, people.element, handed, facts),
    set,
    points: charts.touch,
    destroy: charts.destroy,
  };
}

/** Checkpoints and other items that processes have handed over, the newest first, and who has looked at them. */
function topicOf([name, { last, latest, readers }]) {
  const items = [...latest].reverse();
  const atWork = (reader) => Object.entries(reader.at_work).map(([item, label]) => `${item} by ${label}`);
  return [
    h("h3", name, h("span.count", number(last))),
    table(
      name,
      [["Number", "num"], ["Published"], ["By"], ["Content"]],
      items.map((item) => [number(item.number), clock(item.at_ms), item.by, h("code", item.payload)]),
    ),
    readers.length === 0 && h("p.quiet", "Nobody has looked at them yet."),
    readers.length > 0 &&
      table(
        `Readers of ${name}`,
        [["Reader"], ["Done", "num"], ["Behind", "num"], ["At work"]],
        readers.map((reader) => [
          reader.group ? `${reader.name} (group)` : reader.name,
          number(reader.done),
          number(reader.behind),
          atWork(reader).join(", "),
        ]),
      ),
  ];
}

function factsOf(page) {
  const known = [
    ["Run id", page.run_id],
    ["Key", page.key],
    ["Kept in", page.url || page.store],
    ["Mode", page.mode],
    ["Started", clock(page.created_at)],
    ["Ended", clock(page.ended_at)],
    ["Continues", page.fork && `Run ${page.fork.run_id} from step ${page.fork.step ?? "its end"}`],
    ["Points", number(page.points)],
    ["Not delivered", page.pending > 0 && bytes(page.pending)],
    ["Rejected", page.rejected > 0 && `${number(page.rejected)}; the first: ${page.first_reject}`],
    ["Dropped", page.dropped > 0 && `${plural(page.dropped, "record")} lost to a full disk or quota`],
    ["Damaged", page.damaged > 0 && `${plural(page.damaged, "place")} in the spool`],
    ["Repeats", page.repeats > 0 && `up to ${plural(page.repeats, "row")} twice on the server`],
    ["Status", page.verdict && !page.reported && "not accepted by the backend yet"],
  ];
  return known.filter(([, value]) => value);
}

const factOf = ([name, value]) => h("div", h("dt", name), h("dd", value));
