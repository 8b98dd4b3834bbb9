"""The gradient through a whole model equals autograd's through the formula, and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.job import Scales
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.scaled import scaled
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.singular import as_matrix
from cycleqd_merge.merging.staging import Staging
from tests.merging.conftest import Trio, make_trio
from tests.models import Architecture

CASES: dict[str, tuple[Architecture, bool]] = {
    "llama": ("llama", False),
    "tied": ("llama", True),
    "gpt2": ("gpt2", True),
}


@pytest.fixture(scope="module", params=["singular", "channel"])
def scales(request: pytest.FixtureRequest) -> Scales:
    found: Scales = request.param
    return found


@pytest.fixture(scope="module", params=CASES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    architecture, tied = CASES[request.param]
    return make_trio(tmp_path_factory.mktemp(request.param), architecture, tied, torch.bfloat16)


def opened(
    trio: Trio, scales: Scales, dtype: torch.dtype, checkpointing: bool
) -> tuple[FittedModel, Any, Layout, Staging]:
    model = AutoModelForCausalLM.from_pretrained(trio.base, dtype=dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bases = prepare_bases(trio.family, (0, 2))
    staging, name_map = Staging(trio.family, bases, "cpu", "device"), trio.family.name_map(model)
    along, sizes = scaled(scales, model, name_map, staging)
    layout = Layout.of([w.name for w in trio.family.weights], lambda name: name, 3, along, sizes)
    return FittedModel(model, name_map, staging, layout, dtype, room=20_000), model, layout, staging


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
        (part,) = name_map.parts[family.stored_names[weight.name]]
        assert not part.steps
        tensors[part.parameter] = total
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
