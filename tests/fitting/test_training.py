"""Fits learn what experts do, step by step the same whether they are interrupted or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.fitting.examples import Example, Shape, batch_of
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.objective import cross_entropy, distillation, logits_of, predictions
from cycleqd_merge.fitting.training import FitSettings, FitTask, Fitting, Progress
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.staging import Staging
from tests.merging.conftest import Trio


def examples(seed: int) -> tuple[Example, ...]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(10):
        length = 6 + number
        tokens = tuple(torch.randint(4, 90, (length,), generator=draw).tolist())
        found.append(Example(tokens, tuple(range(length - 3, length)), 0.5 + number / 10))
    return tuple(found)


def fitting(
    trio: Trio,
    settings: FitSettings,
    scaled: tuple[int, ...] = (0, 1, 2),
    padded: bool = True,
    rounded: bool = False,
) -> tuple[Fitting, Layout, FittedModel]:
    model = AutoModelForCausalLM.from_pretrained(trio.base, dtype=torch.float32)
    bases = prepare_bases(trio.family, range(3))
    staging = Staging(trio.family, bases, "cpu", "device")
    sizes = {n: dict(bases[n].ranks) for n in scaled}
    layout = Layout.of([w.name for w in trio.family.weights], lambda name: name, 3, "singular", sizes)
    fitted = FittedModel(model, trio.family.name_map(model), staging, layout, room=2**30, keep=rounded)
    tasks = [FitTask(f"task {number}", number, examples(number)) for number in range(3)]
    found = Fitting(fitted, layout, tasks, settings, 0, "cpu", padded, rounded)
    if settings.loss == "distillation":
        found.teach()
    return found, layout, fitted


def run(
    found: Fitting, layout: Layout, settings: FitSettings, save: Callable[[Progress], None] = lambda progress: None
) -> Progress:
    return found.run(Progress.first(layout, settings), layout.start(settings.start), save)


@pytest.mark.parametrize("loss", ["distillation", "cross-entropy"])
def test_the_loss_falls(llama: Trio, loss: Literal["distillation", "cross-entropy"]) -> None:
    settings = FitSettings(steps=30, rows=4, loss=loss)
    found, layout, _ = fitting(llama, settings)
    done = run(found, layout, settings)
    assert len(done.losses) == 30
    assert sum(done.losses[-5:]) < 0.9 * sum(done.losses[:5])


def test_an_interrupted_fit_ends_as_the_whole_one(llama: Trio) -> None:
    settings = FitSettings(steps=9, rows=3)
    found, layout, _ = fitting(llama, settings)
    kept: list[Progress] = []
    whole = run(found, layout, settings, lambda progress: kept.append(deepcopy(progress)))
    resumed = fitting(llama, settings)[0].run(kept[3], layout.start(0.5))
    assert torch.equal(whole.values, resumed.values)
    assert whole.losses == resumed.losses


def test_a_fit_that_diverges_starts_again_with_half_the_learning_rate(llama: Trio) -> None:
    """The first of five steps of warm-up goes a fifth of the learning rate: 1.2e6 is more than a value may be."""
    settings = FitSettings(steps=1, rows=3, learning_rate=6e6)
    found, layout, _ = fitting(llama, settings)
    done = run(found, layout, settings)
    assert (done.restarts, len(done.losses)) == (1, 1)
    halved = replace(settings, learning_rate=3e6)
    direct = run(fitting(llama, halved)[0], layout, halved)
    assert torch.equal(done.values, direct.values)
    assert done.losses == direct.losses
    assert done.tokens == 2 * direct.tokens


def test_a_fit_that_diverges_with_every_learning_rate_ends_without_a_loss(llama: Trio) -> None:
    settings = FitSettings(steps=5, rows=3, learning_rate=1e12)
    found, layout, _ = fitting(llama, settings)
    saved: list[int] = []
    done = run(found, layout, settings, lambda progress: saved.append(progress.restarts))
    assert saved == [1, 2, 3]
    assert math.isnan(done.losses[-1])


def test_a_fit_whose_loss_grows_starts_again(llama: Trio) -> None:
    """Every loss is finite: without a restart, such a fit ends at four times the loss that it begins with."""
    settings = FitSettings(steps=30, rows=4, learning_rate=10)
    found, layout, _ = fitting(llama, settings)
    done = run(found, layout, settings)
    assert done.restarts > 0
    assert len(done.losses) == 30


def test_a_fit_that_starts_at_its_optimum_does_not_start_again(llama: Trio) -> None:
    """Single rows have losses that differ several times, and may end above what they were."""
    first = FitSettings(steps=60, rows=10, learning_rate=0.05)
    found, layout, _ = fitting(llama, first)
    optimum = run(found, layout, first).values
    tasks = [FitTask(f"task {number}", number, examples(number), 1 + number) for number in range(3)]
    for seed in range(3):
        settings = FitSettings(steps=12, rows=1, seed=seed)
        found.again(tasks, settings)
        start = Progress(optimum.clone(), torch.zeros_like(optimum), torch.zeros_like(optimum))
        done = found.run(start, optimum)
        assert (done.restarts, len(done.losses)) == (0, 12)


def test_width_divides_a_step_without_changing_it(llama: Trio) -> None:
    ends = []
    for width in (16, 10_000):
        settings = FitSettings(steps=3, rows=5, width=width)
        found, layout, _ = fitting(llama, settings)
        ends.append(run(found, layout, settings))
    assert torch.allclose(ends[0].values, ends[1].values, atol=1e-3)
    assert ends[0].losses == pytest.approx(ends[1].losses, rel=1e-4)


@pytest.mark.parametrize("loss", ["distillation", "cross-entropy"])
def test_batches_of_few_shapes_have_the_same_losses(
    llama: Trio, loss: Literal["distillation", "cross-entropy"]
) -> None:
    """Longer rows, more rows and more targets without weight change nothing; neither does a fixed place in memory."""
    ends, shapes = [], list[set[tuple[int, ...]]]()
    for rounded in (False, True):
        settings = FitSettings(steps=6, rows=5, width=150, loss=loss)
        found, layout, fitted = fitting(llama, settings, rounded=rounded)
        assert (fitted.recorded() is not None) == rounded
        ends.append(run(found, layout, settings))
        shapes.append({tuple(batch.ids.shape) for step in range(6) for batch, _ in found.batches(step)})
    assert ends[0].losses == pytest.approx(ends[1].losses, rel=1e-4)
    assert torch.allclose(ends[0].values, ends[1].values, atol=1e-3)
    assert len(shapes[1]) < len(shapes[0])
    assert all(rows * width <= 150 for each in shapes for rows, width in each)


def test_without_padding_only_examples_of_one_length_share_a_pass(llama: Trio) -> None:
    settings = FitSettings(rows=10, loss="cross-entropy")
    found, _, _ = fitting(llama, settings, padded=False, rounded=True)
    batches = [batch for batch, _ in found.batches(0)]
    assert all(batch.mask.all() for batch in batches)
    assert sorted(tuple(batch.ids.shape) for batch in batches) == [(3, length) for length in range(6, 16)]


def test_an_example_longer_than_a_pass_has_one_of_its_own() -> None:
    shape = Shape.of([Example(tuple(range(4, 204)), (150, 199))])
    assert shape == Shape(rows=1, width=200, targets=2, kept=51)
    assert shape.rounded(100) == Shape(rows=1, width=256, targets=512, kept=64)
    assert shape.rounded(8192) == Shape(rows=16, width=256, targets=512, kept=64)


def test_losses_are_those_of_each_example_alone(llama: Trio) -> None:
    """Padding, chunks and kept logits change nothing: one example at a time, without any, gives the same sum."""
    model = AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.float64)
    expert = AutoModelForCausalLM.from_pretrained(llama.experts[0], dtype=torch.float64)
    chosen = examples(0)
    total = sum(example.weight for example in chosen)
    batch = batch_of(chosen, total, pad=0)
    for k in (200, 5):
        wanted_ce = wanted_kl = 0.0
        for example in chosen:
            ids = torch.tensor([example.tokens])
            with torch.no_grad():
                ours, theirs = (torch.log_softmax(each(ids).logits[0], -1) for each in (model, expert))
            for place in example.trained:
                p, q = ours[place - 1], theirs[place - 1]
                share = example.weight / total / len(example.trained)
                wanted_ce -= share * p[example.tokens[place]].item()
                best = q.topk(min(k, len(q))).indices
                kl = (q[best].exp() * (q[best] - p[best])).sum()
                if k < len(q):
                    rest, our_rest = 1 - q[best].exp().sum(), 1 - p[best].exp().sum()
                    kl = kl + rest * (rest / our_rest).log()
                wanted_kl += share * kl.item()
        with torch.no_grad():
            logits = logits_of(model, batch)
            assert cross_entropy(logits, batch).item() == pytest.approx(wanted_ce, rel=1e-6)
            found = distillation(logits, batch, predictions(expert, batch, k)).item()
            assert found == pytest.approx(wanted_kl, rel=1e-5)


def test_an_expert_has_no_distance_from_itself(llama: Trio) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama.experts[0], dtype=torch.float32)
    batch = batch_of(examples(1), 1.0, pad=0)
    known = predictions(model, batch, 8)
    with torch.no_grad():
        assert abs(distillation(logits_of(model, batch), batch, known).item()) < 1e-5
