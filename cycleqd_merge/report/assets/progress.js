// Three charts over generations that share one cursor, which pointer and arrow keys move.

const WIDTH = 360, HEIGHT = 190, LEFT = 38, RIGHT = 8, TOP = 10, BOTTOM = 26;
const LINES = ["var(--line-1)", "var(--line-2)", "var(--line-3)", "var(--line-4)", "var(--line-5)", "var(--line-6)"];
const PANELS = [
  // key, title, format of a reading, format of a tick
  ["best", "best quality", three, (value) => value.toFixed(2)],
  ["qd_score", "QD score", (value) => value.toFixed(2), (value) => value.toPrecision(3)],
  ["coverage", "coverage", (value) => `${(100 * value).toFixed(1)}%`, (value) => `${(100 * value).toFixed(0)}%`],
];

function progressCharts(data) {
  const { history, objectives } = data;
  const charts = PANELS.map((panel) => chart(history, panel, objectives));
  const point = (at) => charts.forEach((one) => one.point(at));
  let current = history.length - 1;
  const go = (at) => {
    current = Math.min(Math.max(at, 0), history.length - 1);
    point(current);
  };
  for (const { picture } of charts) {
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      go(Math.round(((x - LEFT) / (WIDTH - LEFT - RIGHT)) * (history.length - 1)));
    });
    picture.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      go(current + by);
    });
  }
  go(current);
  return charts.map(({ node }) => node);
}

function chart(history, [key, title, format, tick], objectives) {
  const values = history.map((entry) => entry[key]);
  const top = Math.max(...values.flat().filter((value) => value !== null), 1e-9);
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * at) / Math.max(history.length - 1, 1);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / top;
  const lines = objectives.map((_, k) => draw("polyline", {
    class: "line", stroke: LINES[k % LINES.length], "stroke-dasharray": k < LINES.length ? null : "5 3",
    points: values.flatMap((row, at) => (row[k] === null ? [] : [`${x(at).toFixed(1)},${y(row[k]).toFixed(1)}`])).join(" "),
  }));
  const ticks = [0, 0.5, 1].flatMap((share) => [
    draw("line", { class: "tick", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share * top), y2: y(share * top) }),
    draw("text", { x: LEFT - 5, y: y(share * top) + 4, "text-anchor": "end" }, tick(share * top)),
  ]);
  const ends = [[0, "start"], [history.length - 1, "end"]].map(([at, anchor]) =>
    draw("text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, `${anchor === "start" ? "generation " : ""}${history[at].generation}`));
  const cursor = draw("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "img", "aria-label": `${title} over generations` }, ticks, ends, lines, cursor);
  const readings = objectives.map((name, k) => ({ line: LINES[k % LINES.length], name, value: make("b") }));
  const list = make("ul", { class: "readings" }, readings.map(({ line, name, value }) =>
    make("li", {}, make("span", { class: "swatch", style: `background: ${line}` }), `${name} `, value)));
  const when = make("span", { class: "when" });
  const node = make("figure", { class: "chart" }, make("figcaption", {}, make("b", {}, title), when), picture, list);
  const point = (at) => {
    fill(cursor, { x1: x(at), x2: x(at) }, []);
    when.textContent = `generation ${history[at].generation}`;
    readings.forEach(({ value }, k) => { value.textContent = values[at][k] === null ? "–" : format(values[at][k]); });
  };
  return { node, picture, point };
}
