// One Run: its head, and a tab for each thing to look at.

import { h, fill } from "./dom.js";
import { ago, clock, number, plural, short, span } from "./format.js";
import { chartGrid, metricItems, systemItems } from "./charts.js";
import { comparison, configOf } from "./config.js";
import { consolePart } from "./console.js";
import { mediaPart } from "./media.js";
import { get, listen } from "./net.js";
import { overviewPart } from "./overview.js";
import { problem, statusMark, tabBar, table, tags, where } from "./parts.js";

export function showRun(main, key, first) {
  const run = { key, label: key, index: 0 };
  const address = (tab) => `#/run/${encodeURIComponent(key)}/${tab}`;
  const head = h("div.head");
  const bar = h("div");
  const body = h("div.body");
  let page = null;
  let tab = first || "overview";
  let part = null;
  let who;
  let stop = () => {};
  const whole = {
    on: false,
    turn: () => {
      whole.on = !whole.on;
      stop();
      start();
    },
  };
  fill(main, h("p.quiet", "Loading…"));

  const toConsole = (participant) => {
    who = participant;
    location.hash = address("console");
    if (tab === "console") open();
  };
  const parts = {
    overview: () => overviewPart(run, { toConsole, whole }),
    charts: () => {
      const grid = chartGrid([run]);
      return { ...grid, set: (found) => grid.set(metricItems(found.metrics)), points: () => grid.touch() };
    },
    system: () => {
      const grid = chartGrid([run], {
        given: { axis: "elapsed", smoothing: 0 },
        empty:
          "No system metrics yet. The setting system_metrics_s says how often each node is sampled; 0 is never.",
      });
      return { ...grid, set: (found) => grid.set(systemItems(found.sampled)), points: () => grid.touch() };
    },
    console: () => {
      const made = consolePart(key, who);
      who = undefined;
      return { ...made, console: made.touch, begin: made.load };
    },
    config: () => configPart(key),
    files: () => {
      const made = mediaPart(key);
      return { ...made, media: made.touch };
    },
    events: eventsPart,
  };

  function open() {
    part?.destroy?.();
    part = (parts[tab] ?? parts.overview)();
    fill(body, part.element);
    if (page) {
      part.set(page);
      part.begin?.();
    }
  }

  function draw(found) {
    const began = page === null;
    page = found;
    run.label = page.display_id ?? page.run_id;
    drawHead();
    const media = page.others.length;
    fill(
      bar,
      tabBar(
        "Run",
        [
          ["overview", "Overview"],
          ["charts", "Charts", metricItems(page.metrics).length],
          ["system", "System"],
          ["console", "Console"],
          ["config", "Config"],
          ["files", "Files", media],
          ["events", "Events", page.events.length + page.events_left_out],
        ],
        tab,
        address,
      ),
    );
    if (began) {
      fill(main, head, bar, body);
      open();
    } else part.set(page);
  }

  function drawHead() {
    where(["Runs", "#/"], [page.name || run.label]);
    const end = page.ended_at ?? page.now;
    const facts = [
      [
        "Started",
        h(
          "time",
          { title: clock(page.created_at), datetime: new Date(page.created_at).toISOString() },
          ago(page.created_at),
        ),
      ],
      [page.ended_at === null ? "For" : "Lasted", span((end - page.created_at) / 1000)],
      ["Step", page.step === null ? null : number(page.step)],
      ["Steps/s", page.rate ? page.rate.toFixed(page.rate < 10 ? 2 : 0) : null],
      ["Slowest", page.lag > 1 ? `${number(page.lag)} steps behind` : null],
      ["Processes", number(page.processes)],
      ["Points", short(page.points)],
      ["Attempt", page.attempt ? number(page.attempt) : null],
    ];
    fill(
      head,
      h(
        "h1",
        page.name || run.label,
        " ",
        statusMark(page.status, page),
        page.phase && !["running", "ended"].includes(page.phase) ? h("span.phase", page.phase) : null,
      ),
      h("p.under", h("span.id", run.label), page.project, tags(page.tags)),
      h(
        "dl.strip",
        facts
          .filter(([, value]) => value !== null)
          .map(([name, value]) => h("div", h("dt", name), h("dd", value))),
      ),
    );
  }

  function start() {
    stop = listen(
      { run: key, whole: whole.on },
      {
        page: draw,
        points: () => part?.points?.(),
        console: () => part?.console?.(),
        media: () => part?.media?.(),
        trouble: ({ error }) => {
          if (!page)
            fill(
              main,
              h("h1", "This Run cannot be shown"),
              problem(error),
              h("p", h("a", { href: "#/" }, "All Runs")),
            );
        },
      },
    );
  }

  function onTab(event) {
    const now = event.detail && event.detail !== key ? event.detail : "overview";
    if (now === tab) return;
    tab = now;
    if (page) {
      draw(page);
      open();
    }
  }

  window.addEventListener("tab", onTab);
  where(["Runs", "#/"], [key]);
  start();
  return () => {
    window.removeEventListener("tab", onTab);
    stop();
    part?.destroy?.();
  };
}

function configPart(key) {
  const element = h("div");
  let state = "";
  const others = h("datalist", { id: "other-runs" });
  let runs = [];
  const choose = h("input", {
    list: "other-runs",
    placeholder: "Compare with…",
    "aria-label": "Compare with another Run",
    onfocus: fetchRuns,
    onchange: (event) => {
      const found = runs.find((row) => `${row.display_id ?? row.run_id} ${row.name}` === event.target.value);
      if (found)
        location.hash = `#/compare/config?${new URLSearchParams([
          ["run", key],
          ["run", found.key],
        ])}`;
    },
  });

  async function fetchRuns() {
    if (runs.length) return;
    runs = (await get("/api/runs")).runs.filter((row) => row.key !== key);
    fill(
      others,
      runs.slice(0, 1000).map((row) => h("option", { value: `${row.display_id ?? row.run_id} ${row.name}` })),
    );
  }

  return {
    element,
    set(page) {
      const now = JSON.stringify([page.config, page.side_configs]);
      if (now === state) return;
      state = now;
      fill(
        element,
        h("div.aside", choose, others),
        comparison("Config", [{ label: "Value", values: configOf(page) }]),
        Object.entries(page.side_configs).map(([label, config]) => [
          h("h2", `Config of ${label}`),
          comparison(`Config of ${label}`, [{ label: "Value", values: configOf({ config }) }]),
        ]),
      );
    },
  };
}

function eventsPart() {
  const element = h("div");
  let shown = -1;
  return {
    element,
    set(page) {
      if (page.events.length === shown && page.events_left_out === 0) return;
      shown = page.events.length;
      fill(
        element,
        table(
          "Events",
          [["Time"], ["What happened"], ["Details"]],
          [...page.events].reverse().map((event) => [
            clock(event.at_ms),
            event.name.replaceAll("_", " "),
            h(
              "span.detail",
              Object.entries(event.detail).map(([name, value]) => h("span", h("b", name), ` ${value}`)),
            ),
          ]),
          { class: "events" },
        ),
        page.events_left_out
          ? h("p.quiet", `${plural(page.events_left_out, "earlier event")}: pluto-dist show --all`)
          : null,
      );
    },
  };
}
