// The list of Runs: filter, sort, choose several to compare.

import { h, fill, keepingFocus, settled, select } from "./dom.js";
import { ago, clock, number, plural, short, span } from "./format.js";
import { listen } from "./net.js";
import { problem, statusMark, tags, where } from "./parts.js";

const COLUMNS = [
  ["status", "Status", (row) => row.status],
  ["name", "Run", (row) => row.name.toLowerCase()],
  ["project", "Project", (row) => row.project.toLowerCase()],
  ["tags", "Tags", (row) => row.tags.join(" ")],
  ["created", "Started", (row) => row.created_at],
  ["duration", "Duration", duration, "num"],
  ["points", "Points", (row) => row.points, "num"],
  ["processes", "Processes", (row) => row.processes, "num"],
];
const FIRST = 400; // rows; more are drawn when asked for
const MOST = 12; // Runs beside each other, as the server has it
const GROUPS = [
  ["", "All"],
  ["running", "Running"],
  ["failed", "Failed"],
  ["completed", "Completed"],
  ["other", "Other"],
];

function duration(row) {
  return ((row.ended_at ?? Date.now()) - row.created_at) / 1000;
}

function groupOf(row) {
  if (row.standing === "running" || row.standing === "detached") return "running";
  if (row.status === "FAILED" || row.standing === "gone") return "failed";
  return row.status === "COMPLETED" ? "completed" : "other";
}

