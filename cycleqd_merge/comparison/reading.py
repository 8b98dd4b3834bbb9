"""A comparison as it lies on disk: the run that a folder stands for, and what was found where it took part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cycleqd_merge.comparison.heldout import HeldOut, read_scored
from cycleqd_merge.comparison.results import Findings, Search, from_json
from cycleqd_merge.comparison.statistics import RowScores, paired_bootstrap
from cycleqd_merge.comparison.writing import FINDINGS
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.journal.log import FILE, Event, of_kind, read_events
from cycleqd_merge.journal.measured import Estimate, Measured
from cycleqd_merge.report.scores import Comparison, compare_best, usual_scores
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import Run, open_run


@dataclass(frozen=True)
class Shown:
    """A run, in its folder.

    findings: of the comparison that it took part in, if it did in one; then `verdict` says whether its best-mean elite
    is better than base, experts and plain mean, paired by row where the comparison scored both.
    """

    folder: Path
    run: Run
    findings: Findings | None
    verdict: Comparison | None = None


def read_shown(folder: Path) -> Shown:
    """The run in a folder; of the folder of a comparison, the first run of the reference's search.

    What the comparison scored on the rows that judged counts as measured.

    Raises:
        UserError: the folder holds neither, or a comparison that has not ended, or something in it cannot be read.
    """
    if (folder / FINDINGS).is_file():
        findings = read_findings(folder)
        strategy = findings.by_name[findings.reference].strategy
        first = next(search for search in findings.searches if search.strategy == strategy)
        return _compared(folder / _place(first), folder, findings)
    if (folder / FILE).is_file() and of_kind(read_events(folder), "comparison"):
        raise UserError(f"{folder}: its comparison has not ended; go on with `compare`, or name one of its runs")
    above = folder.resolve().parent.parent
    if (above / FINDINGS).is_file():
        findings = read_findings(above)
        if folder.resolve() in [above / _place(search) for search in findings.searches]:
            return _compared(folder, above, findings)
    return Shown(folder, open_run(folder), None)


def read_findings(out: Path) -> Findings:
    """What a comparison found, from its folder.

    Raises:
        UserError: the file cannot be read, or is not what `compare` writes.
    """
    path = out / FINDINGS
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; run `compare` again") from error


def _place(search: Search) -> Path:
    return Path(search.strategy) / f"seed-{search.seed}"


def _compared(folder: Path, out: Path, findings: Findings) -> Shown:
    run, rows = open_run(folder), findings.opened.rows
    scored = _scored(run, read_events(out))
    judged: Measured = {
        (digest, rows): {task: Estimate.of(scores, model.truncated[task]) for task, scores in model.scores.items()}
        for digest, model in scored.items()
    }
    whole = replace(run, measured={**judged, **run.measured})
    by_row = {digest: model.scores for digest, model in scored.items() if (digest, rows) not in run.measured}
    return Shown(folder, whole, findings, _verdict(whole, by_row if rows == "heldout" else {}))


def _scored(run: Run, events: Sequence[Event]) -> dict[str, HeldOut]:
    """What a comparison's journal says of the rows that judged, by digests as the run knows models."""
    elites = [run.candidate(number) for number in run.elites()]
    known = {candidate_digest(each): run.digest(each) for each in elites}
    return {known.get(digest, digest): model for digest, model in read_scored(events).items() if model is not None}


def _verdict(run: Run, heldout: Mapping[str, RowScores]) -> Comparison | None:
    """`compare_best` of the run's models, by the paired bootstrap where both sides have held-out scores by row.

    heldout: by digest.
    """
    found = compare_best(usual_scores(run), run.objectives)
    if found is None or found.split != "heldout":
        return found
    own, rival = (heldout.get(run.digest(choose(run, name).candidate)) for name in ("best-mean", found.baseline))
    if own is None or rival is None:
        return found
    ours, theirs = ({task: side[task] for task in run.objectives} for side in (own, rival))
    interval = paired_bootstrap(ours, theirs)
    return replace(found, difference=interval.estimate, interval=(interval.low, interval.high))
