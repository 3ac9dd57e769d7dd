// How a Run ended and why, who failed first and with which last words.

import { h } from "./dom.js";
import { clock } from "./format.js";

/** @returns the section, or nothing for a Run that has not ended and of which no attempt has */
export function verdictOf(page, toConsole) {
  const { failure, verdict } = page;
  if (!page.why && !failure) return null;
  const earlier = verdict ? page.attempts : page.attempts.slice(0, -1);
  const tone = failure ? "bad" : page.status === "COMPLETED" ? "good" : "odd";
  const attempts = earlier.map((end) => h("li", h("b", `Attempt ${end.attempt}: `), end.reason));
  return h(
    "section.verdict",
    { class: tone, "aria-label": "How it ended" },
    h("p.why", page.why),
    failure && failureOf(page, toConsole),
    attempts.length > 0 && h("ul.earlier", attempts),
  );
}

function failureOf({ why, failure, timeline }, toConsole) {
  const who = failure.failure;
  const told = why.includes(failure.how);
  const failed = timeline.lanes.find((lane) => lane.spans.some((each) => each.failed_first));
  const open = { type: "button", onclick: () => toConsole(failed.participant) };
  const lines = failure.last_lines.map((line) => [
    h("span.time", `${clock(line.time, { day: false })} `),
    `${line.message}\n`,
  ]);
  return h(
    "div.failure",
    !told && h("p", h("strong", "First failure: "), h("b", who.label), `: ${failure.how}`),
    h("p.quiet", whereAndWhen(who)),
    h(
      "div.evidence",
      who.traceback && evidence(["Traceback"], who.traceback.trimEnd()),
      lines.length > 0 &&
        evidence(["Last lines of its console ", failed && h("button.link", open, "open")], lines),
    ),
  );
}

function whereAndWhen(who) {
  const rank = who.rank !== null && who.label !== `rank${who.rank}` ? `, rank ${who.rank}` : "";
  const when = who.found_at
    ? `last known to live at ${clock(who.at)}, found at ${clock(who.found_at)}`
    : `at ${clock(who.at)}`;
  return `${who.label}: ${who.role}${rank}, pid ${who.pid} on ${who.host}, attempt ${who.attempt}; ${when}`;
}

const evidence = (caption, text) => h("figure", h("figcaption", caption), h("pre", { tabindex: 0 }, text));
