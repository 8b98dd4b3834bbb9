"""Names of a run's models: an elite by archive and cell, the best of an archive, `best`, `best-mean`, `aggregate`,
an expert, the base, or the plain mean of the experts."""

from __future__ import annotations

import re
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
    """A model of a run. label: its canonical name. number: of its evaluation, if it was evaluated."""

    label: str
    candidate: Candidate
    number: int | None = None

    @property
    def genome(self) -> Genome:
        """The candidate, if it is a genome.

        Raises:
            RecipeError: it is a mergekit configuration.
        """
        if not isinstance(self.candidate, Genome):
            raise RecipeError(f"{self.label}: a mergekit configuration has no genome")
        return self.candidate


def choose(run: Run, name: str) -> NamedModel:
    """The model that `name` stands for; `best` alone is `best-mean`.

    Raises:
        RecipeError: there is no such model; the message lists the valid forms of a name.
    """
    number = _evaluation(run, name)
    if number is None:
        return NamedModel(name, _unevaluated(run, name))
    return NamedModel("best-mean" if name == "best" else name, run.candidate(number), number)


def require_model_name(
    name: str, experts: Sequence[str], objectives: Sequence[str], evaluations: int, place: str
) -> None:
    """Check, before a run, that `choose` may know a name at its end. place: of the name in the recipe.

    evaluations: number of models that the run will evaluate.

    Raises:
        RecipeError: it can be the name of no model of the run.
    """
    kind, separator, rest = name.partition(":")
    if name in ("base", "mean", "aggregate", "best", "best-mean"):
        return
    if kind == "expert" and separator:
        known = rest in experts
    elif kind == "best" and separator:
        known = rest in objectives
    elif kind in objectives and separator:
        known = re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", rest) is not None
    else:
        known = re.fullmatch(r"#\d+", name) is not None and int(name[1:]) < evaluations
    if not known:
        listed = f"tasks {', '.join(objectives)}; experts {', '.join(experts)}"
        raise RecipeError(f"{place}: {name!r} is not a model of this run ({listed}); use one of {FORMS}")


def _unevaluated(run: Run, name: str) -> Genome:
    """The aggregate, the base, the experts' mean, or an expert."""
    kind, _, rest = name.partition(":")
    experts, groups = len(run.experts), len(run.groups)
    expert = _index(run.experts, rest, "expert") if kind == "expert" and rest else None
    if expert is not None:
        return expert_genome(expert, experts, groups)
    if name in ("base", "mean"):
        return level_genome(0.0 if name == "base" else 1.0 / experts, experts, groups)
    if name == "aggregate":
        return run.aggregate()
    raise RecipeError(f"{name!r} is not a model of this run; use one of {FORMS}")


def _evaluation(run: Run, name: str) -> int | None:
    """The number of the evaluation that `name` stands for; None if it stands for no evaluation."""
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

    Compared on the search split, on which every elite is scored: scores over both splits are usually lower, so elites
    that were never confirmed would beat confirmed ones.
    """
    import moocore

    numbers = run.elites()
    if not numbers:
        return []
    scores = np.array([run.scores(number)[: len(run.objectives)] for number in numbers])
    front = moocore.is_nondominated(scores, maximise=True, keep_weakly=True)
    return np.array(numbers)[front].tolist()  # type: ignore[no-any-return]


def _archive(run: Run, task: str) -> Archive:
    archive = _index(run.objectives, task, "task")
    if not run.archives:
        raise RecipeError(f"{task}: no archives yet: not all experts are scored; resume the run")
    return run.archives[archive]


def _elite_at(run: Run, task: str, cell: str) -> Elite:
    archive = _archive(run, task)
    try:
        place = tuple(int(part) for part in cell.split(","))
    except ValueError:
        raise RecipeError(f"{task}:{cell}: write the cell as numbers, such as {task}:3,12") from None
    here = [elite for elite in archive.elites() if elite.cell == place]
    elite = max(here, key=lambda elite: (elite.scores[archive.task], -elite.number), default=None)
    if elite is None:
        raise RecipeError(f"{task}:{cell}: this cell is empty; `show` lists the elites")
    return elite


def _index(names: list[str], name: str, kind: str) -> int:
    if name not in names:
        raise RecipeError(f"no {kind} is named {name!r}; available: {', '.join(names)}")
    return names.index(name)
