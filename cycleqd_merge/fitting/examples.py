"""What a fit learns from: prompts with answers as token ids, and the experts' own predictions of each answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil, isfinite
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cycleqd_merge.errors import first_line

Rows = Literal["answered", "solved"]
"""Which examples a fit learns from: all, or those of solved samples."""
LARGEST = 2**30
"""Bytes of a file of examples; a million tokens take 8 MB."""
_FORMAT = {"examples": "1"}


@dataclass(frozen=True)
class Example:
    """One conversation, or one prompt with its continuation.

    tokens: ids of the whole text as the engine saw it. trained: places of the tokens to predict, ascending, all above
    0. weight: of the example among those of its task, above 0. score: of its answers, from 0 to 1.
    """

    tokens: tuple[int, ...]
    trained: tuple[int, ...]
    weight: float = 1.0
    score: float = 1.0


def selected(examples: Sequence[Example], rows: Rows) -> tuple[Example, ...]:
    """The examples of a task that a fit learns from.

    Solved are those with a score of 1 if all scores are 0 or 1, else the better half, weighted by score.
    """
    if rows == "answered":
        return tuple(examples)
    if all(example.score in (0, 1) for example in examples):
        return tuple(example for example in examples if example.score == 1)
    ranks = sorted(range(len(examples)), key=lambda place: (-examples[place].score, place))
    better = sorted(place for place in ranks[: ceil(len(ranks) / 2)] if examples[place].score > 0)
    return tuple(replace(examples[place], weight=examples[place].weight * examples[place].score) for place in better)


def examples_to_bytes(examples: Sequence[Example]) -> bytes:
    """The content of a file of examples: equal examples have equal bytes."""
    arrays: dict[str, NDArray[Any]] = {
        "tokens": _joined([example.tokens for example in examples]),
        "lengths": np.array([len(example.tokens) for example in examples], np.int64),
        "trained": _joined([example.trained for example in examples]),
        "counts": np.array([len(example.trained) for example in examples], np.int64),
        "weights": np.array([example.weight for example in examples], np.float64),
        "scores": np.array([example.score for example in examples], np.float64),
    }
    return save(arrays, metadata=_FORMAT)


def examples_from_bytes(content: bytes) -> tuple[Example, ...]:
    """Inverse of `examples_to_bytes`.

    Raises:
        ValueError: it is not the content of such a file; one line.
    """
    arrays = _arrays(content)
    parts = zip(
        _parts(arrays, "tokens", "lengths"),
        _parts(arrays, "trained", "counts"),
        arrays["weights"].tolist(),
        arrays["scores"].tolist(),
        strict=True,
    )
    examples = tuple(Example(*part) for part in parts)
    for number, example in enumerate(examples):
        problem = _problem(example)
        if problem is not None:
            raise ValueError(f"example {number}: {problem}")
    return examples


def _problem(example: Example) -> str | None:
    if min(example.tokens, default=0) < 0:
        return "a token id is negative"
    places = (0, *example.trained, len(example.tokens))
    if not example.trained or any(after <= before for before, after in pairwise(places)):
        return "the places of its trained tokens are not ascending inside its text"
    if not (isfinite(example.weight) and example.weight > 0 and 0 <= example.score <= 1):
        return "its weight is not above 0, or its score not from 0 to 1"
    return None


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a file of examples, with their types and numbers of examples checked."""
    if len(content) > LARGEST:
        raise ValueError(f"{len(content)} bytes; at most {LARGEST} are read")
    try:
        arrays = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not a file of examples: {first_line(error)}") from None
    if metadata != _FORMAT:
        raise ValueError("not a file of examples, or of an unknown format")
    kinds = {name: array.dtype for name, array in arrays.items()}
    if kinds != _KINDS or any(array.ndim != 1 for array in arrays.values()):
        raise ValueError("an array is missing, unknown or of a wrong type")
    if len({arrays[name].size for name in ("lengths", "counts", "weights", "scores")}) != 1:
        raise ValueError("the arrays state different numbers of examples")
    return arrays


_KINDS = {
    **dict.fromkeys(("tokens", "trained"), np.dtype(np.int32)),
    **dict.fromkeys(("lengths", "counts"), np.dtype(np.int64)),
    **dict.fromkeys(("weights", "scores"), np.dtype(np.float64)),
}


def _joined(parts: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.array([value for part in parts for value in part], np.int32)


def _parts(arrays: dict[str, NDArray[Any]], name: str, sizes: str) -> list[tuple[int, ...]]:
    """The values of each example."""
    values, lengths = arrays[name], arrays[sizes].tolist()
    if any(not 0 <= length <= values.size for length in lengths) or sum(lengths) != values.size:
        raise ValueError(f"{sizes} do not add up to the number of {name}")
    starts = accumulate(lengths, initial=0)
    return [tuple(values[start : start + length].tolist()) for start, length in zip(starts, lengths, strict=False)]


@dataclass(frozen=True)
class Shape:
    """The sizes of a batch: rows x width tokens, of which `targets` are predicted, by the logits of the last `kept`
    columns.
    """

    rows: int
    width: int
    targets: int
    kept: int

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Shape:
        """The smallest shape that holds some examples."""
        width = max(len(example.tokens) for example in examples)
        kept = max(len(example.tokens) - example.trained[0] for example in examples) + 1
        return cls(len(examples), width, sum(len(example.trained) for example in examples), kept)

    @property
    def tokens(self) -> int:
        """All tokens, with padding."""
        return self.rows * self.width

    def rounded(self, most: int) -> Shape:
        """A shape at least as large, of few different ones. most: tokens that it may have, unless this one has more."""
        width = _rounded_up(self.width, 64)
        rows = _rounded_up(self.rows, max(1, min(16, most // width)))
        return Shape(rows, width, _rounded_up(self.targets, 512), min(width, _rounded_up(self.kept, 32)))


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the left, so that the answers end at the same place.

    kept: how many of the last columns have the logits that predict every token. ids, mask, positions: shape (examples,
    width). rows, columns: of the tokens to predict, shape (tokens,); the logits
    that predict one are at the column before. targets: their ids. weights: of each token, which sum to 1 over the batch
    if its examples are the whole batch.
    """

    kept: int
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def batch_of(
    examples: Sequence[Example],
    total: float,
    pad: int,
    device: torch.device | str = "cpu",
    shape: Shape | None = None,
) -> Batch:
    """A batch.

    total: the sum of the weights of all examples of the step, on all processes. pad: id of the padding. shape: of the
    batch; a larger one than the examples need is filled with copies of the first row and target, without weight.
    """
    shape = shape or Shape.of(examples)
    ids = torch.full((shape.rows, shape.width), pad)
    mask = torch.zeros_like(ids)
    rows, columns, weights = list[int](), list[int](), list[float]()
    for row, example in enumerate(examples):
        start = shape.width - len(example.tokens)
        ids[row, start:] = torch.tensor(example.tokens)
        mask[row, start:] = 1
        rows += [row] * len(example.trained)
        columns += [start + place for place in example.trained]
        weights += [example.weight / total / len(example.trained)] * len(example.trained)
    ids[len(examples) :], mask[len(examples) :] = ids[0], mask[0]
    missing = shape.targets - len(rows)
    filled = (rows + rows[:1] * missing, columns + columns[:1] * missing, weights + [0.0] * missing)
    places = torch.tensor(filled[0]), torch.tensor(filled[1])
    parts = ids, mask, (mask.cumsum(1) - 1).clamp_min(0), *places, ids[places], torch.tensor(filled[2])
    return Batch(shape.kept, *(part.to(device) for part in parts))
