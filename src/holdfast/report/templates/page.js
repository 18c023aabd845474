"use strict";
const contents = document.querySelector(".toc");
if (contents && matchMedia("(min-width: 1100px)").matches) contents.open = true;
const dark = matchMedia("(prefers-color-scheme: dark)");
const font = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
function config() {
  const ink = dark.matches ? "#e6e8eb" : "#1b1f24", quiet = dark.matches ? "#9aa4b2" : "#5b6472", line = dark.matches ? "#30363f" : "#e5e8ec";
  return {
    background: null, font, view: { stroke: null }, text: { color: ink, fontSize: 12 }, rule: { color: ink },
    axis: { labelColor: quiet, titleColor: quiet, titleFontWeight: "normal", gridColor: line, domainColor: line, tickColor: line, labelFontSize: 11, titleFontSize: 12 },
    axisY: { labelColor: ink, domain: false, ticks: false },
  };
}
const read = (id) => JSON.parse(document.getElementById(id).textContent);
function rows(table) {
  const columns = Object.entries(table.columns).map(([name, column]) => [
    name, Array.isArray(column) ? (row) => column[row] : "of" in column ? (row) => column.of[column.at[row]] : () => column.all,
  ]);
  return Array.from({ length: table.n }, (_, row) => Object.fromEntries(columns.map(([name, value]) => [name, value(row)])));
}
/** A chart is one image with a name: its marks have roles of their own, some without one, and its numbers are in the tables. */
function name(place, about) {
  const image = place.querySelector("svg");
  image.querySelectorAll("[role]").forEach((mark) => ["role", "aria-roledescription", "aria-label"].forEach((each) => mark.removeAttribute(each)));
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", about);
}
function draw(place) {
  const panel = read(place.dataset.spec), spec = read(panel.spec);
  spec.description = panel.about;
  spec.datasets = Object.fromEntries(Object.entries(panel.data).map(([name, table]) => [name, rows(table)]));
  place.dataset.drawn = dark.matches ? "dark" : "light";
  vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: config(), tooltip: { theme: place.dataset.drawn } })
    .then(() => name(place, panel.about))
    .then(() => { if (aim) aim.scrollIntoView(); })
    .catch((error) => { place.textContent = "This chart could not be drawn: " + error.message; });
}
// Charts above a place that was linked to move it when they are drawn, until its reader goes elsewhere.
let aim = null;
const take = () => { aim = document.getElementById(location.hash.slice(1).split("?")[0]); };
addEventListener("hashchange", take);
// A page that is loaded again or gone back to is where its reader was.
if (performance.getEntriesByType("navigation")[0]?.type === "navigate") take();
["wheel", "touchmove", "keydown", "mousedown"].forEach((moved) => addEventListener(moved, () => { aim = null; }, { passive: true }));
const places = [...document.querySelectorAll("[data-spec]")];
const due = (place) => { if (!place.dataset.drawn) draw(place); };
const near = new IntersectionObserver((seen) => {
  for (const { target } of seen.filter((one) => one.isIntersecting)) {
    near.unobserve(target);
    due(target);
  }
}, { rootMargin: "400px" });
places.forEach((place) => near.observe(place));
// Few charts are all drawn once the page stands, one after the other so that it can be read meanwhile: a page that is
// printed to an image is never scrolled.
function next(rest) {
  if (!rest.length) return;
  due(rest[0]);
  setTimeout(next, 0, rest.slice(1));
}
if (places.length <= 24) addEventListener("load", () => setTimeout(next, 0, places));
dark.addEventListener("change", () => places.filter((place) => place.dataset.drawn).forEach(draw));
addEventListener("beforeprint", () => places.forEach(due));
