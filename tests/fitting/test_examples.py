"""Files of examples are read as they were written or refused in one line, and fits select rows by score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from cycleqd_merge.fitting.examples import Example, examples_from_bytes, examples_to_bytes, selected


@st.composite
def examples(draw: st.DrawFn) -> Example:
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=12))
    trained = draw(st.sets(st.integers(1, len(tokens) - 1), min_size=1))
    weight = draw(st.floats(0, 1e9, exclude_min=True))
    return Example(tuple(tokens), tuple(sorted(trained)), weight, draw(st.floats(0, 1)))


@given(st.lists(examples(), max_size=6))
def test_examples_are_read_as_they_were_written(written: list[Example]) -> None:
    content = examples_to_bytes(written)
    assert examples_from_bytes(content) == tuple(written)
    assert examples_to_bytes(examples_from_bytes(content)) == content


GOOD = examples_to_bytes([Example((1, 2, 3), (1, 2)), Example((4, 5), (1,), 0.5, 0.25)])


def changed(metadata: dict[str, str] | None = None, **arrays: Any) -> bytes:
    kept = {name: array for name, array in (load(GOOD) | arrays).items() if array is not None}
    return save(kept, metadata={"examples": "1"} if metadata is None else metadata)


INTS, LONGS, FLOATS = np.int32, np.int64, np.float64
HOSTILE = {
    "nothing": b"",
    "text": b"[1, 2]",
    "cut off": GOOD[:-3],
    "a huge header": (2**63).to_bytes(8, "little") + b"{}",
    "nested metadata": (len(b"[" * 5000)).to_bytes(8, "little") + b"[" * 5000,
    "no metadata": save(load(GOOD)),
    "another format": changed({"examples": "2"}),
    "another file": changed({"fit": "1"}),
    "an array is missing": changed(scores=None),
    "an array too many": changed(more=np.zeros(1)),
    "a wrong type": changed(tokens=np.zeros(5, np.float32)),
    "a wrong shape": changed(weights=np.ones((2, 1))),
    "other numbers of examples": changed(weights=np.ones(3)),
    "lengths that do not add up": changed(lengths=np.array([3, 3], LONGS)),
    "a negative length": changed(lengths=np.array([6, -1], LONGS)),
    "lengths that overflow": changed(lengths=np.array([2**62, 5 - 2**62], LONGS)),
    "a negative token": changed(tokens=np.array([1, 2, 3, -4, 5], INTS)),
    "place 0 is trained": changed(trained=np.array([0, 2, 1], INTS)),
    "a place twice": changed(trained=np.array([2, 2, 1], INTS)),
    "a place outside": changed(trained=np.array([1, 3, 1], INTS)),
    "nothing is trained": changed(counts=np.array([3, 0], LONGS)),
    "a weight of 0": changed(weights=np.array([1, 0], FLOATS)),
    "a weight that is not finite": changed(weights=np.array([1, np.inf], FLOATS)),
    "a score above 1": changed(scores=np.array([1, 1.5], FLOATS)),
    "a score that is no number": changed(scores=np.array([1, np.nan], FLOATS)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_other_content_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        examples_from_bytes(HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def scored(*scores: float, weight: float = 1.0) -> list[Example]:
    return [Example((0, number), (1,), weight, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "solved"),
    [
        ((), {}),
        ((0, 0), {}),
        ((1, 0, 1), {0: 1.0, 2: 1.0}),
        ((0.2, 0.9, 0.4, 0.6), {1: 0.9, 3: 0.6}),
        ((0.5, 0.5, 0.5), {0: 0.5, 1: 0.5}),
        ((0, 0, 0, 0.3), {3: 0.3}),
        ((1.0, 0.5), {0: 1.0}),
    ],
)
def test_solved_rows_are_those_with_full_score_or_the_better_half(
    scores: tuple[float, ...], solved: dict[int, float]
) -> None:
    rows = scored(*scores, weight=2.0)
    assert {each.tokens[1]: each.weight for each in selected(rows, "solved")} == {k: 2 * w for k, w in solved.items()}
    assert selected(rows, "answered") == tuple(rows)
