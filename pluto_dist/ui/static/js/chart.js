// One chart: asks the server for as many points as it has room for, draws them, and can be used without a mouse.

import { h, fill } from "./dom.js";
import { post } from "./net.js";
import { NAMED, coloursOf, layersOf, optionsOf } from "./plot.js";
import { endsOf, noteOn, placeOf, tableOf, unitOf } from "./values.js";

const HEIGHT = { medium: 210, large: 380 };
const SOONEST_MS = 350; // between two questions for new points

export class Chart {
  /**
   * @param {object} what title, asked (see the server's `Asked`)
   * @param {object} view shared by all charts: runs [{key, label, index}], axis, smoothing, log, ranks, first, last, zoom(first, last)
   */
  constructor(what, view) {
    this.what = what;
    this.view = view;
    this.write = unitOf(what.title);
    this.size = "medium";
    this.plot = null;
    this.answer = null;
    this.dirty = true;
    this.visible = false;
    this.busy = false;
    this.askedAt = 0;
    this.took = 0;
    this.box = h("div.plot", {
      tabindex: 0,
      role: "group",
      "aria-roledescription": "chart",
      "aria-label": `${what.title}. Left and right move along, plus and minus zoom, 0 shows all`,
      onkeydown: (event) => this.key(event),
    });
    this.legend = h("div.legend");
    this.reading = h("p.hidden", { role: "status" });
    this.note = h("p.quiet.note");
    this.values = h("details.values", { ontoggle: () => this.drawTable() }, h("summary", "Values"), h("div"));
    this.last = h("span.last");
    const larger = h(
      "button.small",
      { type: "button", "aria-pressed": "false", title: "Larger", onclick: () => this.enlarge(larger) },
      "⤢",
      h("span.hidden", ` ${what.title} larger`),
    );
    this.element = h(
      "article.chart",
      { "aria-label": what.title },
      h("header", h("h3", { title: what.title }, what.title), this.last, larger),
      this.box,
      this.reading,
      this.note,
      this.legend,
      this.values,
    );
    this.box.style.height = `${HEIGHT[this.size]}px`;
    this.seen = new IntersectionObserver(
      ([entry]) => {
        this.visible = entry.isIntersecting;
        this.load();
      },
      { rootMargin: "200px" },
    );
    this.sized = new ResizeObserver(() => this.resize());
    this.seen.observe(this.element);
    this.sized.observe(this.box);
  }

  destroy() {
    this.gone = true;
    clearTimeout(this.timer);
    this.seen.disconnect();
    this.sized.disconnect();
    this.plot?.destroy();
  }

  enlarge(button) {
    this.size = this.size === "large" ? "medium" : "large";
    button.setAttribute("aria-pressed", String(this.size === "large"));
    this.element.classList.toggle("large", this.size === "large");
    this.box.style.height = `${HEIGHT[this.size]}px`;
    this.touch();
  }

  /** Colours are others now. */
  restyle() {
    this.shape = "";
    this.draw();
  }

  /** There is something new, or it is to be drawn in another way. */
  touch() {
    this.dirty = true;
    this.load();
  }

  /** Asks if it is seen; of a long series not more often than the answer takes. */
  load() {
    if (!this.dirty || !this.visible || this.busy || this.gone) return;
    const wait = this.askedAt + Math.max(SOONEST_MS, 3 * this.took) - performance.now();
    clearTimeout(this.timer);
    if (this.answer && wait > 0) {
      this.timer = setTimeout(() => this.load(), wait);
      return;
    }
    this.ask();
  }

  async ask() {
    const { view } = this;
    this.dirty = false;
    this.busy = true;
    this.askedAt = performance.now();
    try {
      const chart = await post("/api/chart", {
        runs: view.runs.map((run) => run.key),
        asked: { ...this.what.asked, lines: view.ranks === "lines" },
        axis: view.axis,
        first: view.first,
        last: view.last,
        places: Math.max(60, Math.min(2000, Math.round(this.box.clientWidth * 0.9))),
      });
      if (this.gone) return;
      this.answer = chart;
      this.draw();
    } catch (error) {
      if (!this.gone) this.note.textContent = error.message;
    } finally {
      this.took = performance.now() - this.askedAt;
      this.busy = false;
      if (this.dirty) this.load();
    }
  }

  draw() {
    if (!this.answer || this.gone) return;
    const { nothing, text } = noteOn(this.answer);
    this.note.textContent = text;
    this.box.classList.toggle("empty", nothing);
    if (nothing) this.clear();
    else this.drawPlot();
    this.drawTable();
  }

  clear() {
    this.plot?.destroy();
    this.plot = null;
    this.last.textContent = "";
    fill(this.legend);
  }

