// What processes printed: newest lines, or those that hold a text; goes along while the Run does.

import { h, fill, settled, select } from "./dom.js";
import { clock, number, plural } from "./format.js";
import { address, get, runPath } from "./net.js";

const LINES = [500, 2000, 5000];
const AGAIN_MS = 700;
// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]|[\u0000-\u0008\u000b-\u001f\u007f]/g; // of terminals

export function consolePart(key, who) {
  const state = { who, text: "", count: LINES[0], follow: true };
  let page = null;
  let asked = 0;
  let timer = 0;
  let seen = [];
  const list = h("ol");
  const frame = h(
    "div.lines",
    {
      role: "log",
      "aria-live": "off",
      "aria-label": "Console",
      tabindex: 0,
      onscroll: () => {
        const end = frame.scrollHeight - frame.scrollTop - frame.clientHeight < 30;
        if (state.follow !== end) {
          state.follow = end;
          follow.checked = end;
        }
      },
    },
    list,
  );
  const said = h("span.quiet", { role: "status" });
  const people = h("select", {
    "aria-label": "Process",
    onchange: (event) => {
      state.who = event.target.value;
      load();
    },
  });
  const follow = h("input", {
    type: "checkbox",
    checked: true,
    onchange: (event) => {
      state.follow = event.target.checked;
      if (state.follow) frame.scrollTop = frame.scrollHeight;
    },
  });
  const element = h(
    "div.console",
    h(
      "form.toolbar",
      { role: "search", "aria-label": "Console", onsubmit: (event) => event.preventDefault() },
      h("input", {
        type: "search",
        placeholder: "Search all lines",
        "aria-label": "Search the console",
        oninput: settled((event) => {
          state.text = event.target.value;
          load();
        }, 200),
      }),
      h("label.field", h("span", "Process"), people),
      select(
        "Lines",
        LINES.map((count) => [String(count), number(count)]),
        String(state.count),
        (value) => {
          state.count = Number(value);
          load();
        },
      ),
      h("label.field", follow, h("span", "Follow")),
      said,
    ),
    frame,
  );

  async function load() {
    const turn = ++asked;
    try {
      const found = await get(
        address(runPath(key, "/console"), { who: state.who, text: state.text, count: state.count }),
      );
      if (turn === asked) draw(found);
    } catch (error) {
      if (turn === asked) said.textContent = error.message;
    }
  }

  function draw({ lines, found, cut }) {
    said.textContent =
      found === null
        ? lines.length
          ? `${cut ? "the last " : ""}${plural(lines.length, "line")}`
          : "Nothing was printed, or it is not kept here."
        : `${plural(found, "line")} with that text${cut ? `, the last ${number(lines.length)} shown` : ""}`;
    const names = lines.map((line) => `${line.time} ${line.lease_id} ${line.message}`);
    const same =
      !state.text &&
      !state.marked &&
      seen.length &&
      names.length >= seen.length &&
      seen.every((name, index) => name === names[index]);
    if (same) list.append(...lines.slice(seen.length).map(row));
    else list.replaceChildren(...lines.map(row));
    seen = names;
    state.marked = Boolean(state.text);
    if (state.follow) frame.scrollTop = frame.scrollHeight;
  }

  function row(line) {
    const plain = line.message.replace(ESCAPES, "");
    return h(
      "li",
      { class: /ERR/.test(line.log_type) ? "err" : null },
      h(
        "time",
        { datetime: new Date(line.time).toISOString(), title: clock(line.time) },
        clock(line.time, { day: false, milliseconds: true }),
      ),
      line.speaker ? h("span.who", line.speaker) : null,
      h("span.said", marked(plain, state.text)),
    );
  }

  return {
    element,
    load,
    set(found) {
      const before = page?.timeline.lanes.length;
      page = found;
      if (before === found.timeline.lanes.length) return;
      if (state.who === undefined) {
        const first = found.timeline.lanes.find((lane) => lane.spans.some((each) => each.failed_first));
        state.who =
          found.timeline.lanes.length > 16 ? ((first ?? found.timeline.lanes[0])?.participant ?? "") : "";
      }
      fill(
        people,
        [["", "All"], ...found.timeline.lanes.map((lane) => [lane.participant, lane.label])].map(
          ([value, text]) => h("option", { value, selected: value === state.who }, text),
        ),
      );
    },
    touch() {
      if (timer) return;
      timer = setTimeout(() => {
        timer = 0;
        load();
      }, AGAIN_MS);
    },
    destroy() {
      clearTimeout(timer);
      asked += 1;
    },
  };
}

/** The text with what was searched for set off. */
export function marked(text, sought) {
  if (!sought) return text;
  const [lower, wanted] = [text.toLowerCase(), sought.toLowerCase()];
  const parts = [];
  let from = 0;
  for (
    let at = lower.indexOf(wanted);
    at >= 0 && lower.length === text.length;
    at = lower.indexOf(wanted, from)
  ) {
    parts.push(text.slice(from, at), h("mark", text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}
