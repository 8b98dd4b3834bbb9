// Shared by the charts of a comparison: a drawing that fills its container, round ticks, and a style per line.

const DASHES = [null, "7 4", "2 3", "10 3 2 3", "4 2"]; // 30 styles with the colours, distinguishable without colour too

function lineStyle(number) {
  return { stroke: LINES[number % LINES.length], "stroke-dasharray": DASHES[number % DASHES.length] };
}

function lineSwatch({ style, reference }) {
  return draw("svg", { class: "line-swatch", viewBox: "0 0 30 8", "aria-hidden": "true" },
    draw("line", { class: reference ? "line reference" : "line", x1: 0, x2: 30, y1: 4, y2: 4, ...lineStyle(style) }));
}

// An SVG element in CSS pixels: `paint(width, height)` gives its children, again whenever its size changes.
class Plot {
  constructor(label, paint) {
    this.paint = paint;
    this.node = draw("svg", { class: "plot", role: "img", "aria-label": label, tabindex: 0 });
    new ResizeObserver(([{ contentRect }]) => {
      [this.width, this.height] = [contentRect.width, contentRect.height];
      this.redraw();
    }).observe(this.node);
  }

  redraw() {
    if (this.width) this.node.replaceChildren(...this.paint(this.width, this.height).flat().filter((child) => child !== null));
  }
}

// Round numbers around all values, at even steps.
function roundTicks(values, most = 5) {
  const low = Math.min(...values), high = Math.max(...values);
  const rough = (high - low) / most || 0.1;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((factor) => factor * size >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const points = (pairs) => pairs.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
