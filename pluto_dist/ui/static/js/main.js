// Which view is shown: the part of the address behind # says it, so that every view can be linked and kept.
//
//   #/                        the list           ?text= &status= &project= &sort=
//   #/run/KEY/TAB             one Run
//   #/compare/TAB?run=KEY…    several

import { h, fill } from "./dom.js";
import { showRuns } from "./runs.js";
import { showRun } from "./run.js";
import { showCompare } from "./compare.js";

const main = document.getElementById("main");
let leave = () => {};
let shown = "";

function route() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [view = "", ...parts] = path.split("/").slice(1).map(decodeURIComponent);
  const given = new URLSearchParams(query);
  const wanted =
    view === "run" ? `run/${parts[0]}` : view === "compare" ? `compare?${given.getAll("run")}` : "";
  if (wanted && wanted === shown)
    return void window.dispatchEvent(new CustomEvent("tab", { detail: parts.at(-1) }));
  leave();
  shown = wanted;
  window.scrollTo(0, 0);
  if (view === "run") leave = showRun(main, parts[0] ?? "", parts[1] ?? "");
  else if (view === "compare") leave = showCompare(main, given.getAll("run"), parts[0] ?? "");
  else leave = showRuns(main, given);
  main.focus({ preventScroll: true });
}

function theme() {
  const select = document.getElementById("theme");
  select.value = localStorage.getItem("theme") ?? "";
  const apply = () => {
    document.documentElement.dataset.theme = select.value;
    window.dispatchEvent(new Event("theme"));
  };
  select.addEventListener("change", () => {
    localStorage.setItem("theme", select.value);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", route);
window.addEventListener("error", (event) =>
  fill(main, h("p.problem", `This page has a fault: ${event.message}`)),
);
theme();
route();
