// The winners in parallel coordinates: an axis per task and for the mean, a line per model. Selecting one shows its scores.

const HEAD = TOP + 14; // room for the value of a point at the top

class WinnersChart {
  constructor({ axes, lines }) {
    [this.axes, this.lines, this.chosen] = [axes, lines, null];
    this.ticks = roundTicks([0, ...lines.flatMap(({ values, interval }) => [...values, ...(interval ?? [])])]);
    this.plot = new Plot("Held-out scores of the winners, task by task", (width, height) => this.paint(width, height));
    this.buttons = lines.map((line, place) => make("button", {
      type: "button", "aria-pressed": false, onclick: () => this.choose(this.chosen === place ? null : place),
    }, lineSwatch(line), `${line.name} `, make("b", {}, three(line.values.at(-1)))));
    this.node = make("figure", { class: "chart" },
      make("figcaption", {}, make("b", {}, "held-out scores of the winners"), make("span", { class: "when" }, "select one")),
      this.plot.node, make("div", { class: "readings" }, this.buttons));
  }

  choose(place) {
    this.chosen = place;
    this.buttons.forEach((button, at) => button.setAttribute("aria-pressed", at === place));
    this.plot.redraw();
  }

  paint(width, height) {
    const high = this.ticks.at(-1), low = Math.min(this.ticks[0], 0), step = (width - LEFT - 5 * RIGHT) / (this.axes.length - 1);
    const x = (axis) => LEFT + RIGHT + step * axis;
    const y = (value) => height - BOTTOM - ((height - HEAD - BOTTOM) * (value - low)) / (high - low);
    const last = this.axes.length - 1;
    return [
      this.ticks.map((tick) => draw("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, `${tick}`)),
      this.ticks.map((tick) => draw("line", { class: "tick", x1: LEFT, x2: width, y1: y(tick), y2: y(tick) })),
      this.axes.flatMap((name, axis) => [
        draw("line", { class: "coordinate", x1: x(axis), x2: x(axis), y1: HEAD, y2: height - BOTTOM }),
        draw("text", { x: x(axis), y: height - 8, "text-anchor": axis === 0 ? "start" : axis === last ? "end" : "middle" }, shortened(name, step / 7)),
      ]),
      this.lines.map((line, place) => this.winner(line, place, x, y)),
    ];
  }

  winner({ name, style: number, reference, values, interval }, place, x, y) {
    const style = lineStyle(number), chosen = this.chosen === place;
    const barX = x(this.axes.length - 1) + 4 + (4 * RIGHT - 8) * (place + 1) / (this.lines.length + 1); // bars side by side
    return draw("g", { class: this.chosen === null || chosen ? "winner" : "winner faded" },
      draw("title", {}, name),
      draw("polyline", { class: reference ? "line reference" : "line", points: points(values.map((value, axis) => [x(axis), y(value)])), ...style }),
      values.map((value, axis) => draw("circle", { cx: x(axis), cy: y(value), r: reference ? 4 : 3, fill: style.stroke })),
      interval && draw("line", { class: "interval", stroke: style.stroke, x1: barX, x2: barX, y1: y(interval[0]), y2: y(interval[1]) }),
      chosen ? values.map((value, axis) => draw("text", { class: "value", x: x(axis) + (axis ? -7 : 7), y: y(value) - 7, "text-anchor": axis ? "end" : "start" }, three(value))) : null);
  }
}

function shortened(name, most) {
  return name.length > most ? `${name.slice(0, Math.max(Math.floor(most) - 1, 1))}…` : name;
}
