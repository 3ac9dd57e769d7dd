// What uPlot is given: columns, series and bands of an answer, and how a plot looks and reacts.

import { elapsed, short } from "./format.js";
import { colour, token } from "./parts.js";

const SECONDS = [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800];

export const NAMED = 8; // lines that can be told apart: of more there are no bands, and the legend is cut

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

/**
 * A column as uPlot has it. A null of the server is no point here, and the line goes on: undefined. "NaN" is a
 * point that has no place, and the line is broken: null. So is what a logarithmic scale cannot show.
 */
function column(values, log) {
  return values.map((value) => {
    if (value === null) return undefined;
    return value === "NaN" || (log && value <= 0) ? null : value;
  });
}

/** The colour of each line: that of its Run where there are several, else that of its rank. */
export function coloursOf(lines, runs) {
  const hue = (line, index) =>
    runs.length > 1 ? (runs.find((run) => run.key === line.run)?.index ?? 0) : (line.rank ?? index);
  return lines.map((line, index) => colour(hue(line, index)));
}

/**
 * Of each line the mean, behind it what it is the mean of.
 * @returns data, series and bands for uPlot; `means`: which of the columns are means, in the order of lines
 */
export function layersOf({ x, lines }, colours, { smoothing, log, ranks }, family) {
  const found = { data: [x], series: [{}], bands: [], means: [] };
  const add = (values, series) => {
    found.data.push(values);
    found.series.push({ points: { show: false }, ...series });
  };
  lines.forEach((line, index) => {
    const stroke = colours[index];
    const pale = (percent) => `color-mix(in srgb, ${stroke} ${percent}%, transparent)`;
    if (line.low && lines.length <= NAMED) {
      const edge = { width: 0, stroke: "transparent" };
      add(column(line.high, log), edge);
      add(column(line.low, log), edge);
      found.bands.push({
        series: [found.series.length - 2, found.series.length - 1],
        fill: pale(smoothing ? 12 : 20),
      });
    }
    const mean = column(line.mean, log);
    if (smoothing) add(mean, { stroke: pale(35), width: 1 });
    found.means.push(found.series.length);
    const beside =
      ranks !== "lines" && !family && lines.some((each) => each.run === line.run && each.band > 1);
    add(smoothed(mean, smoothing), {
      label: line.label,
      stroke,
      width: lines.length > NAMED ? 1 : 1.5,
      dash: beside && line.band === 1 ? [6, 4] : undefined,
      points: { size: 5, show: x.length < 40 },
    });
  });
  return found;
}

/**
 * Options of a plot.
 * @param {object} layers see `layersOf`
 * @param {object} view how all charts are drawn
 * @param {{width: number, height: number, write: (value: number) => string}} look
 * @param {{moved: () => void, near: (line: number) => void}} on the cursor moved; it is near a line, or -1
 */
export function optionsOf({ series, bands, means }, view, { width, height, write }, on) {
  const axis = {
    stroke: token("--quiet"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: token("--grid"), width: 1 },
    ticks: { show: false },
  };
  const written = (how) => (_, ticks) => ticks.map((tick) => (tick === null ? "" : how(tick)));
  const window = view.first === null ? undefined : () => [view.first, view.last];
  return {
    width,
    height,
    ms: 1,
    legend: { show: false },
    padding: [8, 10, 0, 0],
    scales: { x: { time: view.axis === "time", range: window }, y: { distr: view.log ? 3 : 1 } },
    axes: [
      {
        ...axis,
        size: 26,
        space: 70,
        incrs: view.axis === "elapsed" ? SECONDS : undefined,
        values: view.axis === "time" ? undefined : written(view.axis === "step" ? short : elapsed),
      },
      {
        ...axis,
        size: (_, labels) => 14 + 6.2 * Math.max(0, ...(labels ?? []).map((label) => label.length)),
        values: written(write),
      },
    ],
    series,
    bands,
    focus: { alpha: 0.2 },
    cursor: {
      y: false,
      sync: { key: "charts" },
      focus: { prox: means.length > 2 ? 12 : -1 },
      drag: { x: true, y: false, setScale: false },
      points: {
        size: 6,
        show: (_, index) => means.length <= NAMED && means.includes(index) && dot(series[index].stroke),
      },
      bind: { dblclick: () => () => (view.zoom(null, null), null) },
    },
    hooks: {
      setCursor: [on.moved],
      setSeries: [(_, index, given) => given?.focus !== undefined && on.near(means.indexOf(index))],
      setSelect: [(plot) => selected(plot, view)],
    },
  };
}

function selected(plot, view) {
  const { left, width } = plot.select;
  if (width < 6) return;
  const ends = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
  plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  view.zoom(...ends);
}

function dot(stroke) {
  const element = document.createElement("div");
  element.style.background = stroke;
  return element;
}
