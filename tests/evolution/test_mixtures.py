"""Mutations along the singular directions of a child's own task vector, in genomes and in CycleQD's children."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cycleqd_merge.evolution.genome import (
    MOST_MIXTURES,
    NEGLIGIBLE,
    Genome,
    Mixture,
    Mutation,
    combine,
    crossover,
    expert_genome,
    fit_genome,
    mutate,
    spread,
)
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.space import Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState
from tests.evolution.references import synthetic_scores

FIT = "ab" * 32


def mutated(genome: Genome, seed: int) -> Genome:
    """The genome after a mutation along its own task vector."""
    return mutate(genome, Mutation("svd", None, seed, 0.3, of=Mixture.of(genome)))


def middle(groups: int = 2) -> Genome:
    return crossover(
        expert_genome(0, 3, groups), expert_genome(2, 3, groups), np.array([[1.0] * groups, [0.9] * groups])
    )


def test_a_mixture_is_the_genome_without_its_mutations() -> None:
    child = mutated(middle(), 1)
    (mutation,) = mutated(child, 2).mutations[1:]
    assert mutation.of is not None
    assert mutation.of.genome == Genome(child.coefficients.round(6), (), np.zeros((0, 2)))


def test_records_round_trip_in_a_format_of_their_own() -> None:
    fitted = crossover(fit_genome(FIT, 3, 2), middle(), np.ones((2, 2)))
    for genome in (mutated(middle(), 1), mutated(mutated(fitted, 3), 4)):
        record = json.loads(genome.dumps())
        assert record["format"] == 3
        assert Genome.from_json(record) == genome
        assert Genome.from_json(record).dumps() == genome.dumps()
    assert middle().to_json()["format"] == 1


def test_a_mutation_keeps_its_mixture_in_every_descendant() -> None:
    parent = mutated(middle(), 1)
    child = crossover(mutated(parent, 2), expert_genome(1, 3, 2), np.ones((2, 2)))
    assert child.mutations == mutated(parent, 2).mutations
    assert np.allclose(child.shares, 0.5)


def test_only_the_strongest_mutations_along_mixtures_are_kept() -> None:
    genome = middle(1)
    for seed in range(20):
        genome = mutated(genome, seed)
    genome = mutate(genome, Mutation("svd", 1, 99, 0.3))
    shares = np.linspace(0.1, 0.9, 21)[np.random.default_rng(0).permutation(21)][:, None]
    genome = Genome(genome.coefficients, genome.mutations, shares)
    kept = combine([genome], np.ones((1, 1)))
    strongest = np.sort(np.argsort(-shares[:20, 0])[:MOST_MIXTURES])
    assert [mutation.seed for mutation in kept.mutations] == [*strongest.tolist(), 99]
    assert np.array_equal(kept.shares, shares[[*strongest, 20]])


def test_a_fit_in_a_mixture_stays_with_the_genome() -> None:
    genome = mutated(fit_genome(FIT, 3, 1), 1)
    for _ in range(20):  # the fit's own share, and that of the mutation, halve each time
        genome = crossover(genome, expert_genome(0, 3, 1), np.ones((2, 1)))
        genome = Genome(
            genome.coefficients, genome.mutations, np.ones_like(genome.shares), genome.fits, genome.fit_shares
        )
    assert np.abs(genome.fit_shares).max() < NEGLIGIBLE
    assert genome.fits == (FIT,)
    assert Genome.from_json(genome.to_json()) == genome
    gone = crossover(
        Genome(genome.coefficients, (), np.zeros((0, 1)), genome.fits, genome.fit_shares),
        genome,
        np.array([[1.0], [0.0]]),
    )
    assert (gone.fits, gone.mutations) == ((), ())


def test_spreading_a_genome_spreads_its_mixtures() -> None:
    (mutation,) = spread(mutated(middle(1), 1), 3).mutations
    assert mutation.of == Mixture.of(middle(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expert": 1}, "only for an svd mutation"),
        ({"kind": "gaussian"}, "only for an svd mutation"),
        ({"of": {"coefficients": [[0.5, 0.5]]}}, "not values for 3 experts in 2 groups"),
        ({"of": {"coefficients": [[0.5]] * 3}}, "not values for 3 experts in 2 groups"),
        (
            {"of": {"coefficients": [[0.5, 0.5]] * 3, "fits": [{"digest": FIT, "share": [1.0, 1.0]}]}},
            "not among the genome's",
        ),
        ({"of": {"coefficients": [[1e9, 0.5]] * 3}}, "less than or equal"),
        ({"of": "child"}, "mutations.0.of"),
        ({"of": None}, "only format 3 has mutations with `of`"),
    ],
)
def test_records_that_are_not_valid_are_refused_in_one_line(change: dict[str, object], message: str) -> None:
    record = mutated(middle(), 1).to_json()
    record["mutations"][0].update(change)
    with pytest.raises(ValueError, match=message) as raised:
        Genome.from_json(record)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="format"):
        Genome.from_json({**mutated(middle(), 1).to_json(), "format": 1})


def test_children_are_mutated_along_what_crossover_gave_them() -> None:
    objectives = tuple(Objective(name, number, 6) for number, name in enumerate("abc"))
    state = SearchState(SearchSpace(objectives, experts=3, groups=1))
    search = CycleQD(state, Operators(of="child"), seed=5)
    for number in range(3 + 150):
        proposal = search.ask(number)
        assert proposal is not None
        child = state.genome(number)
        if number >= 3:
            step = proposal.step
            assert set(step["mutation"]) == {"kind", "seed", "scale", "of"}
            assert step["mutation"]["of"] == "child"
            crossed = crossover(*map(state.genome, step["parents"]), np.array(step["weights"]))
            mutation = Mutation("svd", None, step["mutation"]["seed"], 0.3, of=Mixture.of(crossed))
            assert child == mutate(crossed, mutation)
            assert len(child.mutations) <= MOST_MIXTURES + 1
            assert len(child.dumps()) < 10_000
        search.tell(Result(number, synthetic_scores(child, 3)))
