"""Draws depend on their key alone."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cycleqd_merge.evolution.draws import generator, new_seed, normal, uniform

NAMES = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "wte")


def test_draws_are_the_same_in_another_process() -> None:
    code = (
        "import json, sys; from cycleqd_merge.evolution.draws import *;"
        "names = json.loads(sys.argv[1])[::-1];"
        "print(json.dumps([new_seed(7, 3, 'mutation'),"
        " {n: [uniform(5, n, 9).tolist(), normal(5, n, 9).tolist()] for n in names}]))"
    )
    answer = subprocess.run([sys.executable, "-c", code, json.dumps(NAMES)], capture_output=True, check=True, text=True)
    seed, draws = json.loads(answer.stdout)
    assert seed == new_seed(7, 3, "mutation")
    assert draws == {name: [uniform(5, name, 9).tolist(), normal(5, name, 9).tolist()] for name in NAMES}


def test_draws_are_those_of_all_recorded_runs() -> None:
    """Fixed numbers: if they change, every published genome becomes a different model."""
    assert uniform(42, "lm_head.weight", 3).tolist() == [0.7508780282718484, 0.12805789033585746, 0.0975446297781647]
    assert normal(42, "lm_head.weight", 3).tolist() == [1.6659443378448486, 1.7767553329467773, -2.1072986125946045]
    assert new_seed(0, 1, "mutation") == 5219851171748339


def test_the_order_of_draws_does_not_matter() -> None:
    alone = {name: uniform(1, name, 5).tolist() for name in NAMES}
    for order in permutations(NAMES):
        assert {name: uniform(1, name, 5).tolist() for name in order} == alone


@pytest.mark.parametrize(
    "other", [("a", "bc"), ("abc",), ("c", "ab"), ("ab", "c", ""), ("ab", 1), ("ab", "1"), ("ab", 10), (1, "ab")]
)
def test_different_keys_give_different_draws(other: tuple[int | str, ...]) -> None:
    assert generator("ab", "c").random(4).tolist() != generator(*other).random(4).tolist()
    assert generator("ab", 1).random() != generator("ab", "1").random()


@given(st.integers(0, 2**60), st.integers(0, 5000))
def test_seeds_survive_any_json_reader(seed: int, generation: int) -> None:
    drawn = new_seed(seed, generation, "mutation")
    assert 0 <= drawn < 2**53
    assert int(float(drawn)) == drawn


def test_draws_follow_their_distributions() -> None:
    assert stats.kstest(uniform(1, "w", 20_000), "uniform").pvalue > 0.01
    noise = normal(1, "w", 20_000)
    assert noise.dtype == np.float32
    assert stats.kstest(noise, "norm").pvalue > 0.01


def test_neighbouring_seeds_and_tensors_are_independent() -> None:
    columns = [uniform(seed, name, 5000) for seed in (1, 2) for name in ("w.0", "w.1")]
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 0.05
