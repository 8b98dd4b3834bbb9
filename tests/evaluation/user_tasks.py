"""Tasks of the kind `python`, as a user writes them, for the tests of the worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import torch

from cycleqd_merge import errors
from cycleqd_merge.tasks.protocol import LanguageModel, Outcome, Sample, Sampling, Targets, TaskSplit

ERRORS: dict[str, Callable[[str], Exception]] = {
    "InfrastructureError": errors.InfrastructureError,
    "UserError": errors.UserError,
    "OSError": OSError,
    "ValueError": ValueError,
    "KeyError": KeyError,
    "RuntimeError": RuntimeError,
    "MemoryError": MemoryError,
    "ModuleNotFoundError": ModuleNotFoundError,
    "OutOfMemoryError": torch.OutOfMemoryError,
    "no memory": lambda _: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "second loop": lambda _: RuntimeError("asyncio.run() cannot be called from a running event loop"),
    "closed loop": lambda _: RuntimeError("Event loop is closed"),
}


class Scores:
    """Gives the scores of its options, one per sample, after asking the model for a few tokens."""

    def __init__(self, scores: Sequence[float], heldout: Sequence[float] = (0.0,)) -> None:
        self._scores = {"search": scores, "heldout": heldout}

    def samples(self, split: TaskSplit) -> list[Sample]:
        return [Sample(f"{split}-{place}", {"score": score}) for place, score in enumerate(self._scores[split])]

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        answer = await model.complete(sample.id, Sampling(max_new_tokens=4))
        return Outcome(sample.row["score"], answer.text, answer.truncated)


class ReturnsScore(Scores):
    """Gives its scores without an outcome around them."""

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        return sample.row["score"]  # type: ignore[no-any-return]


class Raises(Scores):
    """Raises errors by name, one per call, and gives its scores once none are left."""

    def __init__(self, raised: Sequence[str], scores: Sequence[float] = (1.0,)) -> None:
        super().__init__(scores)
        self._raised = list(raised)

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if self._raised:
            raise ERRORS[self._raised.pop(0)]("the disk is full")
        return await super().score(sample, model)


class RaisesDuringBatch(Scores):
    """Its samples ask for long answers; in the first evaluation, one raises while these are computed."""

    def __init__(self, samples: int = 6) -> None:
        super().__init__([1.0] * samples)
        self._left = 1

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if self._left and sample.id == "search-0":
            await asyncio.sleep(0.05)
            self._left -= 1
            raise ValueError("no such thing")
        answer = await model.complete(sample.id, Sampling(max_new_tokens=40))
        return Outcome(sample.row["score"], answer.text, answer.truncated)


class Signals(Scores):
    """In the first evaluation, a sample sends a signal to this process, while others ask for long answers."""

    def __init__(self, number: int, samples: int = 6) -> None:
        super().__init__([1.0] * samples)
        self._numbers = [number]

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if self._numbers and sample.id == "search-3":
            os.kill(os.getpid(), self._numbers.pop())
        answer = await model.complete(sample.id, Sampling(max_new_tokens=40))
        return Outcome(sample.row["score"], answer.text, answer.truncated)


class RaisesTogether(Scores):
    """Its samples wait for each other; then each raises an error of its own."""

    def __init__(self, raised: Sequence[str]) -> None:
        super().__init__([0.0] * len(raised))
        self._raised, self._waiting = list(raised), 0

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        self._waiting += 1
        while self._waiting % len(self._raised):
            await asyncio.sleep(0)
        raise ERRORS[self._raised[int(sample.id.rpartition("-")[2])]]("the disk is full")


class Learned(Scores):
    """A fit learns from its solved samples."""

    def __init__(self, scores: Sequence[float], returned: str = "targets") -> None:
        super().__init__(scores)
        self._returned = returned

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        if self._returned == "text":
            return "everything"  # type: ignore[return-value]
        return Targets(2.0 if self._returned == "score" else outcome.score) if outcome.score else None


class Pictures(Learned):
    """Every second sample shows a picture."""

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        parts = [{"type": "image", "image": b""}] if sample.id.endswith("1") else []
        content = [{"type": "text", "text": sample.id}, *parts]
        answer = await model.chat([{"role": "user", "content": content}], Sampling(max_new_tokens=4))
        return Outcome(sample.row["score"], answer.text, answer.truncated)
