"""`compare` from end to end: searches, the choice of entrants, the held-out rows, what was found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cycleqd_merge.comparison.curves import curve, filled_archives
from cycleqd_merge.comparison.entrants import Chosen, entrants, families
from cycleqd_merge.comparison.heldout import HeldOut, Told, open_rows, score_heldout
from cycleqd_merge.comparison.results import Entrant, Findings, Judged, Opening, RowCount, Search
from cycleqd_merge.comparison.searches import (
    Observing,
    Planned,
    planned_searches,
    require_searches,
    run_searches,
    shared_pool,
)
from cycleqd_merge.comparison.statistics import duplicates
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RunFailed, UserError
from cycleqd_merge.evolution.archive import Archive, Bounds, Scores
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import FORMAT, Journal, failed, opened_journal
from cycleqd_merge.merging.download import fetch
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.loop import terminable
from cycleqd_merge.run.state import Run
from cycleqd_merge.tasks.protocol import Split
from cycleqd_merge.tasks.suite import Suite

Searched = list[tuple[Planned, Run]]


@dataclass(frozen=True)
class Compared:
    """What a comparison found, and the archives that each search's first seed filled."""

    findings: Findings
    archives: dict[str, list[Archive]]


def compare(
    recipe: Recipe,
    names: Sequence[str],
    budget: int,
    seeds: int,
    observing: Observing,
    told: Told,
    *,
    rows: Split = "heldout",
    max_hours: float | None = None,
) -> Compared:
    """Set searches against each other; goes on where the recipe's output folder stands.

    names: of the searches (see `comparison.named_strategies`); the best-mean elite of the first is what all others are held against.
    budget: children that each evaluates, with each of so many `seeds`.
    rows: what judges; `confirm`, the rows that the recipe sets aside, to tune without opening held-out rows.

    Raises:
        UserError: the recipe or a name is not fit, or the folder holds another comparison.
        Interrupted: ended early; it can go on.
        RunFailed: it cannot go on.
    """
    deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
    out = Path(recipe.output)
    planned_searches(recipe, names, budget, seeds, out, rows)  # names and groups, before anything is fetched
    with terminable(), opened_journal(out) as journal:
        recipe = _begin(
            journal,
            recipe,
            {"searches": list(names), "budget": budget, "seeds": seeds, "rows": rows, "first": recipe.evolution.seed},
        )
        planned = planned_searches(recipe, names, budget, seeds, out, rows)
        fetch(recipe.pinned_models())
        with shared_pool(planned) as (pool, materials):
            require_searches(planned, materials, rows)
            searches = list(zip(planned, run_searches(planned, pool, observing, deadline), strict=True))
            chosen, offered = entrants(searches), families(searches)
            opening = open_rows(journal, _frozen(chosen, planned, offered), rows)
            candidates = [*(each.candidate for each in chosen), *(each for family in offered for each in family)]
            scored = score_heldout(journal, pool, candidates, rows, told, deadline)
        findings = _findings(searches, chosen, offered, scored, opening, _rows(materials.suite, rows))
        return Compared(findings, _archives(searches))


def _begin(journal: Journal, recipe: Recipe, stated: Mapping[str, Any]) -> Recipe:
    """Record what is compared, or see that it is what the journal says; the recipe with its models' commits."""
    if not journal.events:
        recipe = pin(recipe)
        start = {"event": "comparison", "format": FORMAT, **stated, "revisions": recipe.revisions}
        journal.append(start)
        return recipe
    found = differences({key: journal.events[0].get(key) for key in stated}, dict(stated))
    if found:
        raise UserError(
            f"{journal.folder}: holds another comparison; it differs in {'; '.join(found)}; "
            "compare in another folder (--output)"
        )
    return pin(recipe, journal.events[0]["revisions"])


