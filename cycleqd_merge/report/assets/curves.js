// Progress of each strategy over evaluations: the mean over seeds, with a band from the lowest seed to the highest.

const CURVES = {
  // key: title, format
  best_mean: ["best mean (search score)", three],
  hypervolume: ["hypervolume (search scores)", (value) => value.toFixed(4)],
  qd_score: ["QD score (sum over archives)", (value) => value.toFixed(2)],
  coverage: ["coverage (mean over archives)", (value) => `${(100 * value).toFixed(1)}%`],
};

class CurvesChart {
  constructor(curves) {
    this.curves = curves;
    this.plot = new Plot("Progress of the strategies over evaluations; arrow keys move the cursor", (width, height) => this.paint(width, height));
    this.list = make("ul", { class: "readings" });
    this.when = make("span", { class: "when" });
    this.plot.node.addEventListener("pointermove", (event) => this.pointed(event));
    this.plot.node.addEventListener("keydown", (event) => this.pressed(event));
    const options = Object.entries(CURVES).map(([key, [title]]) => make("option", { value: key }, title));
    const select = make("select", { "aria-label": "Value over evaluations", onchange: () => this.show(select.value) }, options);
    this.node = make("figure", { class: "chart" }, make("figcaption", {}, select, this.when), this.plot.node, this.list);
    this.show("best_mean");
  }

  show(key) {
    this.bands = this.curves[key];
    this.format = CURVES[key][1];
    this.ticks = roundTicks(this.bands.flatMap(({ low, high }) => [...low, ...high]));
    this.marks = [...new Set(this.bands.flatMap(({ evaluations }) => evaluations))].sort((a, b) => a - b);
    this.go(this.at ?? this.marks.length - 1);
  }

  go(at) {
    this.at = Math.min(Math.max(at, 0), this.marks.length - 1);
    const mark = this.marks[this.at];
    this.when.textContent = `after ${mark} evaluations`;
    this.list.replaceChildren(...this.bands.map((band) => this.reading(band, mark)));
    this.plot.redraw();
  }

  reading(band, mark) {
    const { name, evaluations, mean, low, high } = band;
    const last = evaluations.findLastIndex((number) => number <= mark);
    const value = last < 0 ? "–" : this.format(mean[last]);
    const spread = last < 0 || low[last] === high[last] ? null : make("small", {}, ` ${this.format(low[last])} to ${this.format(high[last])}`);
    return make("li", {}, lineSwatch(band), `${name} `, make("b", {}, value), spread);
  }

  paint(width, height) {
    const [first, last] = [this.marks[0], this.marks.at(-1)], [low, high] = [this.ticks[0], this.ticks.at(-1)];
    this.x = (mark) => LEFT + ((width - LEFT - RIGHT) * (mark - first)) / Math.max(last - first, 1);
    const y = (value) => height - BOTTOM - ((height - TOP - BOTTOM) * (value - low)) / (high - low);
    const path = ({ evaluations }, values) => evaluations.map((mark, at) => [this.x(mark), y(values[at])]);
    const cursor = this.x(this.marks[this.at]);
    return [
      this.ticks.flatMap((tick) => [
        draw("line", { class: "tick", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
        draw("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, this.tickText(tick)),
      ]),
      draw("text", { x: LEFT, y: height - 8 }, `${first}`),
      draw("text", { x: (LEFT + width - RIGHT) / 2, y: height - 8, "text-anchor": "middle" }, "evaluations"),
      draw("text", { x: width - RIGHT, y: height - 8, "text-anchor": "end" }, `${last}`),
      this.bands.map((band) => draw("polygon", { class: "band", fill: lineStyle(band.style).stroke, points: points([...path(band, band.low), ...path(band, band.high).reverse()]) })),
      this.bands.map((band) => draw("polyline", { class: band.reference ? "line reference" : "line", points: points(path(band, band.mean)), ...lineStyle(band.style) })),
      draw("line", { class: "cursor", x1: cursor, x2: cursor, y1: TOP, y2: height - BOTTOM }),
    ];
  }

  tickText(tick) {
    return this.bands === this.curves.coverage ? `${Number((100 * tick).toPrecision(6))}%` : `${tick}`;
  }

  pointed({ clientX }) {
    const x = clientX - this.plot.node.getBoundingClientRect().left;
    const away = this.marks.map((mark) => Math.abs(this.x(mark) - x));
    this.go(away.indexOf(Math.min(...away)));
  }

  pressed(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.go(this.at + by);
  }
}
