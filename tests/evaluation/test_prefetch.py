"""The next child, built beside the present one: it is the right one, or none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cycleqd_merge.evaluation.engines.prefetch import Prefetcher


def build(record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Two tensors that tell which child they are of."""
    if record["child"] == "broken":
        raise ValueError("no such child")
    for name in ("a", "b"):
        yield name, torch.full((3,), float(record["child"]))


@pytest.fixture
def ahead() -> Prefetcher:
    return Prefetcher(build, torch.device("cpu"), host=False)


def values(tensors: list[tuple[str, torch.Tensor]] | None) -> dict[str, float] | None:
    return None if tensors is None else {name: tensor.mean().item() for name, tensor in tensors}


def test_a_child_that_was_begun_is_taken_once(ahead: Prefetcher) -> None:
    ahead.begin({"child": 3})
    assert values(ahead.take({"child": 3})) == {"a": 3.0, "b": 3.0}
    assert ahead.take({"child": 3}) is None


def test_nothing_is_taken_for_another_child(ahead: Prefetcher) -> None:
    ahead.begin({"child": 3})
    assert ahead.take({"child": 4}) is None
    ahead.begin({"child": 5})
    ahead.begin({"child": 6})
    assert values(ahead.take({"child": 6})) == {"a": 6.0, "b": 6.0}


def test_a_child_that_cannot_be_built_is_left_to_the_load(ahead: Prefetcher, caplog: pytest.LogCaptureFixture) -> None:
    ahead.begin({"child": "broken"})
    assert ahead.take({"child": "broken"}) is None
    assert "no such child" in caplog.text
    ahead.begin({"child": 1})
    assert values(ahead.take({"child": 1})) == {"a": 1.0, "b": 1.0}


def test_beginning_returns_at_once_and_taking_waits() -> None:
    go = threading.Event()

    def slow(record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        go.wait()
        yield from build(record)

    ahead = Prefetcher(slow, torch.device("cpu"), host=True)
    ahead.begin({"child": 2})
    threading.Timer(0.2, go.set).start()
    assert values(ahead.take({"child": 2})) == {"a": 2.0, "b": 2.0}
    assert go.is_set()
