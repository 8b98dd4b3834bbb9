"""One table in four forms: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from cycleqd_merge.comparison.statistics import Gap, Interval
from cycleqd_merge.hub.markdown import cell as escaped

Form = Callable[[Any], str]
Cell = str | int | float | Interval | Gap | tuple[float, ...] | None


def score(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """A share or score in percent, as the paper prints it."""
    return f"{100 * value:.1f}"


def span(value: Interval) -> str:
    """The ends of an interval alone."""
    return f"{value.low:.3f} to {value.high:.3f}"


def change(value: Interval) -> str:
    """A difference with the ends of its interval."""
    return f"{value.estimate:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def gap(value: Gap) -> str:
    """A gap with its standard error."""
    return f"{value.difference:+.3f}" + ("" if value.error is None else f" ± {value.error:.3f}")


def scores(value: tuple[float, ...]) -> str:
    """Several scores in a row."""
    return " ".join(map(score, value))


@dataclass(frozen=True, slots=True)
class Column:
    """A column: how its values are written for people, and whether the highest is marked."""

    heading: str
    form: Form = str
    best: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it is set flush left."""
        return self.form is str


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as values. Each row has a value per column, None where there is none.

    sections: by the number of a row, the name of the section that starts with it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sections: Mapping[int, str] = field(default_factory=dict)

    def written(self) -> Iterator[list[tuple[str, bool]]]:
        """By row, each cell as people read it, and whether it is the best of its column."""
        best = [self._best(place) if column.best else None for place, column in enumerate(self.columns)]
        for row in self.rows:
            cells = zip(self.columns, row, best, strict=True)
            yield [
                ("-" if value is None else column.form(value), top is not None and value == top)
                for column, value, top in cells
            ]

    def _best(self, place: int) -> float | None:
        numbers = (row[place] for row in self.rows)
        return max((number for number in numbers if isinstance(number, float)), default=None)


def terminal(sheet: Sheet) -> Table:
    """A sheet for a terminal; the best of a column is bold."""
    table = Table(title=Text(sheet.title), title_justify="left")
    for column in sheet.columns:
        table.add_column(Text(column.heading), justify="left" if column.is_text else "right", overflow="fold")
    for number, row in enumerate(sheet.written()):
        if number in sheet.sections:
            table.add_section()
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    return table


def markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown table under its title; the best of a column is bold, sections are rows of their own."""
    names = [escaped(column.heading) for column in sheet.columns]
    rules = [":--" if column.is_text else "--:" for column in sheet.columns]
    lines = [f"**{escaped(sheet.title)}**", "", _line(names), _line(rules)]
    for number, row in enumerate(sheet.written()):
        if number in sheet.sections:
            name = f"*{escaped(sheet.sections[number])}*"
            lines.append(_line([name if column.is_text else "" for column in sheet.columns]))
        lines.append(_line([f"**{escaped(text)}**" if best else escaped(text) for text, best in row]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def records(sheet: Sheet) -> list[dict[str, Any]]:
    """A sheet's rows as JSON values by heading, in full precision, with the section's name where there are sections."""
    found, section = [], ""
    for number, row in enumerate(sheet.rows):
        section = sheet.sections.get(number, section)
        record: dict[str, Any] = {"section": section} if sheet.sections else {}
        for column, value in zip(sheet.columns, row, strict=True):
            if isinstance(value, Interval | Gap):
                record[column.heading] = asdict(value)
            else:
                record[column.heading] = list(value) if isinstance(value, tuple) else value
        found.append(record)
    return found


def csv_text(sheet: Sheet) -> str:
    """A sheet as CSV in full precision: an interval or gap takes a column per part, several scores stand in one."""
    found = records(sheet)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headings = list(found[0]) if found else [column.heading for column in sheet.columns]
    parts = {heading: _parts([record[heading] for record in found]) for heading in headings}
    writer.writerow(f"{heading}{part and ': '}{part}" for heading in headings for part in parts[heading])
    for record in found:
        writer.writerow(_flat(record[heading], part) for heading in headings for part in parts[heading])
    return text.getvalue()


def _parts(values: list[Any]) -> list[str]:
    """The parts of a column's values; one without a name where they have none."""
    return list(next((value for value in values if isinstance(value, dict)), {"": None}))


def _flat(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        value = value[part]
    return " ".join(map(repr, value)) if isinstance(value, list) else value
