"""One table in four forms: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
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


@dataclass(frozen=True, slots=True)
class Terminal:
    """A sheet for a terminal of any width; the best of a column is bold.

    What is wider goes on in a further table below, which begins with the column of names (the first of texts) again.
    """

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        written = list(self.sheet.written())
        widths = [self._width(place, written) for place in range(len(self.sheet.columns))]
        for number, places in enumerate(self._parts(widths, options.max_width)):
            table = Table(title=Text(self.sheet.title) if number == 0 else None, title_justify="left")
            for place in places:
                column = self.sheet.columns[place]
                justify: JustifyMethod = "left" if column.is_text else "right"
                heading = Text("\n".join(wrap(column.heading, widths[place], break_on_hyphens=False)))
                table.add_column(heading, justify=justify, overflow="fold")
            for place, row in enumerate(written):
                if place in self.sheet.sections:
                    table.add_section()
                table.add_row(*(Text(row[at][0], style="bold" if row[at][1] else "") for at in places))
            yield table

    def _width(self, place: int, written: list[list[tuple[str, bool]]]) -> int:
        """Characters of a column whose cells stand on one line, and its heading on as many as that leaves it."""
        texts = (*self.sheet.columns[place].heading.split(), *(row[place][0] for row in written))
        return max(map(cell_len, texts))

    def _parts(self, widths: list[int], most: int) -> list[list[int]]:
        """Numbers of the columns of each table, none wider than `most` unless a name and one column are."""
        name = next(place for place, column in enumerate(self.sheet.columns) if column.is_text)
        parts = [list(range(name + 1))]
        for place in range(name + 1, len(widths)):
            if len(parts[-1]) > 1 and 1 + sum(3 + widths[at] for at in (*parts[-1], place)) > most:
                parts.append([name])
            parts[-1].append(place)
        return parts


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
