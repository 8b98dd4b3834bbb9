"""A small comparison with known scores: base, two experts, a merge, and two strategies with two seeds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_merge.comparison.curves import curve
from cycleqd_merge.comparison.results import (
    ComparedModel,
    ComparisonResult,
    Kind,
    RowCount,
    SeedScores,
    SplitOpening,
    StrategyRunResult,
)
from cycleqd_merge.journal.measured import Estimate

TASKS = ("sql", "bash")
ROWS = 40
BOUNDS = ((0.0, 1.0), (0.0, 1.0))


def rows_with(right: int, first: int = 0) -> tuple[float, ...]:
    """Scores of `ROWS` rows, of which `right` from number `first` on are 1 and the others 0."""
    return tuple(float(first <= row < first + right) for row in range(ROWS))


def seed_scores(
    digest: str, right: Mapping[str, int], seed: int | None = None, search: float | None = None, **other: Any
) -> SeedScores:
    """Scores with `right` correct held-out rows per task, and one search score for all tasks."""
    searched = {} if search is None else {task: Estimate.at_most(search, 100) for task in right}
    truncated = other.get("truncated", dict.fromkeys(right, 0.0))
    first = other.get("first", 0)
    return SeedScores(
        seed, digest, searched, {task: rows_with(count, first) for task, count in right.items()}, truncated
    )


def fixed(name: str, kind: Kind, sql: int, bash: int) -> ComparedModel:
    """A model that does not depend on a seed."""
    return ComparedModel(name, kind, None, (seed_scores(name, {"sql": sql, "bash": bash}),))


def run_result(
    strategy: str, seed: int, scores: Sequence[Any], elite_set: Sequence[tuple[float, ...]]
) -> StrategyRunResult:
    """A run whose evaluations scored `scores`."""
    failures = sum(each is None for each in scores)
    return StrategyRunResult(
        strategy, seed, len(scores), failures, 0, 90.0, curve(scores, BOUNDS, (5, 5), points=4), tuple(elite_set)
    )


def example(**changes: Any) -> ComparisonResult:
    """The comparison: held-out means are base 0.1, experts 0.25 and 0.2, merge 0.3, ours 0.5, cma 0.45."""
    ours = (
        seed_scores("o0", {"sql": 24, "bash": 16}, 0, search=0.52),
        seed_scores("o1", {"sql": 24, "bash": 16}, 1, search=0.52),
    )
    cma = (
        seed_scores("c0", {"sql": 20, "bash": 14}, 0, search=0.8),
        seed_scores("c1", {"sql": 22, "bash": 16}, 1, search=0.8),
    )
    models = (
        fixed("base", "base", 4, 4),
        fixed("expert:sql", "expert", 16, 4),
        fixed("expert:bash", "expert", 4, 12),
        fixed("ties (best of 6)", "merge", 12, 12),
        ComparedModel("cma-es best-mean", "elite", "cma-es", cma),
        ComparedModel("cycleqd best-mean", "elite", "cycleqd", ours),
        ComparedModel("cycleqd aggregate", "aggregate", "cycleqd", (seed_scores("a0", {"sql": 24, "bash": 18}, 0),)),
    )
    ascending = [(0.1, 0.2), (0.2, 0.2), (0.4, 0.3), (0.5, 0.4), (0.4, 0.6)]
    runs = (
        run_result("cma-es", 0, [None, (0.2, 0.2), (0.3, 0.3), (0.3, 0.1)], [(0.5, 0.4)]),
        run_result("cma-es", 1, [(0.1, 0.2), (0.2, 0.2), (0.2, 0.3), (0.5, 0.4)], [(0.5, 0.2)]),
        run_result("cycleqd", 0, ascending, [(0.6, 0.2), (0.2, 0.6)]),
        run_result("cycleqd", 1, ascending[1:], [(0.6, 0.4)]),
    )
    values: dict[str, Any] = {
        "tasks": TASKS,
        "kept": (),
        "rows": dict.fromkeys(TASKS, RowCount(100, ROWS, 0)),
        "reference": "cycleqd best-mean",
        "opened": SplitOpening(
            "2026-01-02T03:04:05Z", {each.name: tuple(one.digest for one in each.by_seed) for each in models}
        ),
        "models": models,
        "runs": runs,
    }
    return ComparisonResult(**(values | changes))
