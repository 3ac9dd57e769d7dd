// One chart: asks the server for as many points as it has room for, draws them, and can be used without a mouse.

import { h, fill } from "./dom.js";
import { bytes, clock, elapsed, number, plural, short } from "./format.js";
import { post } from "./net.js";
import { colour, table, token } from "./parts.js";

const HEIGHT = { small: 150, medium: 210, large: 380 };
const ROWS = 400; // of the table of values
const NAMED = 8; // lines in the legend of a chart that has more
const SOONEST_MS = 350; // between two questions for new points

/** Mean of the values so far, in which each older one counts `weight` times as much; gaps stay gaps. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

// null: no point here, the line goes on; "NaN": a point that has no place, the line is broken.
const plain = (values) => values.map((value) => (value === null ? undefined : value === "NaN" ? null : value));

/** How values of a series are written, by its name. */
export function unitOf(name) {
  if (/rate/.test(name) && /bytes/.test(name)) return (value) => `${bytes(value)}/s`;
  if (/bytes|memory\.(used|active)|disk\.used|^mem$/.test(name)) return bytes;
  if (/percentage|utilization|\.pct/.test(name)) return (value) => `${number(value)} %`;
  return (value) => (Math.abs(value) >= 1e4 ? short(value) : number(value));
}

export class Chart {
  /**
   * @param {object} what title, asked (see the server's `Asked`), size
   * @param {object} view shared by all charts: runs [{key, label, index}], axis, smoothing, log, ranks, first, last, zoom(first, last)
   */
  constructor(what, view) {
    this.what = what;
    this.view = view;
    this.size = what.size ?? "medium";
    this.plot = null;
    this.answer = null;
    this.dirty = true;
    this.visible = false;
    this.busy = false;
    this.askedAt = 0;
    this.took = 0;
    this.box = h("div.plot", { tabindex: 0, role: "group", "aria-roledescription": "chart", "aria-label": `${what.title}. Left and right move along, plus and minus zoom, 0 shows all`, onkeydown: (event) => this.key(event) });
    this.legend = h("div.legend");
    this.reading = h("p.hidden", { role: "status" });
    this.note = h("p.quiet.note");
    this.values = h("details.values", { ontoggle: () => this.drawTable() }, h("summary", "Values"), h("div"));
    this.last = h("span.last");
    const larger = h("button.small", { type: "button", "aria-pressed": "false", title: "Larger", onclick: () => this.enlarge(larger) }, "⤢", h("span.hidden", ` ${what.title} larger`));
    this.element = h("article.chart", { "aria-label": what.title },
      h("header", h("h3", { title: what.title }, what.title), this.last, larger), this.box, this.reading, this.note, this.legend, this.values);
    this.box.style.height = `${HEIGHT[this.size]}px`;
    this.seen = new IntersectionObserver(([entry]) => { this.visible = entry.isIntersecting; this.load(); }, { rootMargin: "200px" });
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
    this.size = this.size === "large" ? (this.what.size ?? "medium") : "large";
    button.setAttribute("aria-pressed", String(this.size === "large"));
    this.element.classList.toggle("large", this.size === "large");
    this.box.style.height = `${HEIGHT[this.size]}px`;
    this.touch();
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
    if (this.answer && wait > 0) { this.timer = setTimeout(() => this.load(), wait); return; }
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
        axis: view.axis, first: view.first, last: view.last,
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
    const { x, lines, first } = this.answer;
    const count = lines.reduce((sum, line) => sum + line.count, 0);
    const odd = lines.reduce((sum, line) => sum + line.odd, 0);
    const nothing = count === odd;
    this.box.classList.toggle("empty", nothing);
    this.note.textContent = [
      first === null ? "No points here; what a server has is not kept on this machine." : count === 0 ? "No points in this part." : nothing ? `${plural(count, "point")}, none of them finite (NaN or infinity).`
        : odd ? `${plural(odd, "point")} not finite.` : "",
      this.answer.left_out ? `The ${lines.length} that are furthest from the others; ${plural(this.answer.left_out, "line")} nearer to the middle not drawn.` : "",
    ].filter(Boolean).join(" ");
    if (nothing) { this.plot?.destroy(); this.plot = null; fill(this.legend); this.last.textContent = ""; this.drawTable(); return; }
    const { data, series, bands } = this.layers(x, lines);
    const shape = JSON.stringify([series.map((each) => [each.stroke, each.label, each.width]), this.view.axis, this.view.log, this.view.first, this.view.last]);
    if (this.plot && shape === this.shape) this.plot.setData(data);
    else { this.plot?.destroy(); this.shape = shape; this.plot = new window.uPlot(this.options(series, bands), data, this.box); }
    this.resize();
    this.drawLegend(lines);
    this.drawTable();
  }

