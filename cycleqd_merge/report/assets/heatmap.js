// One archive as a heatmap: a button per elite on a grid of cells. With more than two other tasks it shows two of them
// at a time, and in each cell the best quality over the remaining ones.

class Heatmap {
  constructor(archive, data, choose) {
    this.archive = archive;
    this.data = data;
    this.choose = choose;
    this.pairs = pairsOf(archive.others.length);
    this.grid = make("div", { class: "grid", role: "group", "aria-label": `Archive ${archive.task}` });
    this.grid.addEventListener("keydown", (event) => this.move(event));
    const [low, high] = archive.bounds[archive.task];
    this.scale = [Math.max(low, 0), Math.min(high, 1)];
    this.node = make("figure", { class: "heatmap" }, this.caption(), this.axesChoice(), this.frame(), this.legend());
    this.show(this.pairs[0]);
  }

  caption() {
    const { task, coverage, qd_score, elites } = this.archive;
    const facts = `${elites.length} elites, ${(100 * coverage).toFixed(1)}% covered, QD ${qd_score.toFixed(2)}`;
    return make("figcaption", {}, make("b", {}, task), " ", make("span", {}, facts));
  }

  axesChoice() {
    if (this.pairs.length === 1) return null;
    const { others } = this.archive;
    const options = this.pairs.map(([x, y], at) => make("option", { value: at }, `${others[x]} × ${others[y]}`));
    return make("label", { class: "axes" }, "Axes ",
      make("select", { onchange: (event) => this.show(this.pairs[event.target.value]) }, options));
  }

  frame() {
    this.left = make("div", { class: "axis left" });
    this.bottom = make("div", { class: "axis bottom" });
    return make("div", { class: "frame" }, this.left, this.grid, this.bottom);
  }

  legend() {
    const stops = Array.from({ length: 11 }, (_, i) => viridis(i / 10)).join(", ");
    return make("div", { class: "legend", "aria-hidden": "true" }, `${this.archive.task} `, this.scale[0].toFixed(2),
      make("span", { class: "ramp", style: `background: linear-gradient(to right, ${stops})` }), this.scale[1].toFixed(2));
  }

  show([x, y]) {
    const { others, shape, bounds } = this.archive;
    const columns = shape[x], rows = y === undefined ? 1 : shape[y];
    this.places = new Map();
    for (const elite of this.archive.elites) {
      const place = { column: elite.cell[x], row: y === undefined ? 0 : elite.cell[y], elites: [] };
      const key = `${place.column},${place.row}`;
      if (!this.places.has(key)) this.places.set(key, place);
      this.places.get(key).elites.push(elite);
    }
    const quality = (elite) => this.data.evaluations[elite.number].scores[this.data.tasks.indexOf(this.archive.task)];
    for (const place of this.places.values()) place.elites.sort((a, b) => quality(b) - quality(a));
    this.grid.style.cssText = `--columns: ${columns}; --rows: ${rows}`;
    this.grid.classList.toggle("strip", rows === 1);
    this.grid.replaceChildren(...[...this.places.values()].map((place) => this.button(place, rows, quality)));
    fill(this.bottom, {}, []).replaceChildren(...axis(others[x], bounds[others[x]]));
    this.left.replaceChildren(...(y === undefined ? [] : axis(others[y], bounds[others[y]])));
    this.mark(this.chosen);
  }

  button(place, rows, quality) {
    const best = place.elites[0];
    const [low, high] = this.scale;
    const share = high > low ? (quality(best) - low) / (high - low) : 1;
    const more = place.elites.length > 1 ? `, best of ${place.elites.length} in this cell` : "";
    const star = best.number === this.data.bestMean;
    const label = `${this.archive.task}:${best.cell.join(",")} #${best.number}, ${three(quality(best))}${star ? ", best mean" : ""}${more}`;
    place.button = make("button", {
      type: "button", title: label, "aria-label": label, tabindex: -1, class: share > 0.6 ? "light" : "dark",
      style: `grid-area: ${rows - place.row} / ${place.column + 1}; background: ${viridis(share)}`,
      onclick: () => this.choose(best.number, place.elites.map((elite) => elite.number)),
    }, star ? "★" : "");
    return place.button;
  }

  // Mark the cell of a model. Keyboard focus enters the heatmap there, or at the first elite.
  mark(number) {
    this.chosen = number;
    let entry = null;
    for (const { elites, button } of this.places.values()) {
      const here = elites.some((elite) => elite.number === number);
      button.setAttribute("aria-pressed", here);
      button.tabIndex = -1;
      if (here) entry = button;
    }
    entry ??= this.grid.firstElementChild;
    if (entry) entry.tabIndex = 0;
  }

  // Arrow keys go to the nearest elite in their direction.
  move(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const places = [...this.places.values()];
    const from = places.find((place) => place.button === document.activeElement);
    if (!step || !from) return;
    event.preventDefault();
    let nearest = null;
    for (const place of places) {
      const along = (place.column - from.column) * step[0] + (place.row - from.row) * step[1];
      const across = Math.abs((place.column - from.column) * step[1]) + Math.abs((place.row - from.row) * step[0]);
      const cost = along + 2 * across;
      if (along > 0 && (nearest === null || cost < nearest.cost)) nearest = { cost, button: place.button };
    }
    if (nearest === null) return;
    from.button.tabIndex = -1;
    nearest.button.tabIndex = 0;
    nearest.button.focus();
  }
}

function pairsOf(count) {
  const pairs = [];
  for (let x = 0; x < count; x++) for (let y = x + 1; y < count; y++) pairs.push([x, y]);
  return pairs.length ? pairs : [[0]];
}

function axis(name, [low, high]) {
  return [make("span", {}, low.toFixed(2)), make("span", { class: "name" }, name), make("span", {}, high.toFixed(2))];
}