  drawPlot() {
    const { view } = this;
    this.colours = coloursOf(this.answer.lines, view.runs);
    const layers = layersOf(this.answer, this.colours, view, this.what.asked.names);
    const shape = JSON.stringify([layers.series, view.axis, view.log, view.first, view.last]);
    this.means = layers.means;
    this.near = -1;
    if (this.plot && shape === this.shape) this.plot.setData(layers.data);
    else {
      this.plot?.destroy();
      this.shape = shape;
      const look = {
        width: Math.max(50, this.box.clientWidth),
        height: HEIGHT[this.size],
        write: this.write,
      };
      const on = {
        moved: () => this.read(),
        near: (line) => {
          this.near = line;
          this.read();
        },
      };
      this.plot = new window.uPlot(optionsOf(layers, view, look, on), layers.data, this.box);
    }
    this.resize();
    this.drawLegend();
  }

  resize() {
    const [width, height] = [this.box.clientWidth, HEIGHT[this.size]];
    if (this.plot && width > 50 && (this.plot.width !== width || this.plot.height !== height)) {
      this.plot.setSize({ width, height });
    }
  }

  nameOf(line) {
    const { runs } = this.view;
    const ranks = line.band > 1 && !this.what.asked.names;
    const several = this.answer.lines.filter((each) => each.run === line.run && each.band > 1).length > 1;
    const label = ranks ? `${several ? `${line.label}, ` : ""}${line.band} ranks` : line.label;
    if (runs.length === 1) return label;
    const run = runs.find((each) => each.key === line.run)?.label;
    return this.answer.lines.filter((each) => each.run === line.run).length > 1 ? `${run} · ${label}` : run;
  }

  drawLegend() {
    const { lines } = this.answer;
    const named = lines.length > 1 || lines[0].band > 1 ? lines.slice(0, NAMED) : [];
    this.cells = named.map(() => h("b"));
    const entries = named.map((line, index) => {
      const chip = h("i.chip", { "aria-hidden": "true" });
      chip.style.background = this.colours[index];
      return h("span.entry", chip, this.nameOf(line), " ", this.cells[index]);
    });
    const more = lines.length - NAMED;
    fill(this.legend, entries, more > 0 && h("span.entry", `and ${more} more`));
    this.read();
  }

  /** The values under the cursor, or the last ones. */
  read() {
    if (!this.plot || !this.cells) return {};
    const index = this.plot.cursor.idx ?? null;
    const { x, lines } = this.answer;
    const values = lines.map((line, number) => this.valueOf(line, this.plot.data[this.means[number]], index));
    this.cells.forEach((cell, number) => (cell.textContent = values[number]));
    const place = index === null ? "" : placeOf(x[index], this.view.axis);
    const near =
      this.near >= 0 && lines[this.near] ? `${this.nameOf(lines[this.near])} ${values[this.near]}` : "";
    const single = this.cells.length ? "" : values[0];
    this.last.textContent = [place, near || single].filter(Boolean).join(": ");
    return { place, values };
  }

  valueOf(line, drawn, index) {
    let at = index ?? drawn.length - 1;
    while (at > 0 && (drawn[at] === undefined || (index === null && drawn[at] === null))) at -= 1;
    if (drawn[at] === undefined) return "";
    if (drawn[at] === null) return "NaN";
    return this.write(drawn[at]) + (index === null ? "" : endsOf(line, at, this.write));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.plot) return;
    const last = this.answer.x.length - 1;
    const at = this.plot.cursor.idx ?? last;
    const moves = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      PageUp: at - 20,
      PageDown: at + 20,
      Home: 0,
      End: last,
    };
    if (event.key in moves) this.moveTo(Math.max(0, Math.min(last, moves[event.key])));
    else if (event.key === "+" || event.key === "=") this.zoomAt(at, 0.5);
    else if (event.key === "-") this.zoomAt(at, 2);
    else if (event.key === "0") this.view.zoom(null, null);
    else return;
    event.preventDefault();
  }

  moveTo(index) {
    const { x, lines } = this.answer;
    this.plot.setCursor({ left: this.plot.valToPos(x[index], "x"), top: 20 });
    const { place, values } = this.read();
    const said = lines
      .slice(0, 4)
      .map((line, number) => (lines.length > 1 ? `${this.nameOf(line)} ${values[number]}` : values[number]));
    this.reading.textContent = `${place}: ${said.join(", ")}`;
  }

  zoomAt(index, factor) {
    const { min, max } = this.plot.scales.x;
    const middle = this.answer.x[index];
    const ends = [middle - (middle - min) * factor, middle + (max - middle) * factor];
    if (ends[0] <= this.answer.first && ends[1] >= this.answer.last) this.view.zoom(null, null);
    else this.view.zoom(...ends);
  }

  drawTable() {
    if (!this.values.open || !this.answer) return;
    const given = { title: this.what.title, axis: this.view.axis, nameOf: (line) => this.nameOf(line) };
    fill(this.values.lastElementChild, tableOf(this.answer, given));
  }
}
