"""One table in four formats: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from cycleqd_merge.comparison.statistics import Gap
from cycleqd_merge.hub.markdown import cell as escaped
from cycleqd_merge.report.paired import Interval

Format = Callable[[Any], str]
Cell = str | int | float | Interval | Gap | tuple[float, ...] | None


def score(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """A share or score in percent, with one decimal as in the paper."""
    return f"{100 * value:.1f}"


def span(value: Interval) -> str:
    """The ends of an interval."""
    return f"{value.low:.3f} to {value.high:.3f}"


def change(value: Interval) -> str:
    """A difference with the ends of its interval."""
    return f"{value.estimate:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def gap(value: Gap) -> str:
    """A gap with its standard error."""
    return f"{value.difference:+.3f}" + ("" if value.error is None else f" ± {value.error:.3f}")


def scores(value: tuple[float, ...]) -> str:
    """Several scores, separated by spaces."""
    return " ".join(map(score, value))


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, which is its key in JSON; the format of its values for people; whether the highest is marked.

    note: what people need to know of the values, such as what an interval is over.
    """

    heading: str
    format: Format = str
    best: bool = False
    note: str = ""

    @property
    def title(self) -> str:
        """The name with the note, as people see it."""
        return f"{self.heading} ({self.note})" if self.note else self.heading

    @property
    def is_text(self) -> bool:
        """Whether it holds texts, which are left-aligned; numbers are right-aligned."""
        return self.format is str


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """A table as values. Each row has a value per column, or None.

    sections: by row number, the name of the section that starts there.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sections: Mapping[int, str] = field(default_factory=dict)

    def formatted(self) -> Iterator[list[tuple[str, bool]]]:
        """By row, the text of each cell, and whether it is the best of its column."""
        best = [self._best(place) if column.best else None for place, column in enumerate(self.columns)]
        for row in self.rows:
            cells = zip(self.columns, row, best, strict=True)
            yield [
                ("-" if value is None else column.format(value), top is not None and value == top)
                for column, value, top in cells
            ]

    def _best(self, place: int) -> float | None:
        numbers = (row[place] for row in self.rows)
        return max((number for number in numbers if isinstance(number, float)), default=None)


@dataclass(frozen=True, slots=True)
class TerminalTable:
    """A table for a terminal of any width; the best of a column is bold.

    A table that is too wide is split: further parts follow below and repeat the column of names (the first of texts).
    """

    table: ComparisonTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = list(self.table.formatted())
        widths = [self._width(place, cells) for place in range(len(self.table.columns))]
        for number, places in enumerate(self._parts(widths, options.max_width)):
            part = Table(title=Text(self.table.title) if number == 0 else None, title_justify="left")
            for place in places:
                column = self.table.columns[place]
                justify: JustifyMethod = "left" if column.is_text else "right"
                heading = Text("\n".join(wrap(column.title, widths[place], break_on_hyphens=False)))
                part.add_column(heading, justify=justify, overflow="fold")
            for place, row in enumerate(cells):
                if place in self.table.sections:
                    part.add_section()
                part.add_row(*(Text(row[at][0], style="bold" if row[at][1] else "") for at in places))
            yield part

    def _width(self, place: int, cells: list[list[tuple[str, bool]]]) -> int:
        """Characters of a column whose cells take one line each; its heading may take several."""
        texts = (*self.table.columns[place].title.split(), *(row[place][0] for row in cells))
        return max(map(cell_len, texts))

    def _parts(self, widths: list[int], most: int) -> list[list[int]]:
        """Numbers of the columns of each part, none wider than `most` unless the names and one column are."""
        name = next(place for place, column in enumerate(self.table.columns) if column.is_text)
        parts = [list(range(name + 1))]
        for place in range(name + 1, len(widths)):
            if len(parts[-1]) > 1 and 1 + sum(3 + widths[at] for at in (*parts[-1], place)) > most:
                parts.append([name])
            parts[-1].append(place)
        return parts


def table_to_markdown(table: ComparisonTable) -> str:
    """A Markdown table below its title; the best of a column is bold, and sections have a row of their own."""
    names = [escaped(column.title) for column in table.columns]
    rules = [":--" if column.is_text else "--:" for column in table.columns]
    lines = [f"**{escaped(table.title)}**", "", _line(names), _line(rules)]
    for number, row in enumerate(table.formatted()):
        if number in table.sections:
            name = f"*{escaped(table.sections[number])}*"
            lines.append(_line([name if column.is_text else "" for column in table.columns]))
        lines.append(_line([f"**{escaped(text)}**" if best else escaped(text) for text, best in row]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_to_records(table: ComparisonTable) -> list[dict[str, Any]]:
    """The rows as JSON values by heading, in full precision, with the section's name if there is one."""
    return _records(table, [column.heading for column in table.columns])


def _records(table: ComparisonTable, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows as JSON values by the columns' `names`."""
    records, section = [], ""
    for number, row in enumerate(table.rows):
        section = table.sections.get(number, section)
        record: dict[str, Any] = {"section": section} if table.sections else {}
        for name, value in zip(names, row, strict=True):
            if isinstance(value, Interval | Gap):
                record[name] = asdict(value)
            else:
                record[name] = list(value) if isinstance(value, tuple) else value
        records.append(record)
    return records


def table_to_csv(table: ComparisonTable) -> str:
    """CSV in full precision: an interval or gap has a column per part, several scores share one column."""
    records = _records(table, [column.title for column in table.columns])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headings = list(records[0]) if records else [column.title for column in table.columns]
    parts = {heading: _parts([record[heading] for record in records]) for heading in headings}
    writer.writerow(f"{heading}{part and ': '}{part}" for heading in headings for part in parts[heading])
    for record in records:
        writer.writerow(_flat(record[heading], part) for heading in headings for part in parts[heading])
    return text.getvalue()


def _parts(values: list[Any]) -> list[str]:
    """The parts of a column's values; one without a name if they have none."""
    return list(next((value for value in values if isinstance(value, dict)), {"": None}))


def _flat(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        value = value[part]
    return " ".join(map(repr, value)) if isinstance(value, list) else value
