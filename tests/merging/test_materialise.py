"""A genome's tensors are those of the design's formula."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.draws import uniform
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, fit_genome, mutate
from cycleqd_merge.merging.channels import channel_count
from cycleqd_merge.merging.fits import Along, Fit, keep_fit
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec, open_materialiser
from cycleqd_merge.merging.staging import Place
from tests.merging.conftest import Trio, long_lineage, make_trio
from tests.merging.processes import Report, digest
from tests.merging.reference import Array, Reference, Tensors, full_task_vector, lora_task_vector
from tests.models import Architecture, read_tensors

EXPERTS = 3


@pytest.fixture(scope="session")
def reference(trio: Trio) -> Reference:
    return Reference(trio.base, reference_vectors(trio))


@pytest.fixture(scope="session")
def materialisers(trio: Trio) -> list[Materialiser]:
    """One group or several, with tensors read again for every child or kept in memory."""
    several = LayerGroupsConfig(layers=1, modules=True)
    return [
        trio.materialiser(),
        trio.materialiser(place="device"),
        trio.materialiser(several),
        trio.materialiser(several, place="host"),
    ]


def reference_vectors(trio: Trio) -> list[Tensors]:
    first, second, third = trio.experts
    return [
        full_task_vector(trio.base, first),
        full_task_vector(trio.base, second),
        lora_task_vector(trio.base, third, trio.architecture),
    ]


def mutations(number: int) -> st.SearchStrategy[Mutation]:
    """Mutations of every kind; `number` keeps the seeds of one tree distinct."""
    seeds = st.integers(0, 2**48).map(lambda seed: seed * 16 + number)
    svd = st.builds(Mutation, st.just("svd"), st.integers(0, EXPERTS - 1), seeds, st.floats(0.01, 1.0), st.booleans())
    gaussian = st.builds(Mutation, st.just("gaussian"), st.none(), seeds, st.floats(1e-4, 1e-2))
    return svd | gaussian


def random_fit(materialiser: Materialiser, along: Along, experts: Sequence[int], seed: int) -> Fit:
    """A fit with a scale per singular direction or channel of `experts`."""
    random = np.random.default_rng(seed)
    weights = materialiser.family.weights
    sizes = {expert: dict(materialiser.bases[expert].ranks) for expert in experts}
    if along == "channel":
        shapes = {weight.name: weight.shape for weight in weights}
        sizes = {expert: {name: channel_count(shapes[name]) for name in each} for expert, each in sizes.items()}
    scales = {n: random.normal(0, 0.3, sum(each.values())).astype(np.float32) for n, each in sizes.items()}
    coefficients = random.normal(0.5, 0.2, (EXPERTS, len(weights))).astype(np.float32)
    return Fit(tuple(weight.name for weight in weights), coefficients, along, sizes, scales)


@pytest.fixture(scope="session")
def fits(materialisers: list[Materialiser], reference: Reference) -> list[str]:
    """Digests of fits: of coefficients alone, with scales of two experts' directions, and of two experts' channels."""
    kinds: list[tuple[Along, tuple[int, ...]]] = [("channel", ()), ("singular", (0, 2)), ("channel", (0, 2))]
    made = [random_fit(materialisers[0], along, experts, seed) for seed, (along, experts) in enumerate(kinds)]
    digests = [keep_fit(fit.to_bytes()) for fit in made]
    reference.fits.update(zip(digests, made, strict=True))
    return digests


@st.composite
def genomes(draw: st.DrawFn, groups: int, fits: Sequence[str] = ()) -> Genome:
    """The last individual of a random tree of crossovers and mutations over the experts and fits."""
    population = [expert_genome(expert, EXPERTS, groups) for expert in range(EXPERTS)]
    population = [*(fit_genome(digest, EXPERTS, groups) for digest in fits), *population]
    for number in range(draw(st.integers(1, 6))):
        youngest, other = population[-1], population[draw(st.integers(0, len(population) - 1))]
        if draw(st.booleans()):
            weights = draw(arrays(np.float64, (2, groups), elements=st.floats(0.5, 1.5)))
            population.append(crossover(youngest, other, weights))
        else:
            population.append(mutate(youngest, draw(mutations(number))))
    return population[-1]


def bfloat16_spacing(values: Array) -> Array:
    """The distance between adjacent bfloat16 numbers (8 significant bits) around `values`."""
    return np.asarray(np.exp2(np.floor(np.log2(np.maximum(np.abs(values), 1e-30))) - 7))


def assert_rounded(found: torch.Tensor, exact: Array, name: str) -> None:
    """Check that `found` is `exact` rounded to bfloat16; near a tie, float32 arithmetic may round to the other side."""
    assert found.dtype == torch.bfloat16
    values = found.double().numpy()
    error = np.abs(values - exact)
    assert (error <= bfloat16_spacing(np.maximum(np.abs(values), np.abs(exact))) / 2 + 2e-6).all(), name


@settings(max_examples=30)
@given(data=st.data())
def test_child_is_the_formula_rounded_once(
    trio: Trio, reference: Reference, materialisers: list[Materialiser], fits: list[str], data: st.DataObject
) -> None:
    materialiser = data.draw(st.sampled_from(materialisers))
    genome = data.draw(genomes(len(materialiser.groups), fits))
    built = dict(materialiser.tensors(genome))
    assert list(built) == list(read_tensors(trio.base))
    for name, tensor in built.items():
        assert_rounded(tensor, reference.child(genome, name, materialiser.groups.of(name)), name)


@pytest.mark.parametrize("place", ["host", "device"])
def test_tensors_kept_in_memory_give_the_same_bytes_child_after_child(trio: Trio, place: Place) -> None:
    keeping = trio.materialiser(place=place)
    for genome in (long_lineage(EXPERTS), expert_genome(2, EXPERTS, 1), long_lineage(EXPERTS)):
        assert digest(keeping.tensors(genome)) == digest(trio.materialiser().tensors(genome))


def test_genome_of_a_full_expert_is_that_expert_bit_for_bit(trio: Trio) -> None:
    built = dict(trio.materialiser().tensors(expert_genome(1, EXPERTS, 1)))
    for name, tensor in read_tensors(trio.experts[1]).items():
        assert torch.equal(built[name], tensor), name


def test_genome_without_coefficients_is_the_base_bit_for_bit(trio: Trio) -> None:
    nothing = Genome(np.zeros((EXPERTS, 1)), (), np.zeros((0, 1)))
    built = dict(trio.materialiser().tensors(nothing))
    for name, tensor in read_tensors(trio.base).items():
        assert torch.equal(built[name], tensor), name


def test_mutation_changes_only_matrices(llama: Trio) -> None:
    parent = expert_genome(0, EXPERTS, 1)
    for mutation in (Mutation("svd", 0, 5, 0.3), Mutation("gaussian", None, 6, 0.05)):
        before = dict(llama.materialiser().tensors(parent))
        after = dict(llama.materialiser().tensors(mutate(parent, mutation)))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name, tensor in before.items() if tensor.ndim == 2}


def test_coefficients_of_a_group_affect_only_its_tensors(llama: Trio) -> None:
    materialiser = llama.materialiser(LayerGroupsConfig(layers=1))
    groups = materialiser.groups
    genome = Genome(np.zeros((EXPERTS, len(groups))), (), np.zeros((0, len(groups))))
    chosen = groups.labels.index("layers 1-1")
    genome.coefficients[0, chosen] = 1.0
    base, expert = read_tensors(llama.base), read_tensors(llama.experts[0])
    for name, tensor in materialiser.tensors(genome):
        assert torch.equal(tensor, expert[name] if ".layers.1." in name else base[name]), name


def test_mutation_of_an_expert_without_bases_is_refused(llama: Trio) -> None:
    materialiser = Materialiser(llama.family, Groups(llama.family.weights, "one"), {})
    genome = mutate(expert_genome(0, EXPERTS, 1), Mutation("svd", 1, 5, 0.3))
    with pytest.raises(UserError, match="singular bases of expert second are required"):
        list(materialiser.tensors(genome))


def test_a_materialiser_can_be_opened_again_from_its_spec(llama: Trio) -> None:
    materialiser = llama.materialiser(LayerGroupsConfig(layers=1))
    spec = MaterialiserSpec.of(materialiser)
    assert MaterialiserSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    genome = Genome(np.full((EXPERTS, 3), 0.3), (Mutation("svd", 1, 5, 0.3),), np.array([[1.0, 0.5, 0.0]]))
    assert digest(open_materialiser(spec).tensors(genome)) == digest(materialiser.tensors(genome))


class Published:
    """CycleQD's arithmetic as published: every individual is a full set of float32 task vectors."""

    def __init__(self, experts: list[Tensors]) -> None:
        self.individuals = [
            {name: torch.from_numpy(vector).float() for name, vector in expert.items()} for expert in experts
        ]
        self._experts = [
            {
                name: torch.linalg.svd(torch.from_numpy(vector), full_matrices=False)
                for name, vector in expert.items()
                if vector.ndim == 2
            }
            for expert in experts
        ]

    def add_child(self, first: int, second: int, w1: float, w2: float, mutation: Mutation) -> None:
        """Cross two individuals, then mutate the child along the expert's singular directions."""
        a, b = self.individuals[first], self.individuals[second]
        child = {name: (w1 * a[name] + w2 * b[name]) / (w1 + w2) for name in a}
        assert mutation.expert is not None
        for name, (u, s, vh) in self._experts[mutation.expert].items():
            w = mutation.scale * torch.from_numpy(uniform(mutation.seed, name, len(s)))
            child[name] += (u @ torch.diag(w * s) @ vh).float()
        self.individuals.append(child)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_genome_gives_the_weights_of_the_published_arithmetic(architecture: Architecture, tmp_path: Path) -> None:
    trio = make_trio(tmp_path, architecture, architecture == "gpt2", torch.float32)
    published = Published(reference_vectors(trio))
    population = [expert_genome(expert, EXPERTS, 1) for expert in range(EXPERTS)]
    rng = np.random.default_rng(0)
    for generation in range(1, 11):
        first, second = (int(i) for i in rng.choice(len(population), size=2, replace=False))
        weights = rng.normal(1.0, 0.03, size=(2, 1))
        mutation = Mutation("svd", generation % EXPERTS, seed=generation, scale=0.3)
        population.append(mutate(crossover(population[first], population[second], weights), mutation))
        published.add_child(first, second, weights[0, 0], weights[1, 0], mutation)

    base = read_tensors(trio.base)
    assert len(population[-1].mutations) > 2
    for name, tensor in trio.materialiser().tensors(population[-1]):
        wanted = base[name] + published.individuals[-1][name]
        assert (tensor - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name
        assert (tensor - base[name]).abs().max() > 1e-3, name


def test_same_genome_gives_the_same_bytes_in_other_processes(llama: Trio, elsewhere: list[Report]) -> None:
    here = digest(llama.materialiser().tensors(long_lineage(EXPERTS)))
    assert [report["child"] for report in elsewhere] == [here, here]


def test_child_streams_one_tensor_at_a_time(llama: Trio) -> None:
    materialiser = llama.materialiser()
    largest = max(tensor.numel() * 4 for tensor in read_tensors(llama.base).values())
    yielded: list[weakref.ref[torch.Tensor]] = []
    gc.collect()
    gc.freeze()  # existing objects are not counted by `live_tensor_bytes`
    try:
        for _, tensor in materialiser.tensors(long_lineage(EXPERTS)):
            assert all(reference() is None for reference in yielded)
            assert 0 < live_tensor_bytes() <= 2 * largest
            yielded.append(weakref.ref(tensor))
            del tensor
    finally:
        gc.unfreeze()
    assert len(yielded) == len(materialiser.family.weights)


def live_tensor_bytes() -> int:
    """Bytes of the tensors that Python holds and that are not frozen."""
    return sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor)
