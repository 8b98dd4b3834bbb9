"""The gradient through a whole model equals autograd's through the formula, and finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from cycleqd_merge.evaluation.fits import enable_checkpointing
from cycleqd_merge.evaluation.loaded_model import load_model
from cycleqd_merge.fitting import objective
from cycleqd_merge.fitting.examples import Example, batch_of
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.job import Scales
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.scaled import scaled
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.singular import as_matrix
from cycleqd_merge.merging.staging import Staging
from tests.architectures import ARCHITECTURES, VISION_ARCHITECTURES, make_architecture
from tests.merging.conftest import Trio, make_trio
from tests.models import Architecture, make_adapter, make_expert, make_recipe, on_base, open_recipe_family

CASES: dict[str, tuple[Architecture, bool]] = {
    "llama": ("llama", False),
    "tied": ("llama", True),
    "gpt2": ("gpt2", True),
}
MOE = "qwen3_moe"
"""Transformers stacks the experts' matrices, and joins two of each, in one parameter."""


@pytest.fixture(scope="module", params=["singular", "channel"])
def scales(request: pytest.FixtureRequest) -> Scales:
    found: Scales = request.param
    return found


@pytest.fixture(scope="module", params=[*CASES, MOE])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == MOE:
        return moe_trio(folder)
    architecture, tied = CASES[request.param]
    return make_trio(folder, architecture, tied, torch.bfloat16)


def moe_trio(folder: Path) -> Trio:
    """Two full experts and an adapter of a mixture of experts, as `make_trio` makes them."""
    # all experts of every token: the choice of some would make jumps in the loss
    base = make_architecture(MOE, folder / "base", num_experts_per_tok=4)
    first, second = (make_expert(base, folder / name, seed) for seed, name in enumerate(("first", "second"), start=1))
    third = make_adapter(base, folder / "third", seed=3, modules_to_save=["norm"], exclude_modules=["norm"])
    recipe = make_recipe(folder, base, {"first": first, "second": second, "third": on_base(base, third)})
    return Trio("llama", base, (first, second, third), recipe, open_recipe_family(recipe))


def opened(
    trio: Trio, scales: Scales, dtype: torch.dtype, checkpointing: bool, room: int = 20_000
) -> tuple[FittedModel, Any, Layout, Staging]:
    # the other implementations of experts compute in float32 at most
    model = AutoModelForCausalLM.from_pretrained(trio.base, dtype=dtype, experts_implementation="eager").train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bases = prepare_bases(trio.family, (0, 2))
    staging, name_map = Staging(trio.family, bases, "cpu", "device"), trio.family.name_map(model)
    along, sizes = scaled(scales, model, name_map, staging)
    layout = Layout.of([w.name for w in trio.family.weights], lambda name: name, 3, along, sizes)
    return FittedModel(model, name_map, staging, layout, dtype, room=room, keep=True), model, layout, staging


IDS = torch.arange(48).reshape(4, 12) % 90 + 4


def loss_of(model: Any) -> torch.Tensor:
    """Cross-entropy of fixed tokens, in the logits' own dtype: transformers' own rounds to float32."""
    return cross_entropy(model(input_ids=IDS).logits)


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def autograd(
    model: Any, layout: Layout, staging: Staging, values: torch.Tensor, family: ModelFamily
) -> tuple[float, torch.Tensor]:
    """Loss and gradient through the formula, with every tensor's gradient in memory."""
    values = values.double().requires_grad_(True)
    name_map, tensors = family.name_map(model), {}
    resident = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    for weight in family.weights:
        base = staging.base(weight)
        total = base.double()
        for expert in range(3):
            vector = staging.task_vector(expert, weight, base.float())
            if vector is None:
                continue
            dense = (
                vector.scale * vector.left.double() @ vector.right.double()
                if isinstance(vector, LowRank)
                else vector.double()
            )
            total = total + values[layout.coefficient(expert, weight.name)] * dense.reshape(weight.shape)
            place = layout.scales(expert, weight.name)
            if place is not None and layout.along == "channel":
                rows = weight.shape[0]
                total = total + (values[place][:rows, None] + values[place][rows:]) * dense
            elif place is not None:
                basis = staging.basis(expert, weight.name)
                assert basis is not None
                vectors, tau = basis.vectors.double(), as_matrix(dense)
                around = vectors @ torch.diag(values[place]) @ vectors.T
                total = total + (tau @ around if basis.side == "right" else around @ tau).reshape(weight.shape)
        for part in name_map.parts[family.stored_names[weight.name]]:
            whole = tensors.setdefault(part.parameter, resident[part.parameter].clone())
            part.view(whole).copy_(part.cut(total))
    for name, tensor in resident.items():
        tensors.setdefault(name, tensor)
    if model.config.tie_word_embeddings:
        ends = ("embed_tokens.weight", "wte.weight")
        tensors["lm_head.weight"] = next(tensor for name, tensor in tensors.items() if name.endswith(ends))
    loss = cross_entropy(functional_call(model.double(), tensors, kwargs={"input_ids": IDS}, tie_weights=False).logits)
    torch.autograd.backward(loss)
    assert values.grad is not None
    return float(loss.detach()), values.grad


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_it_equals_autograd(
    family: Trio, scales: Scales, dtype: torch.dtype, tolerance: float, checkpointing: bool
) -> None:
    fitted, model, layout, staging = opened(family, scales, dtype, checkpointing)
    values = layout.start(0.4).double() + 0.1 * torch.sin(torch.arange(layout.size).double())
    fitted.set(values.to(dtype))
    loss, gradient = fitted.gradient(loss_of)
    assert all(parameter.grad is None for parameter in model.parameters())
    wanted_loss, wanted = autograd(model, layout, staging, values, family.family)
    assert loss == pytest.approx(wanted_loss, rel=tolerance)
    assert (gradient - wanted).abs().max() <= tolerance * wanted.abs().max()
    assert (wanted != 0).float().mean() > 0.9
    fitted.close()


