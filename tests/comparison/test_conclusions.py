"""Conclusions from the example's known scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cycleqd_merge.comparison.comparison_warnings import comparison_warnings
from cycleqd_merge.comparison.conclusions import ModelStatistics, conclusions, head_to_head, model_statistics
from cycleqd_merge.comparison.results import ComparedModel, ComparisonResult, RowCount, SplitOpening
from tests.comparison.examples import ROWS, TASKS, example, fixed, seed_scores


def statistics_of(result: ComparisonResult) -> dict[str, ModelStatistics]:
    return {each.model.name: each for each in model_statistics(result)}


def warned(result: ComparisonResult) -> str:
    models = model_statistics(result)
    return "\n".join(comparison_warnings(result, models, head_to_head(result, models)))


def test_scores_are_means_over_rows_seeds_and_tasks() -> None:
    found = statistics_of(example())
    cma = found["cma-es best-mean"]
    assert cma.heldout == {"sql": pytest.approx(21 / ROWS), "bash": pytest.approx(15 / ROWS)}
    assert (cma.mean_by_seed, cma.mean) == (pytest.approx((17 / ROWS, 19 / ROWS)), pytest.approx(18 / ROWS))
    half = stats.t.ppf(0.975, 1) * np.std(cma.mean_by_seed, ddof=1) / math.sqrt(2)
    assert cma.over_seeds is not None
    assert (cma.over_seeds.low, cma.over_seeds.high) == pytest.approx((cma.mean - half, cma.mean + half))
    assert found["base"].over_seeds is None


def test_differences_are_to_the_reference_and_negative_below_it() -> None:
    found = statistics_of(example())
    assert found["cycleqd best-mean"].difference is None
    base = found["base"].difference
    assert base is not None
    assert base.estimate == pytest.approx(4 / ROWS - 20 / ROWS)
    assert base.low < base.estimate < base.high < 0


def test_gap_needs_search_scores_and_adds_both_errors() -> None:
    found = statistics_of(example())
    assert found["base"].gap is None
    gap = found["cycleqd best-mean"].gap
    assert gap is not None
    assert gap.difference == pytest.approx(0.52 - 20 / ROWS)
    shares = (24 / ROWS, 16 / ROWS)
    variances = [0.52 * 0.48 / 99] * 2 + [share * (1 - share) / (ROWS - 1) for share in shares]
    assert gap.error == pytest.approx(math.sqrt(sum(variances)) / 2)


def test_the_best_other_model_is_of_a_different_strategy() -> None:
    result = example()  # the aggregate of the same strategy is better still
    best = head_to_head(result, model_statistics(result))
    assert best is not None
    assert (best.reference, best.other) == ("cycleqd best-mean", "cma-es best-mean")
    assert best.difference.estimate == pytest.approx(2 / ROWS)
    first, second = conclusions(result, best)
    assert first.startswith("cycleqd best-mean against the best other model, cma-es best-mean: +0.050 (95%: +0.0")
    assert second == (
        "cycleqd has the largest hypervolume on the held-out split, 0.2200; cma-es follows with 0.1500."
    )  # of cycleqd (0.12 + 0.12 - 0.04 + 0.24) / 2, of cma-es (0.2 + 0.1) / 2


def test_a_model_alone_has_nothing_to_be_compared_with() -> None:
    result = example(models=(fixed("base", "base", 4, 4),), reference="base", runs=())
    assert head_to_head(result, model_statistics(result)) is None
    assert conclusions(result, None) == []


def test_kept_tasks_are_reported_and_do_not_count() -> None:
    models = tuple(
        replace(each, by_seed=tuple(replace(one, heldout=one.heldout | {"code": (1.0,) * 3}) for one in each.by_seed))
        for each in example().models
    )
    rows = dict.fromkeys(TASKS, RowCount(100, ROWS, 0)) | {"code": RowCount(9, 3, 0)}
    found = statistics_of(example(models=models, kept=("code",), rows=rows))
    assert found["base"].heldout["code"] == 1.0
    assert found["base"].mean == pytest.approx(4 / ROWS)


def test_a_difference_inside_noise_is_called_so() -> None:
    ours = ComparedModel("ours", "elite", "cycleqd", (seed_scores("o", {"sql": 20, "bash": 20}),))
    near = ComparedModel("near", "merge", "ties", (seed_scores("n", {"sql": 20, "bash": 20}, first=1),))
    far = ComparedModel("far", "merge", "linear", (seed_scores("f", {"sql": 1, "bash": 1}),))
    frozen = SplitOpening("2026-01-02T03:04:05Z", {"ours": ("o",), "near": ("n",), "far": ("f",), "like": ("l",)})
    few = {"models": (ours, near, far), "reference": "ours", "opened": frozen, "runs": ()}
    assert warned(example(**few)) == (
        "The difference between ours and the best other model, near, is within noise: these rows do not show which is "
        "better."
    )
    like = ComparedModel("like", "merge", "slerp", (seed_scores("l", {"sql": 19, "bash": 20}, first=2),))
    assert warned(example(**(few | {"models": (ours, near, far, like)}))).endswith(
        "Not distinguishable from ours: like."
    )
    assert warned(example(**(few | {"models": (ours, far)}))) == ""


def test_false_wins_are_named_for_models_that_a_strategy_found() -> None:
    text = warned(example())
    assert "False win: the search score of cma-es best-mean is 0.350 above its held-out score" in text
    assert text.count("False win") == 1
    flattered = ComparedModel("expert:sql", "expert", None, (seed_scores("e", {"sql": 1, "bash": 1}, search=0.9),))
    assert "False win" not in warned(example(models=(flattered,), reference="expert:sql", runs=()))


def test_cut_answers_duplicates_and_models_without_scores_are_named() -> None:
    late = ComparedModel(
        "late", "merge", "ties", (seed_scores("x", {"sql": 2, "bash": 2}, truncated={"sql": 0.051, "bash": 0.05}),)
    )
    both = ComparedModel(
        "both", "merge", "slerp", (seed_scores("y", {"sql": 2, "bash": 2}, truncated={"sql": 0.2, "bash": 0.3}),)
    )
    rows = {"sql": RowCount(100, ROWS, 3), "bash": RowCount(100, ROWS, 0)}
    lines = warned(example(models=(*example().models, late, both), rows=rows)).splitlines()
    assert [line for line in lines if "token limit" in line] == [
        "The token limit cut off more than 5% of the answers of late (sql 5%), both (sql 20%, bash 30%): their scores "
        "may reflect the limit; raise max_new_tokens to find out."
    ]
    assert [line for line in lines if line.startswith("Task ")] == [
        "Task sql: 3 of 40 held-out rows also occur in the search or confirmation split; scores on them are not held "
        "out."
    ]
    unscored = warned(example(unscored=("ties",)))
    assert "ties could not be scored at the end for at least one seed; the journal has the error." in unscored
    assert not any(line.startswith("base was") for line in lines)
