// Numbers, times and sizes for people.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

export function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return GROUPED.format(value);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(3) : DIGITS.format(value);
}

/** 5581708 → 5.58 M */
export function short(value) {
  if (value === null || value === undefined) return "";
  for (const [limit, unit] of [
    [1e9, " G"],
    [1e6, " M"],
    [1e4, " k"],
  ]) {
    if (Math.abs(value) >= limit)
      return `${Number((value / (limit === 1e4 ? 1e3 : limit)).toPrecision(3))}${unit}`;
  }
  return number(value);
}

export function bytes(value) {
  if (value === null || value === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (Math.abs(value) >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${Number(value.toPrecision(3))} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const ago = (ms, now = Date.now()) =>
  ms === null
    ? ""
    : `${span((now - ms) / 1000)
        .split(" ")
        .slice(0, 2)
        .join(" ")} ago`;

const two = (value) => String(value).padStart(2, "0");

export function clock(ms, { day = true, milliseconds = false } = {}) {
  if (ms === null || ms === undefined) return "";
  const at = new Date(ms);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const full = milliseconds ? `${time}.${String(at.getMilliseconds()).padStart(3, "0")}` : time;
  return day ? `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${full}` : full;
}

/** Seconds on an axis: 90 → 1:30 */
export function elapsed(seconds) {
  const sign = seconds < 0 ? "-" : "";
  const whole = Math.abs(seconds);
  if (whole < 60 && whole % 1) return `${sign}${whole.toFixed(1)}`;
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, Math.floor(whole % 60)];
  return sign + (parts[0] ? `${parts[0]}:${two(parts[1])}:${two(parts[2])}` : `${parts[1]}:${two(parts[2])}`);
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
