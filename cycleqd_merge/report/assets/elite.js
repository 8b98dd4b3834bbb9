// One model: its origin, scores, cells and composition, and the command that exports it.

const DROPPED = "It was rejected early, by its scores on some of the rows.";

function modelPanel(number, sameCell, data, choose) {
  const { step, scores, error, censored } = data.evaluations[number];
  return [
    make("h3", {}, `#${number}`, number === data.bestMean ? make("small", {}, " best mean") : null),
    sameCell.length > 1 ? stack(number, sameCell, choose) : null,
    make("p", { class: "origin" }, origin(number, step, data)),
    scores === null ? make("p", { class: "note" }, censored ? DROPPED : `Its evaluation failed: ${error}`)
      : scoreTable(number, scores, data),
    cells(number, data),
    composition(data.evaluations[number], data),
    command(number, data),
  ].filter((part) => part !== null);
}

// Elites that a projection puts in the same cell.
function stack(number, sameCell, choose) {
  const place = sameCell.indexOf(number);
  const go = (by) => () => choose(sameCell[(place + by + sameCell.length) % sameCell.length], sameCell);
  return make("p", { class: "stack" },
    make("button", { type: "button", onclick: go(-1), "aria-label": "previous" }, "‹"),
    ` ${place + 1} of ${sameCell.length} in this cell `,
    make("button", { type: "button", onclick: go(1), "aria-label": "next" }, "›"));
}

function origin(number, step, data) {
  if (step.expert !== undefined) return `Expert ${data.experts[step.expert]}, a founder of this run.`;
  if (step.level !== undefined) return `Warm start: ${step.level} of every expert.`;
  if (step.seed !== undefined) return "A founder of this run.";
  if (step.fit !== undefined) return `Fit ${step.fit + 1}, a founder of this run: its coefficients were learned by gradient.`;
  const parts = [`Generation ${number - data.first + 1}`];
  if (step.parents?.length) parts.push(`crossover of ${step.parents.map((parent) => `#${parent}`).join(" and ")}`);
  const { mutation } = step;
  if (mutation) parts.push(`${mutation.kind} mutation${mutation.expert === undefined ? "" : ` along ${data.experts[mutation.expert]}`}${mutation.of === "child" ? " along the child" : ""}`);
  return `${parts.join(", ")}.`;
}

function scoreTable(number, scores, data) {
  const { confirm, heldout } = data.evaluations[number];
  const head = ["task", "search", confirm ? "confirm" : null, heldout ? "held-out" : null].filter(Boolean);
  const row = (name, values) => make("tr", {}, make("th", { scope: "row" }, name), values.map((value) => make("td", { class: "number" }, value)));
  const rows = data.tasks.map((task, i) => row(task, [three(scores[i]),
    ...(confirm ? [three(confirm[i])] : []),
    ...(heldout ? [heldout[task] ? withError(heldout[task]) : "–"] : [])]));
  const means = [three(meanScore(scores, data)),
    ...(confirm ? [three(meanScore(confirm, data))] : []),
    ...(heldout ? [data.objectives.every((task) => heldout[task]) ? three(meanScore(data.objectives.map((task) => heldout[task].score), data)) : "–"] : [])];
  return make("table", { class: "compact" },
    make("thead", {}, make("tr", {}, head.map((name, i) => make("th", { scope: "col", class: i ? "number" : "" }, name)))),
    make("tbody", {}, rows, row("mean", means)));
}

function withError({ score, error }) {
  return error === null ? three(score) : `${three(score)} ±${three(error)}`;
}

function cells(number, data) {
  const held = data.archives.flatMap(({ task, elites }) =>
    elites.filter((elite) => elite.number === number).map((elite) => `${task}:${elite.cell.join(",")}`));
  return make("p", { class: "cells" }, held.length ? "Elite in " : "Not an elite.", held.map((cell) => make("code", {}, cell)));
}

// Its coefficient of each expert per group of tensors; or its mergekit configuration.
function composition(model, data) {
  if (model.configuration) {
    const { yaml, seed } = model.configuration;
    return make("details", { open: true }, make("summary", {}, `mergekit configuration, random seed ${seed}`), make("pre", { tabindex: 0 }, yaml));
  }
  if (!model.coefficients) return null;
  const { coefficients, mutations } = model;
  const largest = Math.max(1, ...coefficients.flat().map(Math.abs));
  const cell = (value) => make("td", { class: "number share", style: `--share: ${Math.abs(value) / largest}` }, three(value));
  const rows = data.groups.map((group, g) => make("tr", {}, make("th", { scope: "row" }, group), coefficients.map((own) => cell(own[g]))));
  return make("details", { open: data.groups.length <= 8 },
    make("summary", {}, `Composition: ${data.experts.length} task vectors, ${mutations} mutation${mutations === 1 ? "" : "s"}`),
    make("div", { class: "scroll", role: "region", "aria-label": "Coefficients", tabindex: 0 }, make("table", { class: "compact" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "group"), data.experts.map((name) => make("th", { scope: "col", class: "number" }, name)))),
      make("tbody", {}, rows))));
}

function command(number, data) {
  const text = `${data.export} '#${number}' model-${number}`;
  const button = make("button", { type: "button", class: "copy", onclick: () => copy(text, button) }, "Copy");
  return make("div", { class: "command" }, make("code", { tabindex: 0 }, text), button);
}

function copy(text, button) {
  const done = () => {
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  navigator.clipboard?.writeText(text).then(done, () => { button.textContent = "Select the text"; });
}
