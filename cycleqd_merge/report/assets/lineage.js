// The ancestors of a model as a graph: time runs to the right, lines go from parents to children.

const STEP = 46, SPREAD = 40, MARGIN = 30;

function lineageGraph(number, data, choose) {
  const line = data.evaluations[number].lineage;
  const order = line.map(([ancestor]) => ancestor).sort((a, b) => a - b);
  const rows = line.map(([, row]) => row);
  const [lowest, highest] = [Math.min(...rows), Math.max(...rows)];
  const at = new Map(line.map(([ancestor, row]) =>
    [ancestor, [MARGIN + STEP * order.indexOf(ancestor), MARGIN + SPREAD * (highest - row)]]));
  const width = 2 * MARGIN + STEP * (order.length - 1), height = 2 * MARGIN + SPREAD * (highest - lowest);
  const picture = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Ancestors of #${number}` });
  for (const [child, end] of at)
    for (const parent of data.evaluations[child].step.parents ?? [])
      if (at.has(parent)) picture.append(edge(at.get(parent), end));
  for (const ancestor of order) picture.append(ancestorNode(ancestor, at.get(ancestor), number, data, choose));
  return picture;
}

function edge([x1, y1], [x2, y2]) {
  const bend = (x2 - x1) / 2;
  return draw("path", { class: "edge", d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` });
}

function ancestorNode(ancestor, [x, y], chosen, data, choose) {
  const { scores } = data.evaluations[ancestor];
  const mean = scores === null ? null : meanScore(scores, data);
  const name = ancestor < data.experts.length ? data.experts[ancestor] : `#${ancestor}`;
  const label = mean === null ? `${name}: failed` : `${name}: mean ${three(mean)}`;
  const choosing = () => choose(ancestor);
  const pressed = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choosing();
  };
  return draw("g", { class: ancestor === chosen ? "ancestor chosen" : "ancestor", role: "button", tabindex: 0, "aria-label": label, onclick: choosing, onkeydown: pressed },
    draw("title", {}, label),
    draw("circle", { cx: x, cy: y, r: 11, fill: mean === null ? "var(--empty)" : viridis(mean) }),
    draw("text", { x, y: y - 16, "text-anchor": "middle" }, name.length > 9 ? `${name.slice(0, 8)}…` : name));
}

function meanScore(scores, data) {
  const counted = scores.slice(0, data.objectives.length);
  return counted.reduce((sum, score) => sum + score, 0) / counted.length;
}
