"""A run as JSON values: its state, the lineage of an evaluation, its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cycleqd_merge.config.references import with_variables
from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.journal.log import Event, failed
from cycleqd_merge.report.row_coverage import row_coverage
from cycleqd_merge.run.state import Run


def summary(run: Run) -> dict[str, Any]:
    """The run as JSON values: settings, progress, archives with every elite."""
    coverage = {each.task: asdict(each) for each in row_coverage(run)}
    return {
        "base": with_variables(run.recipe.base, run.recipe),
        "experts": with_variables(dict(run.recipe.experts), run.recipe),
        "tasks": run.tasks,
        "objectives": run.objectives,
        **progress(run),
        "archives": {run.objectives[archive.task]: _archive(archive, run) for archive in run.archives},
        "best_mean": best_mean(run),
        **({"fits": fit_summaries(run)} if run.fits else {}),
        **({"row_coverage": coverage} if coverage else {}),  # absent for runs of versions that recorded no outcomes
    }


def progress(run: Run) -> dict[str, Any]:
    """How far the run is, as JSON values."""
    results = [event for event in run.results if event["scores"] is not None]
    censored = [event for event in run.results if event.get("censored")]
    seconds = [sum(event["seconds"]) for event in run.results if "seconds" in event]
    return {
        "generation": run.generation,
        "generations": run.generations,
        "evaluations": len(results),
        "failed": sum(map(failed, run.results)),
        "censored": len(censored),
        "rows_saved": _rows_saved(censored, len(results)),
        "below_floor": sum(not run.search.meets_floors(tuple(event["scores"])) for event in results),
        "seconds_per_evaluation": sum(seconds) / len(seconds) if seconds else None,
    }


def best_mean(run: Run) -> int | None:
    """The number of the best-mean elite; None before there is an elite."""
    return run.best_mean() if any(archive.elites() for archive in run.archives) else None


def fit_summaries(run: Run) -> list[dict[str, Any]]:
    """The fits that were learned so far, as JSON values."""
    return [_fit(run, event) for _, event in sorted(run.fits.items())]


def _fit(run: Run, event: Event) -> dict[str, Any]:
    """A fit: how it was learned, the number of its evaluation, and its mean score once it has one. seconds: in total,
    without the evaluation."""
    facts = {key: event.get(key) for key in ("number", "digest", "weights", "steps", "loss", "tokens")}
    number = run.search.first - run.search.space.fits + event["number"]
    scored = number < len(run.results) and run.results[number]["scores"] is not None
    mean = run.mean(run.scores(number)) if scored else None
    return {**facts, "seconds": sum(event.get("seconds", {}).values()), "evaluation": number, "mean": mean}


def _rows_saved(censored: Sequence[Event], scored: int) -> float | None:
    """The share of all rows that racing saved; None if it rejected no child."""
    if not censored:
        return None
    saved: int = sum(event["rows"] - event["scored"] for event in censored)
    rows: int = censored[0]["rows"]
    return saved / (rows * (len(censored) + scored))


def _archive(archive: Archive, run: Run) -> dict[str, Any]:
    return {
        "coverage": archive.coverage,
        "qd_score": archive.qd_score,
        "bounds": {run.objectives[task]: list(pair) for task, pair in enumerate(archive.bounds)},
        "elites": [
            {"evaluation": elite.number, "cell": list(elite.cell), "scores": _by_task(run, elite.number)}
            for elite in archive.elites()
        ],
    }


def _by_task(run: Run, number: int) -> dict[str, float]:
    return dict(zip(run.tasks, run.scores(number), strict=True))


def lineage(run: Run, number: int, most: int = 40) -> list[dict[str, Any]]:
    """An evaluation and its ancestors, breadth first, each once; at most `most` entries."""
    line: list[dict[str, Any]] = []
    queue, seen = [number], {number}
    while queue and len(line) < most:
        current = queue.pop(0)
        step = run.steps[current]
        line.append({"evaluation": current, "step": step, "scores": run.results[current]["scores"]})
        for parent in step.get("parents", []):
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return line


def lineage_rows(line: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """A height per evaluation: the evaluation itself in the middle, each generation of ancestors spread around it."""
    depth = {line[0]["evaluation"]: 0}
    for entry in line:
        for parent in entry["step"].get("parents", []):
            depth.setdefault(parent, depth[entry["evaluation"]] + 1)
    seen: dict[int, int] = {}
    rows = {}
    for entry in line:
        number = entry["evaluation"]
        place = seen[depth[number]] = seen.get(depth[number], -1) + 1
        rows[number] = (place + 1) // 2 * (-1.0 if place % 2 else 1.0) + 0.3 * (depth[number] % 2)
    return rows


def history(run: Run) -> list[dict[str, Any]]:
    """Best quality, QD score and coverage per archive after every generation, starting at generation 0."""
    again = Run.begin(run.recipe, run.start, [event["step"] for event in run.results])
    for event in run.fits.values():
        again.tell_fit(event)
    entries = []
    for event in run.results:
        again.tell(event)
        if again.archives:
            best = [archive.best() for archive in again.archives]
            entries.append(
                {
                    "generation": again.generation,
                    "best": [None if elite is None else elite.scores[elite.task] for elite in best],
                    "qd_score": [archive.qd_score for archive in again.archives],
                    "coverage": [archive.coverage for archive in again.archives],
                }
            )
    return entries