def test_gradients_may_be_kept_until_the_pass_ends(family: Trio, scales: Scales) -> None:
    """With room for all of them the result is the same, pass after pass."""
    found = []
    for room in (20_000, 100_000_000):
        fitted, model, layout, _ = opened(family, scales, torch.float64, False, room)
        for start in (0.4, 0.6):
            fitted.set(layout.start(start).double())
            found.append(fitted.gradient(loss_of))
        assert any(parameter.grad is not None for parameter in model.parameters()) == (room > 20_000)
        fitted.close()
        assert all(parameter.grad is None for parameter in model.parameters())
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one[0] == other[0]
        assert (one[1] - other[1]).abs().max() <= 1e-12 * one[1].abs().max()
    assert not torch.equal(found[0][1], found[1][1])


def test_it_equals_finite_differences(family: Trio, scales: Scales) -> None:
    """Along random directions, over all values at once: the norms of some models round to float32."""
    fitted, model, layout, _ = opened(family, scales, torch.float64, False)
    values = layout.start(0.4).double()
    fitted.set(values)
    _, gradient = fitted.gradient(loss_of)
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        noise = torch.randn(layout.size, generator=draw, dtype=torch.float64)
        direction = gradient / gradient.norm() + noise / noise.norm()

        def at(step: float, direction: torch.Tensor = direction) -> float:
            fitted.set(values + step * direction)
            with torch.no_grad():
                return float(loss_of(model))

        step = 0.01
        slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
        assert slope == pytest.approx(float(gradient @ direction), rel=1e-4)


MANY = ["phi3", "gemma3", "opt", "mamba2", "gpt_oss", "gemma3_vision"]
SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in MANY else SLOW) for n in (*ARCHITECTURES, *VISION_ARCHITECTURES)],
)
def test_models_of_many_architectures_can_be_fitted(name: str, tmp_path: Path) -> None:
    """Examples side by side have the loss of each alone; checkpointing changes no bit; the slope is that of the loss.

    The step is small where a step may choose other experts for a token.
    """
    base = make_architecture(name, tmp_path / "base")
    experts = {f"e{seed}": make_expert(base, tmp_path / f"e{seed}", seed) for seed in (1, 2)}
    family = open_recipe_family(make_recipe(tmp_path, base, experts, models={"trust_remote_code": True}))
    lengths = (8, 11, 17)
    chosen = [Example(tuple(4 + 7 * i * n % 80 for i in range(n)), tuple(range(3, n))) for n in lengths]
    batch, alone = batch_of(chosen, 3.0, 0), [batch_of([example], 3.0, 0) for example in chosen]

    def loss(model: Any) -> torch.Tensor:
        return objective.cross_entropy(objective.logits_of(model, batch), batch)

    found = []
    for checkpointing in (False, True):
        model = load_model(family, torch.float32, "fit")
        if checkpointing:
            enable_checkpointing(model)
        staging, name_map = Staging(family, {}, "cpu", "device"), family.name_map(model)
        layout = Layout.of([w.name for w in family.weights], str, 2, *scaled("channel", model, name_map, staging))
        fitted = FittedModel(model, name_map, staging, layout)
        values = layout.start(0.4)
        fitted.set(values)
        found.append(fitted.gradient(loss))
    (total, gradient), (total_again, gradient_again) = found
    assert total == total_again
    assert torch.equal(gradient, gradient_again)
    with torch.no_grad():
        each = [float(objective.cross_entropy(objective.logits_of(model, one), one)) for one in alone]
        assert total == pytest.approx(sum(each), rel=1e-5)
        step, direction = 0.001, gradient / gradient.norm()
        fitted.set(values + step * direction)
        above = float(loss(model))
        fitted.set(values - step * direction)
        assert (above - float(loss(model))) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)
