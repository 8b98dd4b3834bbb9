"""Loading a candidate replaces all weights of the model in memory."""

from __future__ import annotations

import asyncio

import pytest
import torch
from safetensors.torch import load_file

from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.genome import Mutation, expert_genome, mutate
from cycleqd_merge.tasks.protocol import Sampling
from tests.evaluation.conftest import BASE, Models, Reference, genome_of

PROMPTS = ("a", "What is it?", "once upon a time")


def texts(engine: TransformersEngine) -> list[str]:
    async def ask() -> list[str]:
        answers = await asyncio.gather(*(engine.complete(prompt, Sampling(10)) for prompt in PROMPTS))
        return [answer.text for answer in answers]

    return asyncio.run(ask())


def resident(engine: TransformersEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}


def test_the_engine_starts_with_the_base(every_models: Models) -> None:
    engine, reference = every_models.engine(), Reference(every_models.base)
    assert texts(engine) == [reference.text(prompt, 10) for prompt in PROMPTS]
    engine.close()


def test_loaded_weights_are_the_candidate_s(every_models: Models) -> None:
    engine = every_models.engine()
    engine.load(genome_of(0.3, -0.5))
    stored = {
        name: load_file(folder / "model.safetensors") for name, folder in vars(every_models).items() if name != "family"
    }
    weights = resident(engine)
    for name, base in stored["base"].items():
        expected = base + 0.3 * (stored["first"][name] - base) - 0.5 * (stored["second"][name] - base)
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-6)
    engine.close()


def test_loaded_weights_equal_the_materialised_ones(every_models: Models) -> None:
    genome = mutate(genome_of(0.5, 0.25), Mutation("gaussian", None, seed=7, scale=0.01))
    engine = every_models.engine()
    engine.load(genome)
    weights = resident(engine)
    for name, tensor in every_models.materialiser.tensors(genome):
        assert torch.equal(weights[name], tensor), name
    engine.close()


def test_a_loaded_expert_answers_as_the_expert_and_the_base_can_be_loaded_again(every_models: Models) -> None:
    engine = every_models.engine()
    before = texts(engine)
    for number, folder in enumerate((every_models.first, every_models.second)):
        reference = Reference(folder)
        engine.load(expert_genome(number, 2, 1))
        answers = texts(engine)
        assert answers == [reference.text(prompt, 10) for prompt in PROMPTS]
        assert answers != before
    engine.load(BASE)
    assert texts(engine) == before
    for name, tensor in load_file(every_models.base / "model.safetensors").items():
        assert torch.equal(resident(engine)[name], tensor), name
    engine.close()


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf"), 1e39])
def test_nan_or_infinite_weights_are_refused_and_the_next_load_works(models: Models, coefficient: float) -> None:
    engine = models.engine()
    before = texts(engine)
    with pytest.raises(ValueError, match=r"tensor \S+ of the child contains NaN or infinite values"):
        engine.load(genome_of(coefficient, 0))
    engine.load(BASE)
    assert texts(engine) == before
    engine.close()
