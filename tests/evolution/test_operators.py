"""Options of CycleQD's operators beyond the paper's, watched through the steps of its children."""

from __future__ import annotations

import numpy as np
import pytest

from cycleqd_merge.evolution.genome import Genome, crossover
from tests.evolution.references import flat, weighted_sum
from tests.evolution.test_cycleqd import play, strategy


def test_scaling_multiplies_coefficients_and_shares_by_a_factor_per_child() -> None:
    """By hand: scaling * (w1 a + w2 b) / (w1 + w2), then the child's own mutation in full."""
    proposals = play(strategy(groups=2, scaling=(1.0, 1.6), sigma=0.1), 60)
    for proposal in proposals[3:]:
        first, second = (proposals[parent].candidate for parent in proposal.step["parents"])
        weights, factor = proposal.step["weights"], proposal.step["scaling"]
        by_group = [
            [factor * w / sum(pair) for w, pair in zip(row, zip(*weights, strict=True), strict=True)] for row in weights
        ]
        wanted = weighted_sum([flat(first), flat(second)], by_group)  # type: ignore[arg-type]
        found = flat(proposal.candidate)  # type: ignore[arg-type]
        own = {key for key in found if getattr(key[0], "seed", None) == proposal.step["mutation"]["seed"]}
        assert {found[key] for key in own} == {1.0}
        for key in wanted.keys() | found.keys() - own:
            assert found.get(key, 0.0) == pytest.approx(wanted[key], abs=1e-4)


def test_scaling_is_drawn_evenly_from_its_range() -> None:
    drawn = [proposal.step["scaling"] for proposal in play(strategy(scaling=(0.5, 1.5)), 300)[3:]]
    assert 0.5 <= min(drawn) < 0.52
    assert 1.48 < max(drawn) <= 1.5
    assert np.mean(drawn) == pytest.approx(1.0, abs=0.06)


def test_scaling_of_one_is_the_plain_mean() -> None:
    plain, scaled = (play(strategy(**settings), 1)[-1] for settings in ({}, {"scaling": (1.0, 1.0)}))
    assert scaled.step == {**plain.step, "scaling": 1.0}
    a, b = Genome.from_json(plain.candidate.to_json()), scaled.candidate
    assert a == b
    assert crossover(a, a, np.ones((2, 1)), 2.0).coefficients.tolist() == (2 * a.coefficients).tolist()
