// Assembles the page: heatmaps, the selected model, its lineage, progress, comparison.

const data = JSON.parse(document.getElementById("data").textContent);
const heatmaps = data.archives.map((archive) => new Heatmap(archive, data, chooseInHeatmap));

function choose(number, sameCell = []) {
  for (const heatmap of heatmaps) heatmap.mark(number);
  document.getElementById("elite").replaceChildren(...modelPanel(number, sameCell, data, choose));
  document.getElementById("lineage").replaceChildren(
    make("h3", {}, `Lineage of #${number}`),
    make("p", { class: "note" }, "Time runs to the right; colour is the mean search score. Select an ancestor to see it."),
    make("div", { class: "scroll" }, lineageGraph(number, data, choose)));
  const graph = document.querySelector("#lineage .scroll");
  graph.scrollLeft = graph.scrollWidth; // the selected model is at the right end
  window.history.replaceState(null, "", `#model-${number}`);
}

// Scroll to the panel where it is below the heatmaps.
function chooseInHeatmap(number, sameCell) {
  choose(number, sameCell);
  const panel = document.getElementById("elite");
  if (window.matchMedia("(max-width: 900px)").matches) panel.scrollIntoView({ behavior: "smooth", block: "nearest" });
}

if (heatmaps.length) {
  document.getElementById("heatmaps").append(...heatmaps.map(({ node }) => node));
  const asked = Number(/^#model-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  const first = asked in data.evaluations ? asked : data.bestMean;
  if (first !== null) choose(first);
}
document.getElementById("charts")?.append(...(data.history.length ? progressCharts(data) : []));
document.querySelectorAll("table.sortable").forEach(makeSortable);
if (data.comparison) {
  const { curves, winners } = data.comparison;
  const charts = [curves.best_mean.length ? new CurvesChart(curves) : null, new WinnersChart(winners)];
  document.getElementById("comparison-charts").replaceChildren(...charts.filter(Boolean).map(({ node }) => node));
}
