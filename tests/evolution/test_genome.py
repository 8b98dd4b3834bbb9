"""The algebra of genomes, compared with plain dictionaries."""

from __future__ import annotations

import json
import math
import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.evolution.genome import (
    NEGLIGIBLE,
    Genome,
    Mutation,
    aggregate,
    combine,
    crossover,
    expert_genome,
    fit_genome,
    mutate,
)
from tests.evolution.references import FITS, MUTATIONS, close, flat, genomes, weighted_sum, without_negligible

WEIGHT = st.floats(-1.5, 1.5)
POSITIVE = st.floats(0.5, 1.5)


def pairs(weight: st.SearchStrategy[float], genomes: int = 2) -> st.SearchStrategy[list[list[float]]]:
    """Weights of `genomes` genomes in two groups."""
    return st.lists(st.lists(weight, min_size=2, max_size=2), min_size=genomes, max_size=genomes)


@given(st.lists(genomes(), min_size=3, max_size=3), pairs(WEIGHT, 3))
def test_combination_is_the_weighted_sum_of_its_parts(parts: list[Genome], weights: list[list[float]]) -> None:
    wanted = without_negligible(weighted_sum([flat(part) for part in parts], weights), NEGLIGIBLE)
    assert flat(combine(parts, np.array(weights))) == wanted


@given(genomes(), genomes(), pairs(POSITIVE))
def test_crossover_is_the_mean_weighted_per_group(a: Genome, b: Genome, weights: list[list[float]]) -> None:
    shares = [[weights[n][g] / (weights[0][g] + weights[1][g]) for g in range(2)] for n in range(2)]
    wanted = without_negligible(weighted_sum([flat(a), flat(b)], shares), NEGLIGIBLE)
    assert flat(crossover(a, b, np.array(weights))) == wanted


@given(genomes(least_share=2 * NEGLIGIBLE), pairs(POSITIVE))
def test_crossover_of_a_genome_with_itself_changes_nothing(genome: Genome, weights: list[list[float]]) -> None:
    assert close(flat(crossover(genome, genome, np.array(weights))), flat(genome), 1e-12)


@given(st.lists(genomes(), min_size=3, max_size=3), pairs(POSITIVE), pairs(POSITIVE))
def test_lineage_collapses_into_one_sum_over_the_oldest_ancestors(
    ancestors: list[Genome], first: list[list[float]], second: list[list[float]]
) -> None:
    child = crossover(crossover(ancestors[0], ancestors[1], np.array(first)), ancestors[2], np.array(second))
    w, v = np.array(first), np.array(second)
    shares = [w[0] / w.sum(0) * v[0] / v.sum(0), w[1] / w.sum(0) * v[0] / v.sum(0), v[1] / v.sum(0)]
    wanted = weighted_sum([flat(ancestor) for ancestor in ancestors], [share.tolist() for share in shares])
    assert close(flat(child), wanted, 2 * NEGLIGIBLE)  # each of the two crossovers may drop this much


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ([NEGLIGIBLE, 0.0], True),
        ([0.0, -NEGLIGIBLE], True),
        ([math.nextafter(NEGLIGIBLE, 0), -math.nextafter(NEGLIGIBLE, 0)], False),
        ([0.0, 0.0], False),
    ],
)
def test_mutations_below_bfloat16_rounding_in_every_group_are_dropped(shares: list[float], kept: bool) -> None:
    genome = Genome(np.ones((2, 2)), (MUTATIONS[0],), np.array([shares]))
    child = combine([genome], np.ones((1, 2)))
    assert child.mutations == (genome.mutations if kept else ())
    assert child.shares.tolist() == ([shares] if kept else [])


@given(genomes())
def test_json_round_trip_is_exact(genome: Genome) -> None:
    read = Genome.from_json(json.loads(genome.dumps()))
    assert read == genome
    assert read.coefficients.tobytes() == (genome.coefficients + 0.0).tobytes()  # except for the sign of zero
    assert read.shares.tobytes() == (genome.shares + 0.0).tobytes()
    assert (read.shares.shape, read.mutations) == (genome.shares.shape, genome.mutations)


