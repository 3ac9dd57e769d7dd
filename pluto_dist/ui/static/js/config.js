// Configs as flat tables: of one Run, or of several with what differs.

import { h, fill, settled } from "./dom.js";
import { number } from "./format.js";
import { table } from "./parts.js";

/** {model: {depth: 50}} → [["model.depth", 50]] */
export function flat(value, prefix = "") {
  if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
    return Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
  }
  return [[prefix, value]];
}

const shown = (value) =>
  value === undefined ? h("span.quiet", "—") : typeof value === "string" ? value : JSON.stringify(value);

/** @param {{label: string, values: [string, any][]}[]} sides one column each */
export function comparison(caption, sides, { write = shown } = {}) {
  const columns = sides.map((side) => new Map(side.values));
  const names = [...new Set(columns.flatMap((column) => [...column.keys()]))].sort();
  let text = "";
  let only = sides.length > 1;
  const body = h("div");
  const differs = (name) => new Set(columns.map((column) => JSON.stringify(column.get(name)))).size > 1;

  function draw() {
    const wanted = names.filter((name) => (!only || differs(name)) && name.toLowerCase().includes(text));
    fill(
      body,
      wanted.length
        ? table(
            caption,
            [["Name"], ...sides.map((side) => [side.label])],
            wanted.map((name) => [
              differs(name) ? h("strong", name) : name,
              ...columns.map((column) => h("span.value", write(column.get(name)))),
            ]),
            { class: "config" },
          )
        : h(
            "p.quiet",
            names.length ? (only ? "They are the same." : "Nothing of that name.") : "There is nothing.",
          ),
    );
  }

  draw();
  return h(
    "div",
    h(
      "form.toolbar",
      { "aria-label": caption, onsubmit: (event) => event.preventDefault() },
      h("input", {
        type: "search",
        placeholder: "Filter names",
        "aria-label": `Filter ${caption}`,
        oninput: settled((event) => {
          text = event.target.value.trim().toLowerCase();
          draw();
        }, 100),
      }),
      sides.length > 1
        ? h(
            "label.field",
            h("input", {
              type: "checkbox",
              checked: only,
              onchange: (event) => {
                only = event.target.checked;
                draw();
              },
            }),
            h("span", "Only what differs"),
          )
        : null,
    ),
    body,
  );
}

export const configOf = (page) => (Object.keys(page.config).length ? flat(page.config) : []);

export const summaryOf = (page) =>
  page.metrics
    .filter((metric) => !metric.name.startsWith("sys/"))
    .map((metric) => [metric.name, metric.last]);

export const asNumber = (value) => (value === undefined ? h("span.quiet", "—") : number(value));
