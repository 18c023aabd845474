"use strict";
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
function draw() {
  for (const place of document.querySelectorAll("[data-spec]")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: config(), tooltip: { theme: dark.matches ? "dark" : "light" } })
      .catch((error) => { place.textContent = "This chart could not be drawn: " + error.message; });
  }
}
draw();
dark.addEventListener("change", draw);
