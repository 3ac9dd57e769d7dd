// Several Runs beside each other: their charts, what differs in their configs, what they came to.

import { h, fill } from "./dom.js";
import { chartGrid, metricItems } from "./charts.js";
import { asNumber, comparison, configOf, summaryOf } from "./config.js";
import { plural } from "./format.js";
import { listen } from "./net.js";
import { colour, problem, statusMark, tabBar, where } from "./parts.js";

export function showCompare(main, keys, first) {
  const runs = keys.map((key, index) => ({ key, label: key, index }));
  const pages = new Map();
  const address = (tab) => `#/compare/${tab}?${new URLSearchParams(keys.map((key) => ["run", key]))}`;
  let tab = first || "charts";
  let part = null;
  const list = h("ul.runs-compared");
  const bar = h("div");
  const trouble = h("div.remarks");
  const body = h("div.body");
  where(["Runs", "#/"], [`Compare ${keys.length}`]);
  fill(main, h("div.head", h("h1", plural(keys.length, "Run")), list), bar, trouble, body);

  const parts = {
    charts() {
      const grid = chartGrid(runs);
      return {
        ...grid,
        set: () => grid.set(metricItems(union([...pages.values()].map((page) => page.metrics)))),
      };
    },
    config: () => tableOf("Config", configOf),
    values: () => tableOf("Last values", summaryOf, asNumber),
  };

  function tableOf(caption, values, write) {
    const element = h("div");
    let state = "";
    return {
      element,
      set() {
        const sides = runs
          .filter((run) => pages.has(run.key))
          .map((run) => ({ label: run.label, values: values(pages.get(run.key)) }));
        const now = JSON.stringify(sides);
        if (now !== state) {
          state = now;
          fill(element, comparison(caption, sides, write ? { write } : {}));
        }
      },
    };
  }

  function open() {
    part?.destroy?.();
    part = (parts[tab] ?? parts.charts)();
    fill(body, part.element);
    part.set();
    fill(
      bar,
      tabBar(
        "Comparison",
        [
          ["charts", "Charts"],
          ["config", "Config"],
          ["values", "Last values"],
        ],
        tab,
        address,
      ),
    );
  }

  function drawList() {
    fill(
      list,
      runs.map((run) => {
        const page = pages.get(run.key);
        const chip = h("i.chip", { "aria-hidden": "true" });
        chip.style.background = colour(run.index);
        const rest = keys.filter((key) => key !== run.key);
        return h(
          "li",
          chip,
          h("a", { href: `#/run/${encodeURIComponent(run.key)}` }, page?.name || run.label),
          page ? h("span.id", run.label) : null,
          page ? statusMark(page.status, page) : null,
          rest.length
            ? h(
                "a.drop",
                {
                  href: `#/compare/${tab}?${new URLSearchParams(rest.map((key) => ["run", key]))}`,
                  "aria-label": `Without ${run.label}`,
                },
                "×",
              )
            : null,
        );
      }),
    );
  }

  function onTab(event) {
    tab = ["charts", "config", "values"].includes(event.detail) ? event.detail : "charts";
    open();
  }

  const again = () => {
    drawList();
  };
  window.addEventListener("tab", onTab);
  window.addEventListener("theme", again);
  drawList();
  open();
  const stop = listen(
    { run: keys },
    {
      page(page) {
        const run = runs.find((each) => each.key === page.key);
        const before = pages.get(page.key);
        pages.set(page.key, page);
        run.label = page.display_id ?? page.run_id;
        if (!before || before.status !== page.status) drawList();
        part.set();
        if (!before) part.touch?.(page.key);
      },
      points: ({ run }) => part.touch?.(run),
      trouble: ({ error }) => fill(trouble, problem(error)),
    },
  );
  return () => {
    window.removeEventListener("tab", onTab);
    window.removeEventListener("theme", again);
    stop();
    part?.destroy?.();
  };
}

/** Metrics that any of the Runs has. */
function union(lists) {
  const found = new Map();
  for (const metric of lists.flat()) if (!found.has(metric.name)) found.set(metric.name, metric);
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}
