// Small parts that several views share.

import { h, fill } from "./dom.js";

const trail = document.getElementById("trail");

/** The way from the list to here: [[text, address], …]; the last is where we are. */
export function where(...steps) {
  fill(
    trail,
    h(
      "ol",
      steps.map(([text, to], index) =>
        h(
          "li",
          index < steps.length - 1 ? h("a", { href: to }, text) : h("span", { "aria-current": "page" }, text),
        ),
      ),
    ),
  );
  document.title = `${steps.at(-1)[0]} · pluto-dist`;
}

const TONES = { COMPLETED: "good", FAILED: "bad", RUNNING: "live", TERMINATED: "odd", CANCELLED: "odd" };

export const tone = (status) => TONES[status] ?? (status.startsWith("gone") ? "bad" : "odd");

export function statusMark(status, { differs = false } = {}) {
  const text = !(status in TONES) ? status : status[0] + status.slice(1).toLowerCase();
  return h(
    "span.status",
    { class: tone(status) },
    text,
    differs && h("abbr", { title: "the server has another status" }, " ≠"),
  );
}

export const tags = (names) => names.map((name) => h("span.tag", name));

/** Links that look like tabs; the counts are of what is behind them. */
export function tabBar(label, tabs, current, address) {
  return h(
    "nav.tabs",
    { "aria-label": label },
    tabs.map(([key, text, count]) =>
      h(
        "a",
        { href: address(key), "aria-current": key === current ? "page" : null },
        text,
        count ? h("span.count", String(count)) : null,
      ),
    ),
  );
}

export function problem(text) {
  return h("p.problem", { role: "alert" }, text);
}

/** A table whose first column is a heading of its row. `columns`: [text, class]. */
export function table(caption, columns, rows, options = {}) {
  return h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": `${caption}, table` },
    h(
      "table",
      { class: options.class },
      h("caption.hidden", caption),
      h(
        "thead",
        h(
          "tr",
          columns.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)),
        ),
      ),
      h(
        "tbody",
        rows.map((cells) =>
          h(
            "tr",
            cells.map((cell, index) =>
              h(index ? "td" : "th", { class: columns[index]?.[1], scope: index ? null : "row" }, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

const PALETTE = 10;
const probe = document.body.appendChild(h("span", { hidden: true }));

/** A colour of the style sheet as a canvas understands it. */
export function token(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** The colour of the n-th line. */
export const colour = (index) => token(`--line-${index % PALETTE}`);