def _frozen(
    chosen: Sequence[Chosen], planned: Sequence[Planned], offered: Sequence[Sequence[Candidate]]
) -> dict[str, list[str]]:
    """Digests by entrant, and by search of the family that it offers."""
    frozen: dict[str, list[str]] = {}
    for each in chosen:
        frozen.setdefault(each.entrant, []).append(each.digest)
    for search, family in zip(planned, offered, strict=True):
        frozen[f"{search.name} seed {search.seed} family"] = [candidate_digest(each) for each in family]
    return frozen


def _findings(
    searches: Searched,
    chosen: Sequence[Chosen],
    offered: Sequence[Sequence[Candidate]],
    scored: Mapping[str, HeldOut | None],
    opening: Opening,
    counts: dict[str, RowCount],
) -> Findings:
    first = searches[0][1]
    objectives = first.objectives
    judged = [(each, own) for each in chosen if (own := scored[each.digest]) is not None]
    reference = next((each.entrant for each, _ in judged if each.strategy == searches[0][0].name), None)
    if reference is None:
        raise RunFailed(f"no model of {searches[0][0].name} could be scored on the rows that judge; see the journal")
    return Findings(
        tasks=tuple(objectives),
        kept=tuple(first.tasks[len(objectives) :]),
        rows=counts,
        reference=reference,
        opened=opening,
        entrants=tuple(_entrant(members) for members in _by_entrant(judged)),
        searches=tuple(
            _search(planned, run, [scored[candidate_digest(each)] for each in family], first)
            for (planned, run), family in zip(searches, offered, strict=True)
        ),
        unscored=tuple(dict.fromkeys(each.entrant for each in chosen if scored[each.digest] is None)),
    )


def _rows(suite: Suite, judging: Split) -> dict[str, RowCount]:
    """What each task is searched and judged on, and how much of it is the same."""
    counts = {}
    for task in suite:
        search = [*task.samples("search"), *(task.samples("confirm") if judging == "heldout" else ())]
        judge = task.samples(judging)
        known = duplicates((sample.row for sample in search), (sample.row for sample in judge))
        counts[task.name] = RowCount(len(task.samples("search")), len(judge), known)
    return counts


Scored = tuple[Chosen, HeldOut]


def _by_entrant(judged: Sequence[Scored]) -> Iterator[list[Scored]]:
    for name in dict.fromkeys(each.entrant for each, _ in judged):
        yield [(each, own) for each, own in judged if each.entrant == name]


def _entrant(members: Sequence[Scored]) -> Entrant:
    judged = tuple(
        Judged(each.seed, each.digest, dict(each.search), dict(own.scores), dict(own.truncated))
        for each, own in members
    )
    first, _ = members[0]
    return Entrant(first.entrant, first.kind, first.strategy, judged)


def _archives(searches: Searched) -> dict[str, list[Archive]]:
    """One search beside the other, in the bounds of the first."""
    archives: dict[str, list[Archive]] = {}
    for planned, run in searches:
        if planned.name not in archives:
            archives[planned.name] = filled_archives(_told(run), *_grid(searches[0][1]))
    return archives


def _told(run: Run) -> list[Scores | None]:
    return [None if event["scores"] is None else tuple(event["scores"]) for event in run.results]


def _grid(run: Run) -> tuple[Bounds, list[int]]:
    """Bounds and bins of a run's archives."""
    assert run.search.bounds is not None  # its search has ended
    return run.search.bounds, [objective.bins for objective in run.search.objectives]


def _search(planned: Planned, run: Run, family: Sequence[HeldOut | None], first: Run) -> Search:
    """first: the run whose archives' bounds count for all."""
    told = _told(run)
    return Search(
        strategy=planned.name,
        seed=planned.seed,
        evaluations=len(told),
        failures=sum(map(failed, run.results)),
        censored=sum(bool(event.get("censored")) for event in run.results),
        seconds=sum(sum(event.get("seconds", ())) for event in run.results),
        curve=curve(told, *_grid(first)),
        family=tuple(
            tuple(sum(model.scores[task]) / len(model.scores[task]) for task in first.objectives)
            for model in family
            if model is not None
        ),
    )
