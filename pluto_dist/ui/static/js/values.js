// The values of a chart in words: units, the sentence below it, the same as a table.

import { h } from "./dom.js";
import { bytes, clock, elapsed, number, plural, short } from "./format.js";
import { table } from "./parts.js";
import { NAMED } from "./plot.js";

const ROWS = 400;

/** How values of a series are written, by its name. */
export function unitOf(name) {
  if (/rate/.test(name) && /bytes/.test(name)) return (value) => `${bytes(value)}/s`;
  if (/bytes|memory\.(used|active)|disk\.used|^mem$/.test(name)) return bytes;
  if (/percentage|utilization|\.pct/.test(name)) return (value) => `${number(value)} %`;
  return (value) => (Math.abs(value) >= 1e4 ? short(value) : number(value));
}

/** A place on the axis. */
export function placeOf(value, axis) {
  if (axis === "step") return `step ${number(value)}`;
  return axis === "elapsed" ? elapsed(value) : clock(value, { day: false });
}

/** What a person should know about what is drawn, and about what is not. */
export function noteOn({ lines, first, left_out: leftOut }) {
  const sum = (key) => lines.reduce((total, line) => total + line[key], 0);
  const [count, odd] = [sum("count"), sum("odd")];
  const said = [];
  if (first === null) said.push("No points here; what a server has is not kept on this machine.");
  else if (!count) said.push("No points in this part.");
  else if (count === odd) said.push(`${plural(count, "point")}, none of them finite (NaN or infinity).`);
  else if (odd) said.push(`${plural(odd, "point")} not finite${whoseOdd(lines)}.`);
  if (leftOut) {
    said.push(
      `The ${lines.length} that are furthest from the others; ${plural(leftOut, "line")} nearer to the middle not drawn.`,
    );
  }
  return { nothing: count === odd, text: said.join(" ") };
}

function whoseOdd(lines) {
  const several = lines.length > 1 || lines[0].band > 1;
  const names = [...new Set(lines.flatMap((line) => line.odd_in))].slice(0, 5);
  return several ? ` (${names.join(", ")})` : "";
}

/** The lowest and the highest of a band at one place, and whose they are where that is known. */
export function endsOf(line, at, write) {
  if (line.band < 2 || typeof line.mean[at] !== "number") return "";
  const [low, high] = [line.low ?? line.mean, line.high ?? line.mean];
  const whose = (which) => (line.names ? ` (${line.names[which[at]]})` : "");
  return `, from ${write(low[at])}${whose(line.lowest)} to ${write(high[at])}${whose(line.highest)}`;
}

/** All of it as a table. */
export function tableOf({ x, lines, thinned }, { title, axis, nameOf }) {
  const columns = lines.slice(0, NAMED).flatMap((line) => columnsOf(line, nameOf(line)));
  const from = Math.max(0, x.length - ROWS);
  const rows = x
    .slice(from)
    .map((place, offset) => [
      axis === "step" ? number(place) : placeOf(place, axis),
      ...columns.map(([, cell]) => cell(from + offset)),
    ]);
  const heading = { step: "Step", elapsed: "Elapsed", time: "Time" }[axis];
  return [
    thinned && h("p.quiet", "Each row stands for several steps; zoom in to see them all."),
    from > 0 && h("p.quiet", `The last ${ROWS} of ${number(x.length)} rows.`),
    table(`Values of ${title}`, [[heading, "num"], ...columns.map(([name]) => [name, "num"])], rows),
  ];
}

function columnsOf(line, name) {
  const plain = (values) => (at) => number(values[at]);
  const [low, high] = [line.low ?? line.mean, line.high ?? line.mean];
  if (line.names) {
    const whose = (values, which) => (at) =>
      which[at] < 0 ? number(values[at]) : `${number(values[at])} ${line.names[which[at]]}`;
    return [
      [`${name} mean`, plain(line.mean)],
      ["Lowest", whose(low, line.lowest)],
      ["Highest", whose(high, line.highest)],
    ];
  }
  if (!line.low) return [[name, plain(line.mean)]];
  return [
    [`${name} mean`, plain(line.mean)],
    ["Min", plain(low)],
    ["Max", plain(high)],
  ];
}
