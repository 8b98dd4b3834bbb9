"""The result of a comparison, before anything is concluded from it: values that survive a round trip through JSON.

Some JSON keys are older than the names here and differ from them: the format of `comparison.json` does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from cycleqd_merge.comparison.curves import Curve, Total
from cycleqd_merge.errors import RecipeError, first_line
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.journal.schema import Score
from cycleqd_merge.tasks.protocol import Split

Kind = Literal["base", "expert", "fine-tuned", "merge", "elite", "aggregate"]


@dataclass(frozen=True, slots=True)
class SeedScores:
    """The scores of a compared model that one run found.

    seed: of the run; None for a model that does not depend on a seed. digest: of the candidate. search: by task, its
    estimate on the search split; empty if it was not scored there. heldout: by task, a score per held-out row, in the
    order of the rows. truncated: by task, the share of held-out answers that the token limit cut off. seconds: that it
    took to learn the model, if no run found it.
    """

    seed: int | None
    digest: str
    search: dict[str, Estimate]
    heldout: dict[str, tuple[Score, ...]]
    truncated: dict[str, Score]
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0


@dataclass(frozen=True)
class ComparedModel:
    """A model of the comparison, with its scores for each seed. strategy: the one that found it, if one did."""

    name: str
    kind: Kind
    strategy: str | None
    by_seed: Annotated[tuple[SeedScores, ...], Field(alias="judged")]

    @property
    def seeds(self) -> int:
        """The number of seeds; 0 for a model that does not depend on one."""
        return sum(scores.seed is not None for scores in self.by_seed)

    def heldout(self, task: str) -> NDArray[np.float64]:
        """Held-out scores by row, averaged over seeds, shape (rows,)."""
        rows: NDArray[np.float64] = np.mean([scores.heldout[task] for scores in self.by_seed], axis=0)
        return rows


@dataclass(frozen=True, slots=True)
class StrategyRunResult:
    """The run of one strategy with one seed.

    evaluations: all of the run's, among them `failures` (without scores) and `censored` (rejected early). seconds: that
    workers were busy with fits, the search split and the confirmation split, of which `fit_seconds` with fits.
    elite_set: mean held-out scores by task of the elites that the run contributes to the hypervolume, shape (models,
    tasks).
    """

    strategy: str
    seed: int
    evaluations: Total
    failures: Total
    censored: Total
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    curve: Curve
    elite_set: Annotated[tuple[tuple[Score, ...], ...], Field(alias="family")]
    fit_seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0


@dataclass(frozen=True, slots=True)
class RowCount:
    """A task's number of rows by split, and how many of its held-out rows also occur in the search splits."""

    search: Total
    heldout: Total
    duplicates: Total


@dataclass(frozen=True, slots=True)
class SplitOpening:
    """When the final split was opened (ISO 8601, UTC), and for which candidates: digests by model.

    rows: the split; `confirm` when tuning, which leaves the held-out split closed.
    """

    at: str
    frozen: dict[str, tuple[str, ...]]
    rows: Split = "heldout"


@dataclass(frozen=True)
class ComparisonResult:
    """Everything that a comparison measured. When tuning, `heldout` stands for the confirmation split throughout.

    tasks: those that the mean is over. kept: further tasks that are only reported. rows: by task. reference: the name
    of the model that all others are compared with. unscored: names of models that could not all be scored on the final
    split.

    Raises:
        ValueError: a name occurs twice, the reference is not among the models, or a model has no score for a held-out
            row of a task.
    """

    tasks: tuple[str, ...]
    kept: tuple[str, ...]
    rows: dict[str, RowCount]
    reference: str
    opened: SplitOpening
    models: Annotated[tuple[ComparedModel, ...], Field(alias="entrants")]
    runs: Annotated[tuple[StrategyRunResult, ...], Field(alias="searches")]
    unscored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names) or self.reference not in names:
            raise ValueError(
                f"reference {self.reference!r} must be one of the models, whose names must differ: {', '.join(names)}"
            )
        for run in self.runs:
            if not run.strategy or run.strategy.startswith(".") or "/" in run.strategy or "\0" in run.strategy:
                raise ValueError(f"{run.strategy!r:.50} is not the name of a strategy")
            curve = run.curve
            values = (curve.best_mean, curve.hypervolume, curve.qd_score, curve.coverage)
            if {len(each) for each in values} != {len(curve.evaluations)}:
                raise ValueError(f"the curve of {run.strategy} has values of different numbers of evaluations")
            if len({len(scores) for scores in run.elite_set}) > 1:
                raise ValueError(f"the elites of {run.strategy} have scores of different numbers of tasks")
        for model in self.models:
            self._require_scores(model)

    def _require_scores(self, model: ComparedModel) -> None:
        if not model.by_seed:
            raise ValueError(f"model {model.name!r} has no scores")
        for scores in model.by_seed:
            for task in (*self.tasks, *self.kept):
                if task not in self.rows:
                    raise ValueError(f"no number of rows of task {task!r:.50}")
                found, expected = len(scores.heldout.get(task, ())), self.rows[task].heldout
                if found != expected:
                    raise ValueError(f"model {model.name!r}: scores of {found} of {expected} held-out rows of {task}")

    @cached_property
    def by_name(self) -> dict[str, ComparedModel]:
        """Models by their names, in their order."""
        return {model.name: model for model in self.models}

    @cached_property
    def runs_by_strategy(self) -> dict[str, list[StrategyRunResult]]:
        """Runs by strategy, in their order."""
        return {
            name: [run for run in self.runs if run.strategy == name]
            for name in dict.fromkeys(run.strategy for run in self.runs)
        }


_FORMAT = 1
_RESULT = TypeAdapter(ComparisonResult)


def result_to_json(result: ComparisonResult) -> dict[str, Any]:
    """The result as JSON values, with the version of the format."""
    values = _RESULT.dump_python(result, mode="json", by_alias=True)
    later = [(run, "fit_seconds") for run in values["searches"]]
    later += [(seed, "seconds") for model in values["entrants"] for seed in model["judged"]]
    for record, key in later:
        if not record[key]:  # as before there was this key
            del record[key]
    return {"format": _FORMAT, **values}


def result_from_json(record: Any, where: str) -> ComparisonResult:
    """Inverse of `result_to_json`. where: the source of the record, for the error.

    Raises:
        RecipeError: a different version of the format, or not a record that `result_to_json` writes.
    """
    if not isinstance(record, dict):
        raise RecipeError(f"{where}: not a comparison; rerun `compare`")
    if record.get("format") != _FORMAT:
        raise RecipeError(
            f"{where}: format {record.get('format')} of a comparison; this version reads format {_FORMAT}; use the "
            "version that wrote it"
        )
    try:
        return _RESULT.validate_python({name: value for name, value in record.items() if name != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "comparison"
        raise RecipeError(f"{where}: {place}: {first_line(ValueError(first['msg']))}; rerun `compare`") from error
