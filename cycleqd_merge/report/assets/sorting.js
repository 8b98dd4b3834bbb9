// Tables that a click on a heading sorts: numbers in descending, text in ascending order; a second click reverses it.

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button", onclick: () => sortBy(table, head) });
    button.append(...head.childNodes);
    head.append(button);
  }
}

function sortBy(table, head) {
  const usual = head.classList.contains("number") ? "descending" : "ascending";
  const other = usual === "descending" ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === usual ? other : usual;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const value = (row) => row.cells[head.cellIndex].dataset.value;
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => sign * (head.classList.contains("number") ? value(a) - value(b) : value(a).localeCompare(value(b)));
  const [body] = table.tBodies;
  const known = [...body.rows].filter((row) => value(row) !== undefined);
  const unknown = [...body.rows].filter((row) => value(row) === undefined); // always last
  body.append(...known.sort(compare), ...unknown);
}
