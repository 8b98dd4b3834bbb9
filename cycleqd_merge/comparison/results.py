"""What a comparison found, before anything is concluded from it: values that go to JSON and come back equal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cycleqd_merge.comparison.curves import Curve
from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.tasks.protocol import Split

Kind = Literal["base", "expert", "merge", "elite", "aggregate"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One model of an entrant, scored at the end.

    seed: of the search that found it; None for a model that no seed changes. digest: of its candidate. search: by task,
    what the rows of the search say; empty where it was not scored on them. heldout: by task, a score per row, in the
    order of the rows. truncated: by task, the share of held-out answers that the token limit cut.
    """

    seed: int | None
    digest: str
    search: dict[str, Estimate]
    heldout: dict[str, tuple[float, ...]]
    truncated: dict[str, float]


@dataclass(frozen=True)
class Entrant:
    """A model that the comparison judges, once per seed. strategy: the search that found it, if one did."""

    name: str
    kind: Kind
    strategy: str | None
    judged: tuple[Judged, ...]

    def heldout(self, task: str) -> NDArray[np.float64]:
        """Held-out scores by row, averaged over seeds, shape (rows,)."""
        rows: NDArray[np.float64] = np.mean([judged.heldout[task] for judged in self.judged], axis=0)
        return rows


@dataclass(frozen=True, slots=True)
class Search:
    """One strategy's search with one seed.

    evaluations: asked for, among them `failures` (no scores) and `censored` (given up early). family: held-out means
    by task of the models that it offers as a family (elites, or those that no other dominates), shape (models, tasks).
    """

    strategy: str
    seed: int
    evaluations: int
    failures: int
    censored: int
    seconds: float
    curve: Curve
    family: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows of a task, and how many of its held-out rows are rows of the search too."""

    search: int
    heldout: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Opening:
    """When the held-out rows were opened (ISO 8601, UTC), and what stood fixed then: digests by entrant.

    rows: `confirm` where rows that were set aside from the search split stand for them, to tune.
    """

    at: str
    frozen: dict[str, tuple[str, ...]]
    rows: Split = "heldout"


@dataclass(frozen=True)
class Findings:
    """All that a comparison found.

    tasks: those that the mean is over. kept: further tasks that are reported beside it. rows: by task. reference: the
    name of the entrant that all others are held against. unscored: names of entrants of which a model could not be
    scored on the rows that judge.

    Raises:
        ValueError: a name occurs twice, or the reference stands for no entrant, or an entrant was not scored on the
            held-out rows of every task.
    """

    tasks: tuple[str, ...]
    kept: tuple[str, ...]
    rows: dict[str, RowCount]
    reference: str
    opened: Opening
    entrants: tuple[Entrant, ...]
    searches: tuple[Search, ...]
    unscored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [entrant.name for entrant in self.entrants]
        if len(set(names)) < len(names) or self.reference not in names:
            raise ValueError(f"reference {self.reference!r} must be one of distinct entrants: {', '.join(names)}")
        for entrant in self.entrants:
            if not entrant.judged:
                raise ValueError(f"entrant {entrant.name!r} was not judged")
            for judged in entrant.judged:
                for task in (*self.tasks, *self.kept):
                    found, expected = len(judged.heldout.get(task, ())), self.rows[task].heldout
                    if found != expected:
                        raise ValueError(f"entrant {entrant.name!r}: {found} of {expected} held-out rows of {task}")

    @cached_property
    def by_name(self) -> dict[str, Entrant]:
        """Entrants by their names, in their order."""
        return {entrant.name: entrant for entrant in self.entrants}

    @cached_property
    def by_strategy(self) -> dict[str, list[Search]]:
        """Searches by strategy, in their order."""
        return {
            name: [search for search in self.searches if search.strategy == name]
            for name in dict.fromkeys(search.strategy for search in self.searches)
        }


_FORMAT = 1
_FINDINGS = TypeAdapter(Findings)


def to_json(findings: Findings) -> dict[str, Any]:
    """Findings as JSON values, with the version of the format."""
    return {"format": _FORMAT, **_FINDINGS.dump_python(findings, mode="json")}


def from_json(record: dict[str, Any], where: str) -> Findings:
    """Inverse of `to_json`. where: what the record was read from, for the error.

    Raises:
        UserError: another version of the format, or not what `to_json` writes.
    """
    if record.get("format") != _FORMAT:
        raise UserError(f"{where}: format {record.get('format')} of a comparison; this version reads {_FORMAT}")
    try:
        return _FINDINGS.validate_python({name: value for name, value in record.items() if name != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "comparison"
        raise UserError(f"{where}: {place}: {first['msg']}; run `compare` again") from error
