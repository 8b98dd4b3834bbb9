"""The next child, built while the present one is scored: it is the right one, or none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cycleqd_merge.evaluation.engines.prefetch import Prefetcher


def build(record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Two tensors whose values identify the child."""
    if record["child"] == "broken":
        raise ValueError("no such child")
    for name in ("a", "b"):
        yield name, torch.full((3,), float(record["child"]))


@pytest.fixture
def prefetcher() -> Prefetcher:
    return Prefetcher(build, torch.device("cpu"), host=False)


def values(tensors: list[tuple[str, torch.Tensor]] | None) -> dict[str, float] | None:
    return None if tensors is None else {name: tensor.mean().item() for name, tensor in tensors}


def test_a_child_can_be_taken_once(prefetcher: Prefetcher) -> None:
    prefetcher.begin({"child": 3})
    assert values(prefetcher.take({"child": 3})) == {"a": 3.0, "b": 3.0}
    assert prefetcher.take({"child": 3}) is None


def test_a_different_child_cannot_be_taken(prefetcher: Prefetcher) -> None:
    prefetcher.begin({"child": 3})
    assert prefetcher.take({"child": 4}) is None
    prefetcher.begin({"child": 5})
    prefetcher.begin({"child": 6})
    assert values(prefetcher.take({"child": 6})) == {"a": 6.0, "b": 6.0}


def test_a_child_that_cannot_be_built_is_left_to_the_load(
    prefetcher: Prefetcher, caplog: pytest.LogCaptureFixture
) -> None:
    prefetcher.begin({"child": "broken"})
    assert prefetcher.take({"child": "broken"}) is None
    assert "no such child" in caplog.text
    prefetcher.begin({"child": 1})
    assert values(prefetcher.take({"child": 1})) == {"a": 1.0, "b": 1.0}


def test_begin_returns_at_once_and_take_waits() -> None:
    go = threading.Event()

    def slow(record: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        go.wait()
        yield from build(record)

    prefetcher = Prefetcher(slow, torch.device("cpu"), host=True)
    prefetcher.begin({"child": 2})
    threading.Timer(0.2, go.set).start()
    assert values(prefetcher.take({"child": 2})) == {"a": 2.0, "b": 2.0}
    assert go.is_set()
