"""Naming a model of a run: an elite by archive and cell, the best of an archive, `best`, `best-mean`, `aggregate`,
an expert, the base, or the plain mean of the experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.archive import Archive, Elite
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome, expert_genome, level_genome
from cycleqd_merge.run.state import Run

FORMS = (
    "`best-mean`, `aggregate`, `best:TASK`, `TASK:CELL` (such as `sql:3,12`), `#NUMBER`, `expert:NAME`, `base`, `mean`"
)


@dataclass(frozen=True)
class NamedModel:
    """A model of a run by its name: `label` is the canonical one, `number` its evaluation's, if it has one."""

    label: str
    candidate: Candidate
    number: int | None = None

    @property
    def genome(self) -> Genome:
        """The candidate, where it is a genome.

        Raises:
            RecipeError: it is a mergekit configuration.
        """
        if not isinstance(self.candidate, Genome):
            raise RecipeError(f"{self.label}: a mergekit configuration, which has no genome")
        return self.candidate


def choose(run: Run, name: str) -> NamedModel:
    """The model that `name` stands for; `best` alone is `best-mean`.

    Raises:
        RecipeError: there is no such model; the line lists the forms a name may have.
    """
    number, label = _evaluation(run, name), "best-mean" if name == "best" else name
    if number is not None:
        return NamedModel(label, run.candidate(number), number)
    if name == "aggregate":
        return NamedModel(name, run.aggregate())
    experts, groups = len(run.experts), len(run.groups)
    if name in ("base", "mean"):
        return NamedModel(name, level_genome(0.0 if name == "base" else 1.0 / experts, experts, groups))
    kind, separator, rest = name.partition(":")
    if kind == "expert" and separator:
        return NamedModel(name, expert_genome(_index(run.experts, rest, "expert"), experts, groups))
    raise RecipeError(f"{name!r} is not a model of this run; a name is {FORMS}")


def _evaluation(run: Run, name: str) -> int | None:
    """The number of the evaluation that `name` stands for; None if it is the name of another model, or of none."""
    kind, separator, rest = name.partition(":")
    if name in ("best", "best-mean"):
        return run.best_mean()
    if kind == "best" and separator:
        return run.best_of(_archive(run, rest).task)
    if name.startswith("#") and name[1:].isdigit() and int(name[1:]) < len(run.results):
        return int(name[1:])
    if separator and kind in run.objectives and kind != "expert":
        return _elite_at(run, kind, rest).number
    return None


def expand(run: Run, names: Sequence[str]) -> list[str]:
    """Names with `all-best` (best mean and best of each task) and `pareto` (the front of all elites) spelled out."""
    spelled: list[str] = []
    for name in names:
        if name == "all-best":
            spelled += ["best-mean", *(f"best:{task}" for task in run.objectives)]
        elif name == "pareto":
            spelled += [f"#{number}" for number in pareto(run)]
        else:
            spelled.append("best-mean" if name == "best" else name)
    return list(dict.fromkeys(spelled))


def pareto(run: Run) -> list[int]:
    """The elites that no other is at least as good as on every objective, and better on one.

    By the scores on the searched rows, which all of them have: those that were confirmed are lower as a rule, so that
    an elite nobody looked at again would beat them.
    """
    numbers = run.elites()
    scores = np.array([run.scores(number)[: len(run.objectives)] for number in numbers])
    beaten = [bool(np.any(np.all(scores >= own, axis=1) & np.any(scores > own, axis=1))) for own in scores]
    return [number for number, is_beaten in zip(numbers, beaten, strict=True) if not is_beaten]


def _archive(run: Run, task: str) -> Archive:
    archive = _index(run.objectives, task, "task")
    if not run.archives:
        raise RecipeError(f"{task}: the run has no archive yet; its experts were not all scored")
    return run.archives[archive]


def _elite_at(run: Run, task: str, cell: str) -> Elite:
    archive = _archive(run, task)
    try:
        place = tuple(int(part) for part in cell.split(","))
    except ValueError:
        raise RecipeError(f"{task}:{cell}: write the cell as numbers, such as {task}:3,12") from None
    elite = next((elite for elite in archive.elites() if elite.cell == place), None)
    if elite is None:
        raise RecipeError(f"{task}:{cell}: no elite stands in this cell; `show` lists those that do")
    return elite


def _index(names: list[str], name: str, kind: str) -> int:
    if name not in names:
        raise RecipeError(f"no {kind} is named {name!r}; there are {', '.join(names)}")
    return names.index(name)
