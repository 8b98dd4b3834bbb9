"""A run in figures: what `show` prints and what `--json` hands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.journal.log import Event, failed
from cycleqd_merge.journal.replay import Replay


def summary(replay: Replay) -> dict[str, Any]:
    """The run as JSON values: settings, progress, archives with every elite."""
    results = [event for event in replay.results if event["scores"] is not None]
    censored = [event for event in replay.results if event.get("censored")]
    seconds = [sum(event["seconds"]) for event in replay.results if "seconds" in event]
    return {
        "base": replay.recipe.base,
        "experts": dict(replay.recipe.experts),
        "tasks": replay.tasks,
        "objectives": replay.objectives,
        "generation": replay.generation,
        "generations": replay.generations,
        "evaluations": len(results),
        "failed": sum(map(failed, replay.results)),
        "censored": len(censored),
        "rows_saved": _rows_saved(censored, len(results)),
        "below_floor": sum(not replay.space.holds(tuple(event["scores"])) for event in results),
        "seconds_per_evaluation": sum(seconds) / len(seconds) if seconds else None,
        "archives": {replay.objectives[archive.task]: _archive(archive, replay) for archive in replay.archives},
        "best_mean": replay.best_mean() if any(archive.elites() for archive in replay.archives) else None,
    }


def _rows_saved(censored: Sequence[Event], scored: int) -> float | None:
    """The share of all rows that was not scored because children lost their race; None where none did."""
    if not censored:
        return None
    saved: int = sum(event["rows"] - event["scored"] for event in censored)
    rows: int = censored[0]["rows"]
    return saved / (rows * (len(censored) + scored))


def _archive(archive: Archive, replay: Replay) -> dict[str, Any]:
    return {
        "coverage": archive.coverage,
        "qd_score": archive.qd_score,
        "bounds": {replay.objectives[task]: list(pair) for task, pair in enumerate(archive.bounds)},
        "elites": [
            {"evaluation": elite.number, "cell": list(elite.cell), "scores": _by_task(replay, elite.number)}
            for elite in archive.elites()
        ],
    }


def _by_task(replay: Replay, number: int) -> dict[str, float]:
    return dict(zip(replay.tasks, replay.scores(number), strict=True))


def lineage(replay: Replay, number: int, most: int = 40) -> list[dict[str, Any]]:
    """The ancestors of an evaluation, itself first, breadth first, each once; at most `most`."""
    line: list[dict[str, Any]] = []
    queue, seen = [number], {number}
    while queue and len(line) < most:
        current = queue.pop(0)
        step = replay.steps[current]
        line.append({"evaluation": current, "step": step, "scores": replay.results[current]["scores"]})
        for parent in step.get("parents", []):
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return line


def history(replay: Replay) -> list[dict[str, Any]]:
    """Best quality, QD score and coverage per archive after every generation, from generation 0 on."""
    again = Replay.begin(replay.recipe, replay.folder, replay.start, [event["step"] for event in replay.results])
    entries = []
    for event in replay.results:
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