@given(genomes(), genomes())
def test_only_equal_genomes_have_equal_text(a: Genome, b: Genome) -> None:
    assert (a.dumps() == b.dumps()) == (a == b)


def test_negative_zero_is_written_as_zero() -> None:
    plus, minus = (Genome(np.array([[zero]]), (MUTATIONS[0],), np.array([[zero]])) for zero in (0.0, -0.0))
    assert plus == minus
    assert plus.dumps() == minus.dumps()


def test_the_order_of_mutations_does_not_matter() -> None:
    texts = set()
    for order in permutations(MUTATIONS[:4]):
        genome = expert_genome(0, 2, 2)
        for mutation in order:
            genome = mutate(genome, mutation)
        texts.add(genome.dumps())
    assert len(texts) == 1


@given(genomes(), st.integers(0, 2**53 - 1))
def test_a_mutation_is_added_in_full_and_the_parent_is_unchanged(parent: Genome, seed: int) -> None:
    mutation = Mutation("svd", 1, seed, 0.7)
    before = parent.dumps()
    if mutation.seed in parent.seeds:
        return
    child = mutate(parent, mutation)
    assert flat(child) == {**flat(parent), (mutation, 0): 1.0, (mutation, 1): 1.0}
    assert list(child.seeds) == sorted(child.seeds)
    assert parent.dumps() == before


def test_a_different_format_is_refused() -> None:
    record = {**expert_genome(0, 2, 1).to_json(), "format": 4}
    with pytest.raises(ValueError, match="genome format 4; this version reads formats 1, 2 and 3"):
        Genome.from_json(record)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 1}, "`fits` belongs to format 2, not 1"),
        ({"fits": [{"digest": "0" * 63, "share": [1.0]}]}, "fits.0.digest: "),
        ({"fits": [{"digest": "../" + "0" * 61, "share": [1.0]}]}, "fits.0.digest: "),
        ({"fits": [{"digest": FITS[0], "share": [1.0, 1.0]}]}, "fits.0.share: 2 values for 1 groups"),
        ({"fits": [{"digest": fit, "share": [1.0]} for fit in (FITS[1], FITS[0])]}, "fits: not in ascending order"),
        ({"fits": [{"digest": FITS[0], "share": [1.0]}] * 2}, "fits: not in ascending order"),
        ({"fits": [{"digest": FITS[0], "share": [math.nan]}]}, "fits.0.share.0: "),
        ({"fits": {}}, "fits: "),
    ],
)
def test_damaged_fits_are_refused(change: dict[str, object], problem: str) -> None:
    record = fit_genome(FITS[0], experts=2, groups=1).to_json()
    with pytest.raises(ValueError, match=re.escape(problem)):
        Genome.from_json({**record, **change})


def test_only_a_genome_with_fits_has_the_new_format() -> None:
    half = np.full((1, 1), 0.5)
    mixed = combine((fit_genome(FITS[0], 2, 1), expert_genome(0, 2, 1)), np.concatenate((half, half)))
    assert (expert_genome(0, 2, 1).to_json()["format"], mixed.to_json()["format"]) == (1, 2)
    assert mixed.coefficients.tolist() == [[0.5], [0.0]]
    assert mixed.to_json()["fits"] == [{"digest": FITS[0], "share": [0.5]}]


def test_an_experts_genome_is_its_own_task_vector() -> None:
    genome = expert_genome(1, experts=3, groups=2)
    assert genome.coefficients.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert genome.mutations == ()


@given(st.lists(genomes(), min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_aggregate_weights_are_the_softmax_of_the_scores(parts: list[Genome], scores: list[float]) -> None:
    total = math.fsum(map(math.exp, scores))
    weights = [[math.exp(score) / total] * 2 for score in scores]
    wanted = weighted_sum([flat(part) for part in parts], weights)
    assert close(flat(aggregate(parts, scores)), wanted, NEGLIGIBLE)
