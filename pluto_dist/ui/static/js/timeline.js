// Leases over time: a lane for each participant, a span for each of its processes, marks for what befell all.

import { h, s } from "./dom.js";
import { clock, elapsed, plural, span } from "./format.js";
import { table } from "./parts.js";

const LANE = 20; // pixels
const TOP = 26;
const FOLDED = 16; // lanes of a Run that has more
const MARKED = 6; // events that are named below the drawing
const ENDS = { superseded: "replaced", gave_up: "gave up", "": "goes on" };
const TONES = { died: "bad", failed: "bad", gave_up: "bad", superseded: "odd", "": "live" };
const NAMES = { live: "goes on", calm: "ended by itself", odd: "replaced", bad: "died or failed" };
const EVENTS = { restarted: "restart", reopened: "opened again", superseded: "replaced" };
const WHOLE = new Set(["opened", "ended"]); // the drawing begins and ends there anyway
const COLUMNS = [
  ["Process"],
  ["Attempt", "num"],
  ["Where"],
  ["From"],
  ["To"],
  ["Lasted", "num"],
  ["How it ended"],
];
const UNITS = [
  ...[0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800],
  ...[3600, 7200, 21600, 43200, 86400, 172800, 604800],
];

const toneOf = (each) => (each.failed_first ? "bad" : (TONES[each.ended] ?? "calm"));
const endOf = (each) => `${ENDS[each.ended] ?? each.ended}${each.failed_first ? ", failed first" : ""}`;
const eventOf = (mark) => EVENTS[mark.name] ?? mark.name.replaceAll("_", " ");
const failsFirst = (lane) => lane.spans.some((each) => each.failed_first);

/**
 * @param {object} timeline as the server has it
 * @param {(participant: string) => void} choose a lane was clicked
 */
export function drawTimeline({ begin, end, lanes: all, marks: events }, choose) {
  const lanes = all.filter((lane) => lane.spans.some((each) => each.pid)); // a node's own feed is no process
  const marks = events.filter((mark) => !WHOLE.has(mark.name));
  const shown = folded(lanes);
  const names = h(
    "ol.names",
    { "aria-hidden": "true" },
    shown.map((lane) => h("li", { title: `${lane.label} (${lane.role})` }, lane.label)),
  );
  const hidden = lanes.length - shown.length;
  return h(
    "div.timeline",
    h("div.drawing", names, h("div.space", drawing({ begin, end, shown, lanes, marks }, choose))),
    legend(lanes, marks, begin),
    hidden > 0 && h("p.quiet", `${plural(hidden, "more lane")} in the table.`),
    h("details.values", h("summary", "As a table"), spanTable(lanes, end)),
  );
}

/** Of many lanes the first ones, and those in which something failed first. */
function folded(lanes) {
  if (lanes.length <= FOLDED) return lanes;
  const first = lanes.slice(0, FOLDED - 1);
  return [...first, ...lanes.slice(FOLDED - 1).filter(failsFirst)];
}

function drawing({ begin, end, shown, lanes, marks }, choose) {
  const long = Math.max(1, end - begin);
  const percent = (ms) => `${Math.max(0, Math.min(100, ((ms - begin) / long) * 100))}%`;
  const height = TOP + shown.length * LANE + 6;
  const label = summary(lanes, begin, end);
  const upright = (kind, ms, ...inner) =>
    s(`line.${kind}`, { x1: percent(ms), x2: percent(ms), y1: TOP - 6, y2: height }, inner);
  return s(
    "svg.lanes",
    { role: "img", width: "100%", height, "aria-label": label },
    ticks(long / 1000).map((tick) => [
      upright("tick", begin + tick * 1000),
      s(
        "text.tick",
        { x: percent(begin + tick * 1000), y: TOP - 11, "text-anchor": tick ? "middle" : "start" },
        elapsed(tick),
      ),
    ]),
    marks.map((mark) => upright("mark", mark.at_ms, s("title", `${eventOf(mark)} at ${clock(mark.at_ms)}`))),
    shown.map((lane, row) =>
      lane.spans.map((each) => {
        const until = each.end ?? end;
        const width = `${Math.max(0.3, ((until - each.begin) / long) * 100)}%`;
        const y = TOP + row * LANE;
        const box = { class: toneOf(each), x: percent(each.begin), y: y + 3, width, height: LANE - 6, rx: 2 };
        const rect = s(
          "rect.span",
          { ...box, onclick: () => choose(lane.participant) },
          s("title", said(each)),
        );
        return [rect, each.failed_first && cross(percent(until), y + LANE / 2)];
      }),
    ),
  );
}

function cross(x, y) {
  return s(
    "svg",
    { x, y, overflow: "visible" },
    s("circle.first", { r: 6 }),
    s("path.cross", { d: "M-2.5-2.5L2.5 2.5M2.5-2.5L-2.5 2.5" }),
    s("title", "failed first"),
  );
}

function said(each) {
  const until = each.end === null ? "now" : clock(each.end);
  return `${each.label}, attempt ${each.attempt}, pid ${each.pid} on ${each.host}: ${clock(each.begin)} to ${until}, ${endOf(each)}`;
}

function legend(lanes, marks, begin) {
  const tones = new Set(lanes.flatMap((lane) => lane.spans.map(toneOf)));
  const chip = (kind, text = "") => h(`i.chip.${kind}`, { "aria-hidden": "true" }, text);
  const after = (mark) => `${eventOf(mark)} after ${span((mark.at_ms - begin) / 1000)}`;
  return h(
    "p.key",
    Object.keys(NAMES).map((tone) => tones.has(tone) && h("span.entry", chip(tone), NAMES[tone])),
    lanes.some(failsFirst) && h("span.entry", chip("first", "×"), "failed first"),
    marks.slice(-MARKED).map((mark) => h("span.entry", chip("line"), after(mark))),
  );
}

function spanTable(lanes, end) {
  const rows = lanes.flatMap((lane) =>
    lane.spans.map((each) => [
      each.label,
      each.attempt,
      `pid ${each.pid} on ${each.host}`,
      clock(each.begin),
      clock(each.end),
      span(((each.end ?? end) - each.begin) / 1000),
      endOf(each),
    ]),
  );
  return table("Leases over time", COLUMNS, rows);
}

function summary(lanes, begin, end) {
  const first = lanes.flatMap((lane) => lane.spans).find((each) => each.failed_first);
  const failed = first
    ? `; ${first.label} failed first, ${span(((first.end ?? end) - begin) / 1000)} after the start`
    : "";
  return `Timeline of ${plural(lanes.length, "process", "processes")} over ${span((end - begin) / 1000)}${failed}. The same is in the table below.`;
}

/** Seconds at which the axis has a mark: at most about eight. */
function ticks(seconds) {
  const unit = UNITS.find((each) => seconds / each <= 8) ?? seconds / 8;
  return Array.from({ length: Math.floor(seconds / unit) + 1 }, (_, index) => index * unit);
}
