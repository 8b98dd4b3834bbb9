"""What is concluded from the example's known scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cycleqd_merge.comparison.results import Entrant, Findings, Opening, RowCount
from cycleqd_merge.comparison.verdicts import Verdict, conclusions, contest, verdicts
from cycleqd_merge.comparison.warnings import warnings
from tests.comparison.examples import ROWS, TASKS, example, fixed, judged


def found_in(findings: Findings) -> dict[str, Verdict]:
    return {verdict.entrant.name: verdict for verdict in verdicts(findings)}


def warned(findings: Findings) -> str:
    found = verdicts(findings)
    return "\n".join(warnings(findings, found, contest(findings, found)))


def test_scores_are_means_over_rows_seeds_and_tasks() -> None:
    found = found_in(example())
    cma = found["cma-es best-mean"]
    assert cma.heldout == {"sql": pytest.approx(21 / ROWS), "bash": pytest.approx(15 / ROWS)}
    assert (cma.seeds, cma.mean) == (pytest.approx((17 / ROWS, 19 / ROWS)), pytest.approx(18 / ROWS))
    half = stats.t.ppf(0.975, 1) * np.std(cma.seeds, ddof=1) / math.sqrt(2)
    assert cma.over_seeds is not None
    assert (cma.over_seeds.low, cma.over_seeds.high) == pytest.approx((cma.mean - half, cma.mean + half))
    assert found["base"].over_seeds is None


def test_differences_are_to_the_reference_and_negative_below_it() -> None:
    found = found_in(example())
    assert found["cycleqd best-mean"].difference is None
    base = found["base"].difference
    assert base is not None
    assert base.estimate == pytest.approx(4 / ROWS - 20 / ROWS)
    assert base.low < base.estimate < base.high < 0


def test_gap_needs_search_scores_and_adds_both_errors() -> None:
    found = found_in(example())
    assert found["base"].gap is None
    gap = found["cycleqd best-mean"].gap
    assert gap is not None
    assert gap.difference == pytest.approx(0.52 - 20 / ROWS)
    shares = (24 / ROWS, 16 / ROWS)
    variances = [0.52 * 0.48 / 99] * 2 + [share * (1 - share) / (ROWS - 1) for share in shares]
    assert gap.error == pytest.approx(math.sqrt(sum(variances)) / 2)


def test_the_rival_is_the_best_of_another_strategy() -> None:
    findings = example()  # the aggregate of the same search is better still
    decided = contest(findings, verdicts(findings))
    assert decided is not None
    assert (decided.own, decided.rival) == ("cycleqd best-mean", "cma-es best-mean")
    assert decided.difference.estimate == pytest.approx(2 / ROWS)
    first, second = conclusions(findings, decided)
    assert first.startswith("cycleqd best-mean against its best rival, cma-es best-mean: +0.050 (95%: +0.0")
    assert second == (
        "The largest hypervolume on held-out rows is that of cycleqd, 0.2200; cma-es follows with 0.1500."
    )  # of cycleqd (0.12 + 0.12 - 0.04 + 0.24) / 2, of cma-es (0.2 + 0.1) / 2


def test_a_model_alone_has_no_rival_and_nothing_to_conclude() -> None:
    findings = example(entrants=(fixed("base", "base", 4, 4),), reference="base", searches=())
    assert contest(findings, verdicts(findings)) is None
    assert conclusions(findings, None) == []


def test_kept_tasks_are_reported_beside_the_mean() -> None:
    entrants = tuple(
        replace(each, judged=tuple(replace(one, heldout=one.heldout | {"code": (1.0,) * 3}) for one in each.judged))
        for each in example().entrants
    )
    rows = dict.fromkeys(TASKS, RowCount(100, ROWS, 0)) | {"code": RowCount(9, 3, 0)}
    found = found_in(example(entrants=entrants, kept=("code",), rows=rows))
    assert found["base"].heldout["code"] == 1.0
    assert found["base"].mean == pytest.approx(4 / ROWS)


def test_a_difference_inside_noise_is_called_so() -> None:
    ours = Entrant("ours", "elite", "cycleqd", (judged("o", {"sql": 20, "bash": 20}),))
    near = Entrant("near", "merge", "ties", (judged("n", {"sql": 20, "bash": 20}, first=1),))
    far = Entrant("far", "merge", "linear", (judged("f", {"sql": 1, "bash": 1}),))
    frozen = Opening("2026-01-02T03:04:05Z", {"ours": ("o",), "near": ("n",), "far": ("f",), "like": ("l",)})
    few = {"entrants": (ours, near, far), "reference": "ours", "opened": frozen, "searches": ()}
    assert warned(example(**few)) == (
        "The difference between ours and its best rival, near, is inside noise: these rows do not tell which is better."
    )
    like = Entrant("like", "merge", "slerp", (judged("l", {"sql": 19, "bash": 20}, first=2),))
    assert warned(example(**(few | {"entrants": (ours, near, far, like)}))).endswith("Not told apart from ours: like.")
    assert warned(example(**(few | {"entrants": (ours, far)}))) == ""


def test_false_wins_are_called_out_for_what_a_search_chose() -> None:
    text = warned(example())
    assert "False win: the search score of cma-es best-mean lies 0.350 above its held-out score" in text
    assert text.count("False win") == 1
    flattered = Entrant("expert:sql", "expert", None, (judged("e", {"sql": 1, "bash": 1}, search=0.9),))
    findings = example(entrants=(flattered,), reference="expert:sql", searches=())
    assert "False win" not in warned(findings)


def test_cut_answers_duplicates_and_models_without_scores_are_named() -> None:
    late = Entrant(
        "late", "merge", "ties", (judged("x", {"sql": 2, "bash": 2}, truncated={"sql": 0.051, "bash": 0.05}),)
    )
    both = Entrant("both", "merge", "slerp", (judged("y", {"sql": 2, "bash": 2}, truncated={"sql": 0.2, "bash": 0.3}),))
    rows = {"sql": RowCount(100, ROWS, 3), "bash": RowCount(100, ROWS, 0)}
    lines = warned(example(entrants=(*example().entrants, late, both), rows=rows)).splitlines()
    assert [line for line in lines if "token limit" in line] == [
        "The token limit cut more than 5% of the answers of late (sql 5%), both (sql 20%, bash 30%): such scores may "
        "be the limit's; a higher max_new_tokens would tell."
    ]
    assert [line for line in lines if line.startswith("Task ")] == [
        "Task sql: 3 of 40 held-out rows are rows of the search too; scores on them are not held out."
    ]
    unscored = warned(example(unscored=("ties",)))
    assert "ties: a model of it could not be scored; the journal says why." in unscored
    assert not any(line.startswith("base was") for line in lines)
