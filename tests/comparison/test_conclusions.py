"""Conclusions from the example's known scores."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cycleqd_merge.comparison.comparison_warnings import comparison_warnings, many_comparisons
from cycleqd_merge.comparison.conclusions import ModelStatistics, conclusions, head_to_head, model_statistics
from cycleqd_merge.comparison.results import ComparedModel, ComparisonResult, RowCount, SplitOpening
from cycleqd_merge.comparison.tables import comparison_report
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


def test_differences_of_strategies_have_an_interval_over_rows_and_seeds_too() -> None:
    found = statistics_of(example())
    cma, base = found["cma-es best-mean"], found["base"]
    assert cma.difference is not None
    assert cma.over_rows_and_seeds is not None
    welch = stats.t.ppf(0.975, 1) * np.std(cma.mean_by_seed, ddof=1) / math.sqrt(2)  # the reference's seeds are equal
    half = math.hypot(cma.difference.estimate - cma.difference.low, welch)
    assert cma.over_rows_and_seeds.low == pytest.approx(cma.difference.estimate - half)
    assert base.over_rows_and_seeds == pytest.approx(base.difference)
    assert found["cycleqd aggregate"].over_rows_and_seeds is None  # it has one seed
    assert found["cycleqd best-mean"].over_rows_and_seeds is None  # it is the reference


def by_seeds(name: str, strategy: str, *right: int, rows: int = 0) -> ComparedModel:
    """A strategy's best model with these numbers of correct rows per task, a seed each."""
    scored = (seed_scores(f"{name}{n}", {"sql": each, "bash": each}, n, first=rows) for n, each in enumerate(right))
    return ComparedModel(name, "elite", strategy, tuple(scored))


def compared(*models: ComparedModel) -> ComparisonResult:
    frozen = {each.name: tuple(one.digest for one in each.by_seed) for each in models}
    opened = SplitOpening("2026-01-02T03:04:05Z", frozen)
    return example(models=models, reference=models[0].name, opened=opened, runs=())


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        ((30, 31), (10, 11), "better"),
        ((10, 11), (30, 31), "worse"),
        ((20, 24), (16, 12), "not distinguishable"),  # over rows it is better
        ((30,), (10,), "better, as far as one seed can tell"),
        ((30, 30), (10,), "better, as far as one seed can tell"),
    ],
)
def test_the_verdict_is_that_of_the_interval_over_rows_and_seeds(
    own: tuple[int, ...], other: tuple[int, ...], verdict: str
) -> None:
    result = compared(by_seeds("ours", "a", *own), by_seeds("theirs", "b", *other))
    best = head_to_head(result, model_statistics(result))
    assert best is not None
    assert best.verdict == verdict
    assert not best.difference.holds_zero


def test_against_a_static_merge_only_the_own_seeds_count() -> None:
    merge = fixed("ties", "merge", 10, 10)
    result = compared(by_seeds("ours", "a", 30, 31, 32), merge)
    best = head_to_head(result, model_statistics(result))
    assert best is not None
    assert best.over_rows_and_seeds is not None
    assert best.verdict == "better"


def test_every_strategy_with_few_seeds_is_named() -> None:
    models = [by_seeds(name, name[0], *[30 - n] * n) for n, name in enumerate(("a1", "b2", "c3", "d4", "e5"), start=1)]
    lines = warned(compared(*models, fixed("ties", "merge", 10, 10))).splitlines()
    assert any(line.startswith("Only one seed of a: intervals are over rows alone") for line in lines)
    assert any(line.startswith("Few seeds of b (2), c (3), d (4): with fewer than 5") for line in lines)
    assert not any("ties" in line or "e (5)" in line for line in lines)


def test_every_difference_that_the_seeds_do_not_show_is_named() -> None:
    ours = by_seeds("ours", "a", 30, 26)
    best, second, clear = by_seeds("b", "b", 24, 20), by_seeds("c", "c", 23, 17), by_seeds("d", "d", 2, 2)
    text = warned(compared(ours, best, second, clear))
    assert "Over rows and seeds, ours and b are not distinguishable" in text
    assert "Different from ours over rows, but not distinguishable over rows and seeds: c." in text


def test_hypervolumes_within_the_spread_of_seeds_are_named() -> None:
    assert "The hypervolumes of cycleqd and cma-es are not distinguishable over seeds." in warned(example())
    apart = [replace(run, elite_set=((0.9 if run.strategy == "cycleqd" else 0.1,) * 2,)) for run in example().runs]
    assert "hypervolumes" not in warned(example(runs=tuple(apart)))


def test_many_comparisons_get_one_sentence() -> None:
    assert many_comparisons(example()) == [
        "6 models are compared with cycleqd best-mean, each at 95%: if all were equally good, at least one would still "
        "appear to differ with a chance of up to 26%."
    ]
    assert many_comparisons(compared(by_seeds("ours", "a", 30, 26), fixed("ties", "merge", 10, 10))) == []
    assert many_comparisons(example())[0] in comparison_report(example()).warnings


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
    assert re.search(r" over rows, -0\.\d+ to \+0\.\d+ over rows and seeds\): not distinguishable\.$", first)
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