  /** Columns for uPlot: of each line the mean, and beside it what it is the mean of. */
  layers(x, lines) {
    const { smoothing, log } = this.view;
    const shown = (values) => (log ? values.map((value) => (value > 0 ? value : value === undefined ? value : null)) : values);
    const data = [x];
    const series = [{}];
    const bands = [];
    this.means = [];
    this.near = undefined;
    this.colours = lines.map((line, index) => colour(this.hue(line, index)));
    lines.forEach((line, index) => {
      const stroke = this.colours[index];
      const mean = shown(plain(line.mean));
      const others = { points: { show: false }, width: 0 };
      if (line.low && !(lines.length > NAMED)) {
        data.push(shown(plain(line.high)), shown(plain(line.low)));
        series.push({ ...others, label: "high", stroke: "transparent" }, { ...others, label: "low", stroke: "transparent" });
        bands.push({ series: [series.length - 2, series.length - 1], fill: `color-mix(in srgb, ${stroke} ${smoothing ? 12 : 20}%, transparent)` });
      }
      if (smoothing) {
        data.push(mean);
        series.push({ label: "as logged", stroke: `color-mix(in srgb, ${stroke} 35%, transparent)`, width: 1, points: { show: false } });
      }
      data.push(smoothed(mean, smoothing));
      this.means.push(series.length);
      series.push({ label: line.label, stroke, width: lines.length > NAMED ? 1 : 1.5, dash: this.isSide(line) ? [6, 4] : undefined, points: { size: 5, show: x.length < 40 } });
    });
    return { data, series, bands };
  }

  isSide(line) { return this.view.ranks !== "lines" && line.band === 1 && line.rank === null && !this.what.asked.names && this.answer.lines.some((each) => each.run === line.run && each.band > 1); }

  hue(line, index) {
    const { runs } = this.view;
    if (runs.length > 1) return runs.find((run) => run.key === line.run)?.index ?? 0;
    return line.rank ?? index;
  }

