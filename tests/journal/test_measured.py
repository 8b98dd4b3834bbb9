"""Means and standard errors against the standard library's statistics."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.evolution.genome import expert_genome, level_genome
from cycleqd_merge.journal.measured import Estimate, measured_event, measured_scores

samples = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(samples)
def test_an_estimate_is_the_mean_with_its_standard_error(scores: list[float]) -> None:
    found = Estimate.of(scores)
    assert found.samples == len(scores)
    assert found.score == pytest.approx(statistics.fmean(scores))
    assert found.error == pytest.approx(statistics.stdev(scores) / math.sqrt(len(scores)), abs=1e-9)


@given(samples)
def test_without_samples_the_error_is_never_too_small(scores: list[float]) -> None:
    known, bound = Estimate.of(scores), Estimate.at_most(min(statistics.fmean(scores), 1.0), len(scores))
    assert known.error is not None
    assert bound.error is not None
    assert bound.error >= known.error - 1e-9


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30))
def test_without_samples_the_error_of_right_and_wrong_is_exact(scores: list[float]) -> None:
    assert Estimate.at_most(statistics.fmean(scores), len(scores)).error == pytest.approx(Estimate.of(scores).error)


def test_one_sample_has_no_error() -> None:
    assert Estimate.of([0.5]).error is None
    assert Estimate.at_most(0.5, 1).error is None


def test_the_last_measurement_of_a_model_counts_whatever_it_was_called() -> None:
    model, other = level_genome(0.5, 2, 1), expert_genome(0, 2, 1)
    early, late = Estimate.of([0.0, 1.0]), Estimate.of([1.0, 1.0], truncated=0.5)
    events = [
        measured_event("mean", model, "heldout", {"sql": early}),
        measured_event("expert:a", other, "heldout", {"sql": early}),
        measured_event("mean", model, "search", {"sql": early}),
        measured_event("#7", model, "heldout", {"sql": late}),
    ]
    found = measured_scores(events)
    assert found[candidate_digest(model), "heldout"] == {"sql": late}
    assert found[candidate_digest(model), "search"] == {"sql": early}
    assert found[candidate_digest(other), "heldout"] == {"sql": early}
    assert len(found) == 3
