// Files, pictures, sounds, texts, tables, histograms; those of one name share a card with a slider over steps.

import { h, s, fill } from "./dom.js";
import { bytes, clock, number, plural } from "./format.js";
import { address, get, runPath } from "./net.js";
import { table } from "./parts.js";

export function mediaPart(key) {
  const element = h("div.media", h("p.quiet", "Loading…"));
  let page = null;
  let state = "";
  let turn = 0;

  async function load() {
    const mine = ++turn;
    try {
      const files = await get(runPath(key, "/files"));
      const names = page.others
        .filter((other) => ["TEXT", "HISTOGRAM", "TABLE"].includes(other.kind))
        .map((other) => other.name);
      const said = await Promise.all(
        names.map(async (name) => [name, await get(address(runPath(key, "/texts"), { name }))]),
      );
      const now = JSON.stringify([files.length, said.map(([name, values]) => [name, values.length])]);
      if (mine !== turn || now === state) return;
      state = now;
      draw(
        files,
        said.filter(([, values]) => values.length),
      );
    } catch (error) {
      if (mine === turn) fill(element, h("p.problem", error.message));
    }
  }

  function draw(files, said) {
    const shown = new Map();
    for (const file of files)
      if (file.media && file.here) shown.set(file.name, [...(shown.get(file.name) ?? []), file]);
    const path = (file) => runPath(key, `/files/${file.file_id}`);
    fill(
      element,
      h("h2.hidden", "Media"),
      h(
        "div.grid",
        [...shown].map(([name, members]) =>
          card(name, members, (file) => [
            medium(file, path(file)),
            file.caption ? h("p", file.caption) : null,
          ]),
        ),
        said.map(([name, values]) => card(name, values, (value) => drawn(name, value))),
      ),
      files.length
        ? h(
            "section",
            { "aria-label": "All files" },
            h("h2", "Files"),
            table(
              "Files",
              [["Name"], ["File"], ["Step", "num"], ["Size", "num"], ["Logged"]],
              files
                .slice(-300)
                .reverse()
                .map((file) => [
                  file.name,
                  file.here
                    ? h(
                        "a",
                        {
                          href: path(file),
                          download: file.media ? null : file.file_name,
                          target: file.media ? "_blank" : null,
                          rel: "noopener",
                        },
                        file.file_name,
                      )
                    : h("span.quiet", `${file.file_name} (not here)`),
                  number(file.step),
                  bytes(file.size),
                  clock(file.time),
                ]),
            ),
            files.length > 300 ? h("p.quiet", `The newest 300 of ${number(files.length)}.`) : null,
          )
        : null,
      files.length || said.length
        ? null
        : h("p.quiet", "No file, picture, table or text was logged, or they are not on this machine."),
    );
  }

  return {
    element,
    load,
    set(found) {
      const first = page === null;
      page = found;
      if (first) load();
    },
    touch: () => page && load(),
    destroy() {
      turn += 1;
    },
  };
}

function card(name, members, show) {
  const ordered = [...members].sort((a, b) => a.step - b.step || a.time - b.time);
  const body = h("div.body");
  const step = h("output");
  const turnTo = (index) => {
    step.textContent = `step ${number(ordered[index].step)}`;
    fill(body, show(ordered[index]));
  };
  turnTo(ordered.length - 1);
  return h(
    "article.chart",
    { "aria-label": name },
    h("header", h("h3", { title: name }, name), step),
    body,
    ordered.length > 1
      ? h("input", {
          type: "range",
          min: 0,
          max: ordered.length - 1,
          value: ordered.length - 1,
          "aria-label": `Which of ${plural(ordered.length, "step")} of ${name}`,
          oninput: (event) => turnTo(Number(event.target.value)),
        })
      : null,
  );
}

function medium(file, path) {
  if (file.media.startsWith("image/"))
    return h(
      "a",
      { href: path, target: "_blank", rel: "noopener" },
      h("img", { src: path, alt: file.caption || `${file.name}, step ${file.step}`, loading: "lazy" }),
    );
  return h(file.media.startsWith("audio/") ? "audio" : "video", {
    src: path,
    controls: true,
    preload: "none",
    "aria-label": `${file.name}, step ${file.step}`,
  });
}

function drawn(name, said) {
  if (said.kind === "string") return h("pre.text", said.value);
  let value = null;
  try {
    value = JSON.parse(said.value);
  } catch {
    return h("pre.text", said.value);
  }
  if (said.kind === "histogram") return histogram(name, value);
  const heading =
    value.col?.map((each) => each.name ?? each) ?? value.table?.[0]?.map((_, index) => index + 1) ?? [];
  const rows = value.row?.map((each) => each.name ?? each);
  return table(
    name,
    [...(rows ? [[h("span.hidden", "Row")]] : []), ...heading.map((text) => [String(text), "num"])],
    (value.table ?? [])
      .slice(0, 200)
      .map((cells, index) => [
        ...(rows ? [String(rows[index] ?? "")] : []),
        ...cells.map((cell) =>
          cell === null ? "" : typeof cell === "object" ? JSON.stringify(cell) : number(cell),
        ),
      ]),
  );
}

function histogram(name, { freq, bins, maxFreq }) {
  const width = 100 / freq.length;
  const top = maxFreq || Math.max(1, ...freq);
  const place = (index) => number(bins.min + ((bins.max - bins.min) * index) / freq.length);
  return h(
    "figure",
    s(
      "svg.histogram",
      {
        role: "img",
        viewBox: "0 0 100 40",
        preserveAspectRatio: "none",
        "aria-label": `Histogram of ${name}: ${freq.length} bins from ${number(bins.min)} to ${number(bins.max)}, the most in one ${number(top)}`,
      },
      freq.map((count, index) =>
        s(
          "rect",
          { x: index * width, width: width * 0.92, y: 40 - (40 * count) / top, height: (40 * count) / top },
          s("title", `${place(index)} to ${place(index + 1)}: ${number(count)}`),
        ),
      ),
    ),
    h("figcaption", h("span", number(bins.min)), h("span", number(bins.max))),
  );
}
