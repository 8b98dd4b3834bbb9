"""A run on disk, with the result of its comparison if it is part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cycleqd_merge.comparison.final_scores import FinalScores, read_scores
from cycleqd_merge.comparison.output_files import RESULT_FILE
from cycleqd_merge.comparison.results import ComparisonResult, StrategyRunResult, result_from_json
from cycleqd_merge.errors import RecipeError, first_line
from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, complete_events, of_kind
from cycleqd_merge.journal.measured import Estimate, Measured
from cycleqd_merge.report.paired import RowScores
from cycleqd_merge.report.scores import Comparison, compare_best, paired_by_row, usual_scores
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.strict_json import loads


@dataclass(frozen=True)
class RunInComparison:
    """A run and its directory.

    comparison: the result of the comparison that it is part of, if any; then `verdict` says whether its best-mean elite
    is better than base, experts and plain mean, paired by row if the comparison scored both.
    """

    folder: Path
    run: Run
    comparison: ComparisonResult | None
    verdict: Comparison | None = None


def open_run_or_comparison(folder: Path) -> RunInComparison:
    """The run in a directory; in the folder of a comparison, the first run of the reference's strategy.

    The comparison's scores on its final split are added to the run's.

    Raises:
        UserError: the folder contains neither, or an incomplete comparison, or a file cannot be read.
    """
    if (folder / RESULT_FILE).is_file():
        result = read_result(folder)
        strategy = result.by_name[result.reference].strategy
        first = next((run for run in result.runs if run.strategy == strategy), None)
        if first is None:
            raise RecipeError(f"{folder / RESULT_FILE}: has no run of {result.reference}; rerun `compare`")
        return _with_comparison(folder / _place(first), folder, result)
    if (folder / JOURNAL_FILE).is_file() and of_kind(complete_events(folder), "comparison"):
        raise RecipeError(
            f"{folder}: the comparison is not complete; resume it with `compare`, or name one of its runs"
        )
    above = folder.resolve().parent.parent
    if (above / RESULT_FILE).is_file():
        result = read_result(above)
        if folder.resolve() in [above / _place(run) for run in result.runs]:
            return _with_comparison(folder, above, result)
    return RunInComparison(folder, open_run(folder), None)


def read_result(folder: Path) -> ComparisonResult:
    """The result of a comparison, from its folder.

    Raises:
        RecipeError: the file cannot be read, or was not written by `compare`.
    """
    path = folder / RESULT_FILE
    try:
        return result_from_json(loads(path.read_bytes()), str(path))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read: {first_line(error)}; rerun `compare`") from error


def _place(run: StrategyRunResult) -> Path:
    return Path(run.strategy) / f"seed-{run.seed}"


def _with_comparison(run_folder: Path, folder: Path, result: ComparisonResult) -> RunInComparison:
    run, split = open_run(run_folder), result.opened.rows
    scored = _scored(run, complete_events(folder))
    final: Measured = {
        (digest, split): {task: Estimate.of(scores, model.truncated[task]) for task, scores in model.scores.items()}
        for digest, model in scored.items()
    }
    whole = replace(run, measured={**final, **run.measured})
    by_row = {digest: model.scores for digest, model in scored.items() if (digest, split) not in run.measured}
    return RunInComparison(run_folder, whole, result, _verdict(whole, by_row if split == "heldout" else {}))


def _scored(run: Run, events: Sequence[Event]) -> dict[str, FinalScores]:
    """The final scores in a comparison's journal, by the digests that the run uses for its models."""
    elites = [run.candidate(number) for number in run.elites()]
    known = {candidate_digest(each): run.digest(each) for each in elites}
    return {known.get(digest, digest): model for digest, model in read_scores(events).items() if model is not None}


def _verdict(run: Run, heldout: Mapping[str, RowScores]) -> Comparison | None:
    """`compare_best` of the run's models, with the paired bootstrap if both sides have held-out scores by row.

    heldout: by digest.
    """
    best = compare_best(usual_scores(run), run.objectives)
    if best is None or best.split != "heldout" or best.interval is not None:
        return best
    own, other = (heldout.get(run.digest(choose(run, name).candidate)) for name in ("best-mean", best.baseline))
    if own is None or other is None:
        return best
    ours, theirs = ({task: side[task] for task in run.objectives} for side in (own, other))
    return paired_by_row(best, ours, theirs)
