// Leases over time: a lane for each participant, a span for each of its processes, marks for what befell all.

import { h, s } from "./dom.js";
import { clock, elapsed, span, plural } from "./format.js";
import { table } from "./parts.js";

const LANE = 20;
const TOP = 26;
const FOLDED = 16;
const SAID = {
  finished: "finished", failed: "failed", stopped: "stopped", closed: "closed", exited: "exited", died: "died", superseded: "replaced", gave_up: "gave up", refused: "refused", "": "goes on",
};
const TONES = { died: "bad", failed: "bad", gave_up: "bad", superseded: "odd", "": "live" };
const MARKS = {
  restarted: "restart", reopened: "opened again", superseded: "replaced", taken_over: "taken over", launcher_gone: "launcher gone", seat_claimed: "seat", owned_here: "owned here",
  ranks_stuck: "stuck", ranks_go_on: "goes on", side_failed: "side failed", side_died: "side died", cancelled: "cancelled", ended: "end", opened: "opened",
};

/** @param {object} timeline as the server has it; `choose(participant)` opens its console */
export function drawTimeline(timeline, { whole = false, choose }) {
  const { begin, end, marks } = timeline;
  const lanes = timeline.lanes.filter((lane) => lane.spans.some((each) => each.pid)); // a node's own feed is no process
  const failing = lanes.filter((lane) => lane.spans.some((each) => each.failed_first));
  const shown = whole || lanes.length <= FOLDED ? lanes : [...lanes.slice(0, FOLDED - failing.length), ...failing.filter((lane) => lanes.indexOf(lane) >= FOLDED - failing.length)];
  const height = TOP + shown.length * LANE + 6;
  const long = Math.max(1, end - begin);
  const at = (ms) => `${Math.max(0, Math.min(100, ((ms - begin) / long) * 100))}%`;
  const width = (from, to) => `${Math.max(0.3, ((to - from) / long) * 100)}%`;
  const drawing = s("svg.lanes", { role: "img", width: "100%", height, "aria-label": summary({ ...timeline, lanes }) });
  for (const tick of ticks(long / 1000)) {
    drawing.append(s("line.tick", { x1: at(begin + tick * 1000), x2: at(begin + tick * 1000), y1: TOP - 6, y2: height }),
      s("text.tick", { x: at(begin + tick * 1000), y: TOP - 11, "text-anchor": tick ? "middle" : "start" }, elapsed(tick)));
  }
  for (const mark of marks) {
    if (mark.name === "opened" || mark.name === "ended") continue;
    drawing.append(s("line.mark", { x1: at(mark.at_ms), x2: at(mark.at_ms), y1: TOP - 6, y2: height }, s("title", `${MARKS[mark.name] ?? mark.name} at ${clock(mark.at_ms)}`)));
  }
  shown.forEach((lane, row) => {
    const y = TOP + row * LANE;
    for (const each of lane.spans) {
      const tone = each.failed_first ? "bad" : TONES[each.ended] ?? "calm";
      const said = `${each.label}, attempt ${each.attempt}, pid ${each.pid} on ${each.host}: ${clock(each.begin)} to ${each.end === null ? "now" : clock(each.end)}, ${SAID[each.ended] ?? each.ended}${each.failed_first ? ", failed first" : ""}`;
      drawing.append(s("rect.span", { class: tone, x: at(each.begin), y: y + 3, width: width(each.begin, each.end ?? end), height: LANE - 6, rx: 2, onclick: () => choose?.(lane.participant) }, s("title", said)));
      if (each.failed_first) {
        drawing.append(s("svg", { x: at(each.end ?? end), y: y + LANE / 2, overflow: "visible" }, s("circle.first", { r: 6 }), s("path.cross", { d: "M-2.5-2.5L2.5 2.5M2.5-2.5L-2.5 2.5" }), s("title", "failed first")));
      }
    }
  });
  const labels = h("ol.names", { "aria-hidden": "true" }, shown.map((lane) => h("li", { title: `${lane.label} (${lane.role})` }, lane.label)));
  labels.style.paddingTop = `${TOP}px`;
  return h("div.timeline", h("div.drawing", labels, h("div.space", drawing)), key({ ...timeline, lanes }),
    h("details.values", h("summary", "As a table"), table("Leases over time",
      [["Process"], ["Attempt", "num"], ["Where"], ["From"], ["To"], ["Lasted", "num"], ["How it ended"]],
      lanes.flatMap((lane) => lane.spans.map((each) => [each.label, each.attempt, `pid ${each.pid} on ${each.host}`, clock(each.begin), each.end === null ? "" : clock(each.end), span(((each.end ?? end) - each.begin) / 1000), `${SAID[each.ended] ?? each.ended}${each.failed_first ? ", failed first" : ""}`])))),
    shown.length < lanes.length ? h("p.quiet", `${lanes.length - shown.length} more lanes in the table.`) : null);
}

function key({ lanes, marks, begin }) {
  const tones = new Map();
  for (const lane of lanes) for (const each of lane.spans) tones.set(TONES[each.ended] ?? "calm", SAID[each.ended] ?? each.ended);
  const named = { calm: "ended by itself", bad: "died", odd: "replaced", live: "goes on" };
  return h("p.key",
    ["live", "calm", "odd", "bad"].filter((tone) => tones.has(tone)).map((tone) => h("span.entry", h("i.chip", { class: tone, "aria-hidden": "true" }), named[tone])),
    lanes.some((lane) => lane.spans.some((each) => each.failed_first)) ? h("span.entry", h("i.chip.first", { "aria-hidden": "true" }, "×"), "failed first") : null,
    marks.filter((mark) => mark.name !== "opened" && mark.name !== "ended").slice(-6).map((mark) => h("span.entry", h("i.chip.line", { "aria-hidden": "true" }), `${MARKS[mark.name] ?? mark.name} after ${span((mark.at_ms - begin) / 1000)}`)));
}

function summary({ lanes, begin, end }) {
  const first = lanes.flatMap((lane) => lane.spans).find((each) => each.failed_first);
  return `Timeline of ${plural(lanes.length, "process", "processes")} over ${span((end - begin) / 1000)}${first ? `; ${first.label} failed first, ${span((first.end - begin) / 1000)} after the start` : ""}. The same is in the table below.`;
}

/** Seconds at which the axis has a mark: at most about eight. */
export function ticks(seconds) {
  const units = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
  const unit = units.find((each) => seconds / each <= 8) ?? seconds / 8;
  return Array.from({ length: Math.floor(seconds / unit) + 1 }, (_, index) => index * unit);
}
