"""RegMean: the closed form against NumPy, and the Gram matrices of a model's layers against its own activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.fitting.regmean import regmean, regmean_task_vectors, shrunk
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.staging import Staging
from tests.merging.conftest import Trio, make_trio

EXAMPLES = [
    [Example(tuple((7 * i + 3 * e + step) % 90 + 4 for step in range(5 + i % 3)), (4,)) for i in range(20)]
    for e in range(3)
]


def inputs(count: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size))


def numpy_regmean(weights: list[np.ndarray], rows: list[np.ndarray], keep: float) -> np.ndarray:
    """Equation 2 of the paper, in its layout (weights are input x output), with Section 3.3's scaling."""
    total, wanted = np.zeros((rows[0].shape[1],) * 2), np.zeros(weights[0].T.shape)
    for weight, x in zip(weights, rows, strict=True):
        gram = x.T @ x
        gram = keep * gram + (1 - keep) * np.diag(np.diag(gram))
        total, wanted = total + gram, wanted + gram @ weight.T
    return (np.linalg.inv(total) @ wanted).T


def grams(rows: list[np.ndarray], keep: float) -> list[torch.Tensor]:
    return [shrunk(torch.from_numpy(x.T @ x), keep) for x in rows]


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.0])
def test_the_merged_task_vector_is_that_of_the_merged_weights(keep: float) -> None:
    """RegMean of the weights is the base plus RegMean of the task vectors."""
    rows = [inputs(30, 6, seed) for seed in range(3)]
    base, *weights = [inputs(4, 6, 10 + seed) for seed in range(4)]
    found = regmean([torch.from_numpy(weight - base) for weight in weights], grams(rows, keep))
    np.testing.assert_allclose(base + found.numpy(), numpy_regmean(weights, rows, keep), atol=1e-5)


def test_its_outputs_are_nearest_to_the_experts() -> None:
    rows = [inputs(30, 6, seed) for seed in range(2)]
    vectors = [inputs(4, 6, 10 + seed) for seed in range(2)]
    merged = regmean([torch.from_numpy(vector) for vector in vectors], grams(rows, 1.0)).numpy()

    def error(weight: np.ndarray) -> float:
        return sum(float(np.sum((x @ (weight - vector).T) ** 2)) for x, vector in zip(rows, vectors, strict=True))

    assert all(error(merged) < error(merged + 0.01 * inputs(4, 6, seed)) for seed in range(20, 30))


def test_inputs_that_never_occur_change_nothing() -> None:
    rows = [inputs(30, 6, seed) * (np.arange(6) < 4) for seed in range(2)]
    found = regmean([torch.from_numpy(inputs(4, 6, seed)) for seed in range(2)], grams(rows, 1.0))
    assert found[:, 4:].abs().max() < 1e-6
    assert found[:, :4].abs().min() > 1e-3
    assert not regmean([torch.ones(4, 6)], [torch.zeros(6, 6)]).any()


def test_low_rank_task_vectors_equal_their_full_matrices() -> None:
    rows = [inputs(30, 6, seed) for seed in range(2)]
    low = [LowRank(torch.randn(4, 2), torch.randn(2, 6), 0.5) for _ in rows]
    full = regmean([each.dense() for each in low], grams(rows, 0.9))
    assert torch.allclose(regmean(low, grams(rows, 0.9)), full, atol=1e-5)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return make_trio(tmp_path_factory.mktemp(request.param), request.param, request.param == "gpt2", torch.float32)


def activations(model: torch.nn.Module, module: str, examples: list[Example]) -> np.ndarray:
    """The inputs of a layer, one example at a time, in float64."""
    rows: list[torch.Tensor] = []
    layer = model.get_submodule(module)
    with layer.register_forward_hook(lambda _, given, __: rows.append(given[0][0].detach())), torch.no_grad():
        for example in examples:
            model(input_ids=torch.tensor([example.tokens]))
    return torch.cat(rows).double().numpy()


def expert_model(trio: Trio, number: int) -> torch.nn.Module:
    path = trio.experts[number]
    if not (Path(path) / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(trio.base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, path).merge_and_unload().eval()


@pytest.mark.parametrize("most", [8 << 30, 5000])
def test_a_family_is_merged_on_its_experts_own_activations(trio: Trio, most: int) -> None:
    """Two full experts and an adapter, loaded by transformers and peft; in one pass and in several."""
    model = AutoModelForCausalLM.from_pretrained(trio.base, dtype=torch.float32).eval()
    staging = Staging(trio.family, {}, "cpu", "disk")
    found = {
        weight.name: vector
        for weight, vector in regmean_task_vectors(model, trio.family.name_map(model), staging, EXAMPLES, 0.9, most)
    }
    base = AutoModelForCausalLM.from_pretrained(trio.base, dtype=torch.float32).state_dict()
    experts = [expert_model(trio, number) for number in range(3)]
    gpt2 = trio.architecture == "gpt2"
    down, query = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"
    for module in ("transformer.h.1.mlp.c_proj",) if gpt2 else (down, query):
        rows = [activations(each, module, own) for each, own in zip(experts, EXAMPLES, strict=True)]
        weights = [each.state_dict()[f"{module}.weight"].double().numpy() for each in experts]
        wanted = numpy_regmean([w.T for w in weights] if gpt2 else weights, rows, 0.9)
        own = found[next(name for name in found if module.removeprefix("transformer.") + ".weight" in name)]
        merged = base[f"{module}.weight"].double().numpy() + own.double().numpy()
        np.testing.assert_allclose(merged, wanted.T if gpt2 else wanted, atol=2e-4)
    norm = next(name for name in found if "ln_1.weight" in name or "input_layernorm.weight" in name)
    stored = trio.family.stored_names[norm]
    key = stored if stored in base else f"transformer.{stored}"
    mean = sum(each.state_dict()[key] - base[key] for each in experts) / 3
    assert torch.allclose(found[norm], mean, atol=1e-6)
