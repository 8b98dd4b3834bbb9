"""Fine-tuning of a whole model on the examples of a fit: what a fit of few numbers is compared with."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cycleqd_merge.fitting.training import LAST_RATE, WARM_UP, Fitting

LARGEST_NORM = 1.0
"""Of a step's gradient; a larger one is scaled down to it."""


@dataclass(frozen=True)
class Length:
    """The number of steps, or the seconds after which no further step begins."""

    steps: int | None = None
    seconds: float | None = None

    def done(self, step: int, elapsed: float) -> float:
        """The share of the training that is done, from 0 to 1; at least one step is taken."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, elapsed / self.seconds) if step else 0.0


class MasterAdamW:
    """AdamW with its usual constants (0.9, 0.999, 1e-8) for parameters of any dtype.

    Moments are float32, and so is a copy of every parameter that is not: steps below its rounding add up.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float = 0.01) -> None:
        self._parameters, self._decay, self._steps = list(parameters), decay, 0
        self._masters = [each.detach() if each.dtype == torch.float32 else each.detach().float() for each in self]
        self._means = [torch.zeros_like(master) for master in self._masters]
        self._squares = [torch.zeros_like(master) for master in self._masters]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._parameters)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take a step along the parameters' gradients and free them."""
        self._steps += 1
        norm = float(torch.stack([each.grad.float().norm() for each in self if each.grad is not None]).norm())
        factor = min(1.0, LARGEST_NORM / max(norm, 1e-12))
        states = zip(self._parameters, self._masters, self._means, self._squares, strict=True)
        for parameter, master, mean, square in states:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float() * factor
            parameter.grad = None
            mean.lerp_(gradient, 1 - 0.9)
            square.lerp_(gradient.square(), 1 - 0.999)
            root = (square / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
            master.mul_(1 - rate * self._decay).addcdiv_(mean, root, value=-rate / (1 - 0.9**self._steps))
            parameter.copy_(master)


@dataclass(frozen=True)
class FineTuning:
    """How a model was fine-tuned: the loss of every step, the tokens of all passes with padding, and the seconds."""

    losses: tuple[float, ...]
    tokens: int
    seconds: float


def fine_tune(fitting: Fitting, model: Any, rate: float, length: Length, start: float) -> FineTuning:
    """Train all parameters of a model on the steps of a fit; the learning rate rises and falls as a fit's does.

    start: the `time.perf_counter()` instant that seconds count from. It ends early if the loss is not finite.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimiser, losses, tokens = MasterAdamW(model.parameters()), list[float](), 0
    while (done := length.done(len(losses), time.perf_counter() - start)) < 1:
        total = 0.0
        for batch, expert in fitting.batches(len(losses)):
            loss = fitting.loss(model, batch, expert)
            torch.autograd.backward(loss)
            total, tokens = total + float(loss.detach()), tokens + batch.ids.numel()
        losses.append(total)
        if not math.isfinite(total):
            break
        optimiser.step(rate * min(1.0, len(losses) / WARM_UP) * (1 - (1 - LAST_RATE) * done))
    return FineTuning(tuple(losses), tokens, time.perf_counter() - start)
