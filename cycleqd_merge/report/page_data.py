"""The data of a run's page: JSON values, which its scripts draw without computing anything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.report.summary import history, lineage, lineage_rows
from cycleqd_merge.run.state import Run

MAX_DRAWN_ANCESTORS = 24
"""Maximum number of evaluations drawn per lineage."""


def page_data(run: Run, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Archives, evaluations and progress of a run.

    name: the run directory in commands on the page. facts: see `summary`.
    """
    return {
        "tasks": run.tasks,
        "objectives": run.objectives,
        "experts": run.experts,
        "groups": run.groups,
        "export": f"cycleqd-merge export {shlex.quote(name)}",
        "first": run.search.first,
        "bestMean": facts["best_mean"],
        "archives": [_archive(archive, facts["archives"], run) for archive in run.archives],
        "evaluations": [_evaluation(run, number) for number in range(len(run.results))],
        "history": history(run),
    }


def _archive(archive: Archive, facts: dict[str, Any], run: Run) -> dict[str, Any]:
    """An archive from `summary`, with the axes of its cells."""
    name = run.objectives[archive.task]
    others = [run.objectives[task] for task in archive.others]
    elites = [{"number": elite["evaluation"], "cell": elite["cell"]} for elite in facts[name]["elites"]]
    return {**facts[name], "task": name, "others": others, "shape": list(archive.shape), "elites": elites}


def _evaluation(run: Run, number: int) -> dict[str, Any]:
    """An evaluation's step, scores on each split and composition, and the places of its ancestors in a graph."""
    event, candidate = run.results[number], run.portable(run.candidate(number))
    line = lineage(run, number, MAX_DRAWN_ANCESTORS)
    rows = lineage_rows(line)
    facts: dict[str, Any] = {
        "step": {
            key: event["step"][key]
            for key in ("expert", "seed", "fit", "level", "parents", "mutation")
            if key in event["step"]
        },
        "scores": event["scores"],
        "error": event.get("error"),
        "censored": event.get("censored", False),
        "lineage": [[entry["evaluation"], rows[entry["evaluation"]]] for entry in line],
    }
    if isinstance(candidate, Genome):
        facts |= {"coefficients": candidate.coefficients.round(6).tolist(), "mutations": len(candidate.mutations)}
    else:
        facts["configuration"] = {"yaml": candidate.yaml, "seed": candidate.seed}
    if number in run.confirmed:
        facts["confirm"] = list(run.confirmed[number])
    if run.measured:
        heldout = run.measured.get((run.digest(candidate), "heldout"), {})
        facts["heldout"] = {task: asdict(estimate) for task, estimate in heldout.items()} or None
    return facts