  options(series, bands) {
    const { view } = this;
    const write = unitOf(this.what.title);
    const axis = { stroke: token("--quiet"), font: "11px system-ui, sans-serif", grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false } };
    const places = { step: (each) => (each === null ? "" : short(each)), elapsed: (each) => (each === null ? "" : elapsed(each)), time: null }[view.axis];
    const known = view.first !== null && view.first !== undefined;
    return {
      width: Math.max(50, this.box.clientWidth), height: HEIGHT[this.size], ms: 1, legend: { show: false }, padding: [8, 10, 0, 0],
      scales: { x: { time: view.axis === "time", range: known ? () => [view.first, view.last] : undefined }, y: { distr: view.log ? 3 : 1 } },
      axes: [
        { ...axis, size: 26, space: 70, values: places ? (_, ticks) => ticks.map(places) : undefined },
        { ...axis, size: (plot, labels) => 14 + 6.2 * Math.max(0, ...(labels ?? []).map((label) => label.length)), values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : write(tick))) },
      ],
      series, bands,
      focus: { alpha: 0.2 },
      cursor: { y: false, sync: { key: "charts" }, focus: { prox: this.means.length > 2 ? 12 : -1 }, drag: { x: true, y: false, setScale: false }, points: { size: 6, show: (plot, index) => (this.means.includes(index) && this.means.length <= NAMED ? window.uPlot.prototype.cursorPoint?.(plot, index) ?? dot(series[index]) : false) }, bind: { dblclick: () => () => { view.zoom(null, null); return null; } } },
      hooks: {
        setCursor: [() => this.read()],
        setSeries: [(_, index, given) => {
          if (given?.focus === undefined) return;
          const near = index === null ? -1 : this.means.indexOf(index);
          this.near = near < 0 || near >= this.answer.lines.length ? undefined : near;
          this.read();
        }],
        setSelect: [(plot) => {
          if (plot.select.width < 6) return;
          const ends = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          view.zoom(...ends);
        }],
      },
    };
  }

  resize() {
    const width = this.box.clientWidth;
    if (this.plot && width > 50 && (this.plot.width !== width || this.plot.height !== HEIGHT[this.size])) this.plot.setSize({ width, height: HEIGHT[this.size] });
  }

  nameOf(line) {
    const run = this.view.runs.find((each) => each.key === line.run);
    const several = this.answer.lines.filter((each) => each.run === line.run).length > 1;
    const label = line.rank !== null ? `rank ${line.rank}` : line.band > 1 && !this.what.asked.names ? `${line.band} ranks` : line.label;
    return this.view.runs.length > 1 ? (several ? `${run?.label} · ${label}` : run?.label) : label;
  }

  drawLegend(lines) {
    const named = lines.slice(0, NAMED);
    this.cells = named.map(() => h("b"));
    fill(this.legend, lines.length > 1 || lines[0].low ? named.map((line, index) => {
      const chip = h("i.chip", { "aria-hidden": "true" });
      chip.style.background = this.colours[index];
      return h("span.entry", chip, this.nameOf(line), " ", this.cells[index]);
    }) : null, lines.length > NAMED ? h("span.entry", `and ${lines.length - NAMED} more`) : null);
    this.read();
  }

  /** The values under the cursor, or the last ones. */
  read() {
    if (!this.answer || !this.plot || !this.cells) return;
    const index = this.plot.cursor.idx;
    const write = unitOf(this.what.title);
    const values = this.answer.lines.map((line, number) => {
      const column = this.plot.data[this.means[number]];
      if (!column) return null;
      let at = index ?? column.length - 1;
      while (at > 0 && (column[at] === undefined || (index === null && column[at] === null))) at -= 1;
      const band = line.low && line.band > 1 && index !== null && typeof line.low[at] === "number" ? `, from ${write(line.low[at])} (${line.names[line.lowest[at]]}) to ${write(line.high[at])} (${line.names[line.highest[at]]})` : "";
      return column[at] === null ? "NaN" : column[at] === undefined ? "" : write(column[at]) + band;
    });
    this.cells.forEach((cell, number) => { cell.textContent = values[number] ?? ""; });
    const place = index === null || index === undefined ? "" : this.place(this.answer.x[index]);
    const near = this.near === undefined ? "" : `${this.nameOf(this.answer.lines[this.near])} ${values[this.near] ?? ""}`;
    this.last.textContent = [place, near || (values.length === 1 && !this.answer.lines[0].low ? values[0] : "")].filter(Boolean).join(": ");
    return { place, values };
  }

  place(value) {
    return this.view.axis === "step" ? `step ${number(value)}` : this.view.axis === "elapsed" ? elapsed(value) : clock(value, { day: false });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.plot) return;
    const x = this.answer.x;
    const at = this.plot.cursor.idx ?? x.length - 1;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 20, PageDown: at + 20, Home: 0, End: x.length - 1 };
    if (event.key in moves) this.moveTo(Math.max(0, Math.min(x.length - 1, moves[event.key])));
    else if (event.key === "+" || event.key === "=") this.zoomAt(at, 0.5);
    else if (event.key === "-") this.zoomAt(at, 2);
    else if (event.key === "0") this.view.zoom(null, null);
    else return;
    event.preventDefault();
  }

  moveTo(index) {
    this.plot.setCursor({ left: this.plot.valToPos(this.answer.x[index], "x"), top: 20 });
    const { place, values } = this.read();
    this.reading.textContent = `${place}: ${this.answer.lines.slice(0, 4).map((line, number) => `${this.answer.lines.length > 1 ? `${this.nameOf(line)} ` : ""}${values[number]}`).join(", ")}`;
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
    const { x, lines, thinned } = this.answer;
    const heading = { step: "Step", elapsed: "Elapsed", time: "Time" }[this.view.axis];
    const columns = [[heading, "num"], ...lines.slice(0, NAMED).flatMap((line) => (line.names ? [[`${this.nameOf(line)} mean`, "num"], ["Lowest", "num"], ["Highest", "num"]] : line.low ? [[`${this.nameOf(line)} mean`, "num"], ["Min", "num"], ["Max", "num"]] : [[this.nameOf(line), "num"]]))];
    const rows = x.slice(-ROWS).map((place, offset) => {
      const at = Math.max(0, x.length - ROWS) + offset;
      return [this.view.axis === "step" ? number(place) : this.place(place), ...lines.slice(0, NAMED).flatMap((line) => {
        const [low, high] = [line.low ?? line.mean, line.high ?? line.mean];
        const whose = (which) => (which[at] < 0 ? "" : ` ${line.names[which[at]]}`);
        return line.names ? [number(line.mean[at]), number(low[at]) + whose(line.lowest), number(high[at]) + whose(line.highest)] : line.low ? [line.mean, low, high].map((column) => number(column[at])) : [number(line.mean[at])];
      })];
    });
    fill(this.values.lastElementChild, thinned ? h("p.quiet", "Each row stands for several steps; zoom in to see them all.") : null,
      x.length > ROWS ? h("p.quiet", `The last ${ROWS} of ${number(x.length)} rows.`) : null, table(`Values of ${this.what.title}`, columns, rows));
  }
}

function dot(series) {
  const element = document.createElement("div");
  element.style.background = series.stroke;
  return element;
}
