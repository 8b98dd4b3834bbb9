// Put together: the heatmaps, the model that is chosen, its lineage, the progress, the comparison.

const data = JSON.parse(document.getElementById("data").textContent);
const heatmaps = data.archives.map((archive) => new Heatmap(archive, data, chooseInHeatmap));

function choose(number, beside = []) {
  for (const heatmap of heatmaps) heatmap.mark(number);
  document.getElementById("elite").replaceChildren(...modelPanel(number, beside, data, choose));
  document.getElementById("lineage").replaceChildren(
    make("h3", {}, `Lineage of #${number}`),
    make("p", { class: "note" }, "Time runs to the right; colour is the mean search score. Choose an ancestor to look at it."),
    make("div", { class: "scroll" }, lineageGraph(number, data, choose)));
  const graph = document.querySelector("#lineage .scroll");
  graph.scrollLeft = graph.scrollWidth; // the chosen model stands at its right end
  window.history.replaceState(null, "", `#model-${number}`);
}

// Where the panel lies below the heatmaps, bring it into view.
function chooseInHeatmap(number, beside) {
  choose(number, beside);
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
