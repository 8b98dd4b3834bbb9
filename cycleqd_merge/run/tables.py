"""A run as rows: for pandas, for notebooks, and for the files of a published archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evolution.archive import Archive, Scores
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.journal.log import Event, failed
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.strategies.state import SearchState

if TYPE_CHECKING:
    import pandas


class RunView(Protocol):
    """What these tables read of a `Run`, whose methods call them."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def search(self) -> SearchState: ...
    @property
    def results(self) -> Sequence[Event]: ...
    @property
    def confirmed(self) -> Mapping[int, Scores]: ...
    @property
    def measured(self) -> Mapping[tuple[str, str], Mapping[str, Estimate]]: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def objectives(self) -> Sequence[str]: ...
    @property
    def archives(self) -> Sequence[Archive]: ...
    @property
    def generation(self) -> int: ...
    @property
    def generations(self) -> int: ...
    def elites(self) -> Sequence[int]: ...
    def best_mean(self) -> int: ...
    def candidate(self, number: int) -> Candidate: ...
    def digest(self, candidate: Candidate) -> str: ...
    def judged(self, number: int) -> Scores: ...
    def mean(self, scores: Scores) -> float: ...


def scores_of(run: RunView, number: int) -> dict[str, float | None]:
    """All scores of an evaluation, as `search_TASK`, `confirm_TASK` and `heldout_TASK`; None if not scored."""
    searched = run.results[number]["scores"]
    confirmed = run.confirmed.get(number)
    heldout = run.measured.get((run.digest(run.candidate(number)), "heldout"), {})
    found: dict[str, float | None] = {}
    for place, task in enumerate(run.tasks):
        found[f"search_{task}"] = None if searched is None else searched[place]
        found[f"confirm_{task}"] = None if confirmed is None else confirmed[place]
        found[f"heldout_{task}"] = heldout[task].score if task in heldout else None
    return found


def generation_of(run: RunView, number: int) -> int:
    """The generation of an evaluation; 0 for experts and other founders."""
    return max(0, number - run.search.first + 1)


def evaluations(run: RunView) -> list[dict[str, Any]]:
    """One row per evaluation: its scores on each split, their mean on the search split, whether it is an elite."""
    elites = set(run.elites())
    return [
        {
            "evaluation": event["number"],
            "generation": generation_of(run, event["number"]),
            **scores_of(run, event["number"]),
            "mean": None if event["scores"] is None else run.mean(tuple(event["scores"])),
            "elite": event["number"] in elites,
            "failed": failed(event),
            "seconds": sum(event["seconds"]) if event.get("seconds") else None,
        }
        for event in run.results
    ]


def to_pandas(run: RunView) -> pandas.DataFrame:
    """`evaluations` as a table whose index is the evaluation's number."""
    import pandas  # slow to import, and only needed here

    rows = evaluations(run)
    return pandas.DataFrame(rows).set_index("evaluation") if rows else pandas.DataFrame()


def one_line(run: RunView) -> str:
    """A run's state in one line."""
    state = f"generation {run.generation} of {run.generations}"
    elites = run.elites()
    if not elites:
        return state
    number = run.best_mean()
    return f"{state}, {len(elites)} elites, best mean {run.mean(run.judged(number)):.3f} (#{number})"


def html(run: RunView) -> str:
    """A small table for notebooks: each archive's best elite, coverage and QD score."""
    head = "".join(f"<th>{escape(text)}</th>" for text in ("archive", "best", "elite", "coverage", "QD score"))
    rows = []
    for archive in run.archives:
        best = archive.best()
        cells = (
            run.objectives[archive.task],
            "" if best is None else f"{best.scores[archive.task]:.3f}",
            "" if best is None else f"#{best.number}",
            f"{archive.coverage:.0%}",
            f"{archive.qd_score:.2f}",
        )
        rows.append("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells) + "</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    return f"<p><b>{escape(run.recipe.output)}</b>: {escape(one_line(run))}</p>{table}"
