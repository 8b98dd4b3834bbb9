"""Learning a fit's values: Adam on the distance between the merged model and each expert on the expert's own task.

Step s depends on the seed, s and the values alone: a fit that was interrupted ends as it would have, and every process
of several takes other rows of the same step, after which the gradients of the values (not of the model) are added up.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import MAX_COEFFICIENT
from cycleqd_merge.fitting.examples import Batch, Example, Shape, batch_of
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.objective import Predictions, cross_entropy, distillation, logits_of, predictions
from cycleqd_merge.fitting.passes import Passes
from cycleqd_merge.merging.processes import sum_over_processes, this_process

log = logging.getLogger(__name__)
WARM_UP = 5
LAST_RATE = 0.1
"""Of the learning rate, at the last step; it falls linearly."""
RESTARTS = 3
"""How often a fit that diverges starts again, each time with half the learning rate."""
GROWTH, GROWN_BY = 1.5, 0.1
"""A fit has diverged if the loss of its first rows ends above `GROWTH` times what it was, plus `GROWN_BY` (nats per
token) times the tasks' weights: one that starts near its optimum may end slightly above it."""


@dataclass(frozen=True)
class FitTask:
    """A task to fit: its expert's number, examples of the expert's answers, and the weight of its loss."""

    name: str
    expert: int
    examples: tuple[Example, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class FitSettings:
    """How the values are learned.

    rows: examples per task and step. start: of every coefficient. likely: the number of an expert's most likely tokens
    that are distilled. width: tokens, with padding, of one forward pass. seed: of the order of the examples.
    """

    steps: int = 300
    rows: int = 16
    learning_rate: float = 0.1
    start: float = 0.5
    loss: Literal["distillation", "cross-entropy"] = "distillation"
    likely: int = 64
    width: int = 8192
    seed: int = 0


@dataclass
class Progress:
    """The state of a fit between two steps.

    values, mean, square: the values and Adam's moments, shape (size,), float32. losses: of every step so far.
    restarts: how often the fit has diverged; tokens and seconds count what was lost.
    """

    values: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    restarts: int = 0

    @classmethod
    def first(cls, layout: Layout, settings: FitSettings, device: torch.device | str = "cpu") -> Progress:
        """Before the first step."""
        values = layout.start(settings.start, device)
        return cls(values, torch.zeros_like(values), torch.zeros_like(values))

    def to(self, device: torch.device | str) -> Progress:
        """The same progress on a device."""
        values, mean, square = (tensor.to(device) for tensor in (self.values, self.mean, self.square))
        return replace(self, values=values, mean=mean, square=square)


Row = tuple[int, int]
"""The number of a task, and that of an example in it."""


class Fitting:
    """One fit in the making.

    pad: id of the padding. padded: whether examples of different lengths share a pass, for models that skip padding.
    rounded: whether batches have few different shapes, which takes padding, so that their passes can be recorded.
    """

    def __init__(
        self,
        model: FittedModel,
        layout: Layout,
        tasks: Sequence[FitTask],
        settings: FitSettings,
        pad: int,
        device: torch.device | str,
        padded: bool = True,
        rounded: bool = False,
    ) -> None:
        self._model, self._layout, self._tasks, self._settings = model, layout, tasks, settings
        self._pad, self._device = pad, device
        self._padded, self._rounded = padded, padded and rounded
        self._passes = Passes(model, self.loss)
        self._taught: list[list[Predictions]] = []  # of each task's expert, by the number of its example

    def again(self, tasks: Sequence[FitTask], settings: FitSettings) -> None:
        """Begin another fit of the same model: with other weights or settings, but the same examples and loss."""
        self._tasks, self._settings = tasks, settings

    def teach(self) -> None:
        """Let each expert predict its own examples, for distillation, if this was not done before."""
        if not self._taught:
            self._taught = [self._predictions(task) for task in self._tasks]

    def _predictions(self, task: FitTask) -> list[Predictions]:
        """What a task's expert predicts, by the number of the example."""
        expert = self._layout.start(0.0, self._device)
        for name in self._layout.tensors:
            expert[self._layout.coefficient(task.expert, name)] = 1.0
        self._model.set(expert)
        found = []
        for rows in self._chunks([(0, number) for number in range(len(task.examples))], [task]):
            batch = batch_of([task.examples[number] for _, number in rows], 1.0, self._pad, self._device)
            known = predictions(self._model.model, batch, self._settings.likely)
            ends = itertools.accumulate(len(task.examples[number].trained) for _, number in rows)
            starts = [0, *ends]
            found += [
                (number, known.of(torch.arange(start, end)))
                for (_, number), (start, end) in zip(rows, itertools.pairwise(starts), strict=True)
            ]
        return [each for _, each in sorted(found, key=lambda pair: pair[0])]

    def run(
        self, progress: Progress, first: torch.Tensor, save: Callable[[Progress], None] = lambda progress: None
    ) -> Progress:
        """Take the steps that are left; `save` is called after each.

        first: the values before the first step, from which a fit that diverges starts again. If it still diverges after
        `RESTARTS` restarts, it ends there, and its last loss is not finite.
        """
        while len(progress.losses) < self._settings.steps:
            start = time.perf_counter()
            self._step(progress)
            sound = _is_sound(progress) and not self._grew(progress)
            progress.seconds += time.perf_counter() - start
            if not sound:
                if progress.restarts == RESTARTS:
                    progress.losses[-1] = math.nan
                    return progress
                progress = self._restarted(progress, first)
            save(progress)
        return progress

    def _restarted(self, progress: Progress, first: torch.Tensor) -> Progress:
        again, step = progress.restarts + 1, len(progress.losses)
        rate = self._settings.learning_rate / 2**again
        log.warning("the fit diverged at step %d and starts again with the learning rate %g", step, rate)
        values, zeros = first.clone().to(self._device), torch.zeros_like(progress.values)
        return Progress(values, zeros, zeros.clone(), [], progress.tokens, progress.seconds, again)

    def _grew(self, progress: Progress) -> bool:
        """Whether a fit that has taken all its steps ends with a far higher loss than it began, on the same rows.

        Never of one that has hardly had time to recover from its first steps.
        """
        if len(progress.losses) < max(self._settings.steps, 2 * WARM_UP):
            return False
        loss, _ = self._gradient(0, progress)
        return not loss <= GROWTH * progress.losses[0] + GROWN_BY * sum(task.weight for task in self._tasks)

    def _step(self, progress: Progress) -> None:
        loss, gradient = self._gradient(len(progress.losses), progress)
        progress.losses.append(loss)
        self._adam(progress, gradient)

    def _gradient(self, number: int, progress: Progress) -> tuple[float, torch.Tensor]:
        """The loss of the rows of a step, and its gradient by the values; the progress counts the tokens."""
        self._model.set(progress.values)
        rows, total, tokens = self._rows(number), 0.0, 0
        gradient = torch.zeros_like(progress.values)
        process = this_process()
        for batch, expert in self._batches(rows[process.process_index :: process.num_processes], number):
            loss, found = self._passes.gradient(batch, expert)
            total, gradient = total + loss, gradient + found.to(gradient.dtype)
            tokens += batch.ids.numel()
        total, sums = sum_over_processes(total, torch.cat((gradient, gradient.new_tensor([tokens]))))
        progress.tokens += int(sums[-1])
        return total, sums[:-1]

    def _rows(self, step: int) -> list[Row]:
        """The rows of a step: of every task the next ones, epoch after epoch, each in an order of its own."""
        rows = []
        for number, task in enumerate(self._tasks):
            size = len(task.examples)
            for place in range(step * self._settings.rows, (step + 1) * self._settings.rows):
                epoch, inside = divmod(place, size)
                rows.append((number, _order(self._settings.seed, epoch, task.name, size)[inside]))
        return rows

    def _chunks(self, rows: Sequence[Row], tasks: Sequence[FitTask]) -> Iterator[list[Row]]:
        """The rows in parts, each of which fits one forward pass; rows of similar lengths together."""

        def length(row: Row) -> int:
            return len(tasks[row[0]].examples[row[1]].tokens)

        part: list[Row] = []
        for row in sorted(rows, key=lambda row: (-length(row), row)):
            differs = not self._padded and part and length(row) != length(part[0])
            if part and (differs or self._tokens(len(part) + 1, length(part[0])) > self._settings.width):
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _tokens(self, rows: int, width: int) -> int:
        return self._rounded_if_needed(Shape(rows, width, targets=0, kept=0)).tokens

    def _rounded_if_needed(self, shape: Shape) -> Shape:
        return shape.rounded(self._settings.width) if self._rounded else shape

    def _batch(self, rows: Sequence[Row], totals: Sequence[float]) -> tuple[Batch, Predictions | None]:
        """A part of a step. totals: of the weights of the step's examples, by task."""
        examples = []
        for task, number in rows:
            example = self._tasks[task].examples[number]
            examples.append(replace(example, weight=example.weight * self._tasks[task].weight / totals[task]))
        shape = self._rounded_if_needed(Shape.of(examples))
        batch = batch_of(examples, 1.0, self._pad, self._device, shape)
        if self._settings.loss == "cross-entropy":
            return batch, None
        taught = [self._taught[task][number] for task, number in rows]
        joined = Predictions(torch.cat([each.tokens for each in taught]), torch.cat([each.logprobs for each in taught]))
        places = torch.arange(shape.targets, device=self._device)
        return batch, joined.of(places.where(places < len(joined.tokens), 0))

    def batches(self, step: int) -> Iterator[tuple[Batch, Predictions | None]]:
        """All rows of a step in parts, each with the experts' predictions for `loss`."""
        return self._batches(self._rows(step), step)

    def _batches(self, rows: Sequence[Row], step: int) -> Iterator[tuple[Batch, Predictions | None]]:
        """Some rows of a step in parts."""
        totals = [0.0] * len(self._tasks)
        for task, number in self._rows(step):
            totals[task] += self._tasks[task].examples[number].weight
        return (self._batch(part, totals) for part in self._chunks(rows, self._tasks))

    def loss(self, model: Any, batch: Batch, expert: Predictions | None) -> torch.Tensor:
        """The loss of a part of a step; those of its parts add up."""
        logits = logits_of(model, batch)
        return cross_entropy(logits, batch) if expert is None else distillation(logits, batch, expert)

    def _adam(self, progress: Progress, gradient: torch.Tensor) -> None:
        """One step of Adam with its usual constants (0.9, 0.999, 1e-8)."""
        step = len(progress.losses)
        rate = self._settings.learning_rate / 2**progress.restarts * min(1.0, step / WARM_UP)
        rate *= 1 - (1 - LAST_RATE) * (step - 1) / self._settings.steps
        progress.mean.lerp_(gradient, 1 - 0.9)
        progress.square.lerp_(gradient.square(), 1 - 0.999)
        mean, square = progress.mean / (1 - 0.9**step), progress.square / (1 - 0.999**step)
        progress.values -= rate * mean / (square.sqrt() + 1e-8)


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, task: str, size: int) -> tuple[int, ...]:
    """The numbers of a task's examples in the order in which an epoch takes them."""
    return tuple(generator(seed, epoch, f"fit {task}").permutation(size).tolist())


def _is_sound(progress: Progress) -> bool:
    """Whether the last loss is finite, and every value is one that a fit may have."""
    return math.isfinite(progress.losses[-1]) and bool((progress.values.abs() <= MAX_COEFFICIENT).all())