export function showRuns(main, given) {
  where(["Runs", "#/"]);
  const rows = new Map();
  const drawn = new Map(); // key -> [row, element]
  const picked = new Set();
  let everything = false;
  let looked = "";
  const wanted = {
    text: given.get("text") ?? "",
    status: given.get("status") ?? "",
    project: given.get("project") ?? "",
    sort: given.get("sort") ?? "-created",
  };

  const remarks = h("div.remarks");
  const counts = h("fieldset.choice.counts");
  const projects = h("select", {
    "aria-label": "Project",
    onchange: (event) => change({ project: event.target.value }),
  });
  const body = h("tbody");
  const headings = COLUMNS.map(([key, text, , kind]) =>
    h(
      "th",
      { scope: "col", class: kind, "data-key": key },
      h(
        "button.sort",
        {
          type: "button",
          onclick: () =>
            change({
              sort:
                wanted.sort === key
                  ? `-${key}`
                  : wanted.sort === `-${key}`
                    ? key
                    : key === "name" || key === "project" || key === "status"
                      ? key
                      : `-${key}`,
            }),
        },
        text,
      ),
    ),
  );
  const more = h("button", {
    type: "button",
    hidden: true,
    onclick: () => {
      everything = true;
      draw();
    },
  });
  const said = h("p.quiet", { role: "status" }, "Loading…");
  const compare = h("a.button.primary", { href: "#/", "aria-disabled": "true" });
  const search = h("input", {
    type: "search",
    value: wanted.text,
    placeholder: "Name, id, tag, project",
    "aria-label": "Filter Runs",
    oninput: settled((event) => change({ text: event.target.value }), 120),
  });

  fill(
    main,
    h("h1.hidden", "Runs"),
    remarks,
    h(
      "form.toolbar",
      { role: "search", "aria-label": "Runs", onsubmit: (event) => event.preventDefault() },
      search,
      counts,
      projects,
      h("span.spacer"),
      compare,
    ),
    said,
    h(
      "div.scroll.full",
      h(
        "table.runs",
        h("caption.hidden", "Runs"),
        h("thead", h("tr", h("th.pick", { scope: "col" }, h("span.hidden", "Compare")), headings)),
        body,
      ),
    ),
    more,
  );

  function change(by) {
    Object.assign(wanted, by);
    const query = new URLSearchParams(
      Object.entries(wanted).filter(([name, value]) => value && !(name === "sort" && value === "-created")),
    );
    history.replaceState(null, "", query.size ? `#/?${query}` : "#/");
    draw();
  }

  function fits(row, { anyStatus = false } = {}) {
    const text = wanted.text.trim().toLowerCase();
    const sought =
      `${row.name} ${row.display_id ?? ""} ${row.run_id} ${row.project} ${row.tags.join(" ")} ${row.key}`.toLowerCase();
    return (
      (anyStatus || !wanted.status || groupOf(row) === wanted.status) &&
      (!wanted.project || row.project === wanted.project) &&
      text.split(/\s+/).every((word) => sought.includes(word))
    );
  }

  function sorted() {
    const down = wanted.sort.startsWith("-");
    const by = (COLUMNS.find(([key]) => key === wanted.sort.replace("-", "")) ?? COLUMNS[4])[2];
    const found = [...rows.values()].filter((row) => fits(row)).map((row) => [by(row), row]);
    found.sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : y.created_at - x.created_at) * 1);
    return (down ? found.reverse() : found).map(([, row]) => row);
  }

  function line(row) {
    const label = row.display_id ?? row.run_id;
    const box = h("input", {
      type: "checkbox",
      checked: picked.has(row.key),
      "aria-label": `Compare ${label}`,
      onchange: (event) => pick(row.key, event.target.checked),
    });
    return h(
      "tr",
      { "data-key": row.key },
      h("td.pick", box),
      h("td", statusMark(row.status, row)),
      h(
        "th.name",
        { scope: "row" },
        h("a", { href: `#/run/${encodeURIComponent(row.key)}` }, row.name || label),
        h("span.id", label),
      ),
      h("td", row.project),
      h("td.tags", tags(row.tags)),
      h(
        "td",
        h(
          "time",
          { datetime: new Date(row.created_at).toISOString(), title: clock(row.created_at) },
          ago(row.created_at),
        ),
      ),
      h("td.num", span(duration(row))),
      h("td.num", { title: number(row.points) }, short(row.points)),
      h("td.num", number(row.processes)),
    );
  }

  function pick(key, on) {
    if (on) picked.add(key);
    else picked.delete(key);
    drawCompare();
  }

  function drawCompare() {
    const keys = [...picked].slice(0, MOST);
    compare.textContent =
      picked.size > MOST ? `Compare the first ${MOST}` : picked.size ? `Compare ${picked.size}` : "Compare";
    compare.setAttribute("aria-disabled", String(picked.size < 2));
    compare.href =
      picked.size < 2 ? "#/" : `#/compare/?${new URLSearchParams(keys.map((key) => ["run", key]))}`;
  }

  function drawCounts() {
    const found = Object.fromEntries(GROUPS.map(([key]) => [key, 0]));
    for (const row of rows.values())
      if (fits(row, { anyStatus: true })) {
        found[groupOf(row)] += 1;
        found[""] += 1;
      }
    if (!counts.childElementCount) {
      fill(
        counts,
        h("legend", "Status"),
        GROUPS.map(([key, text]) =>
          h(
            "label",
            h("input", {
              type: "radio",
              name: "status",
              value: key,
              checked: key === wanted.status,
              onchange: () => change({ status: key }),
            }),
            h("span", text, " ", h("b", { "data-count": key })),
          ),
        ),
      );
    }
    for (const [key, count] of Object.entries(found))
      counts.querySelector(`[data-count="${key}"]`).textContent = number(count);
    const names = [...new Set([...rows.values()].map((row) => row.project))].sort();
    if (projects.childElementCount !== names.length + 1)
      fill(
        projects,
        [["", "All projects"], ...names.map((name) => [name, name])].map(([key, text]) =>
          h("option", { value: key, selected: key === wanted.project }, text),
        ),
      );
  }

  /** Rows that are as they were keep their elements. */
  function drawRows(shown) {
    const lines = shown.map((row) => {
      const before = drawn.get(row.key);
      if (before && before[0] === row) return before[1];
      const element = line(row);
      if (before?.[1].isConnected) before[1].replaceWith(element);
      drawn.set(row.key, [row, element]);
      return element;
    });
    const same = (element, index) => body.children[index] === element;
    if (lines.length !== body.childElementCount || !lines.every(same)) body.replaceChildren(...lines);
  }

  function draw() {
    drawCounts();
    const found = sorted();
    const shown = everything ? found : found.slice(0, FIRST);
    keepingFocus(body, () => drawRows(shown));
    for (const heading of headings) {
      const key = heading.dataset.key;
      const way = wanted.sort === key ? "ascending" : wanted.sort === `-${key}` ? "descending" : null;
      if (way) heading.setAttribute("aria-sort", way);
      else heading.removeAttribute("aria-sort");
    }
    more.hidden = shown.length === found.length;
    more.textContent = `Show ${number(found.length - shown.length)} more`;
    said.textContent =
      rows.size === 0
        ? `No Runs yet; what a training logs appears here by itself. Looked at: ${looked}`
        : found.length === rows.size
          ? plural(rows.size, "Run")
          : `${number(found.length)} of ${plural(rows.size, "Run")}`;
  }

  drawCompare();
  return listen(
    {},
    {
      trouble: ({ error }) => fill(remarks, problem(error)),
      runs(seen) {
        if (seen.runs) {
          rows.clear();
          for (const row of seen.runs) rows.set(row.key, row);
          fill(remarks, seen.remarks.map(problem));
          looked = seen.where;
        }
        for (const row of seen.changed ?? []) rows.set(row.key, row);
        for (const key of seen.gone ?? []) {
          rows.delete(key);
          picked.delete(key);
        }
        draw();
      },
    },
  );
}
