"""Memory that workers share: one copy, the same values, and nothing left once the last of them has ended."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from cycleqd_merge.merging import shared
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.family import Whole
from cycleqd_merge.merging.shared import SharedMemory, remove_unused
from cycleqd_merge.merging.singular import Basis
from tests.merging.conftest import Trio, long_lineage

ITEMS: dict[str, Any] = {
    "tensor": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "whole": Whole(torch.ones(3)),
    "factors": LowRank(torch.ones(4, 2), torch.ones(2, 5), 0.5),
    "basis": Basis(torch.eye(3), torch.ones(3), "left"),
    "mask": torch.tensor([[True, False]]),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "nothing": None,
}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder instead of the system's shared memory, with enough space."""
    monkeypatch.setattr(shared, "MEMORY", tmp_path)
    yield tmp_path
    remove_unused()


def folders(memory: Path) -> list[Path]:
    return [path for path in memory.iterdir() if path.is_dir()]


def use(memory: str, connection: Connection) -> None:
    """Another worker: opens the same memory, adds one to the tensor, reports its sum, and waits to be killed."""
    shared.MEMORY = Path(memory)
    opened = SharedMemory("key", pin=False)
    found = opened.get("tensor", lambda: torch.zeros(2, 3))
    found += 1
    connection.send(found.sum().item())
    connection.recv()


def test_every_kind_of_item_is_returned_as_it_was(memory: Path) -> None:
    opened = SharedMemory("key", pin=False)
    for name, item in ITEMS.items():
        found = opened.get(name, lambda item=item: item)
        again = opened.get(name, lambda: pytest.fail("it is stored already"))
        for back in (found, again):
            assert type(back) is type(item)
            if item is not None:
                values, wanted = (vars(x) if not isinstance(x, torch.Tensor) else {"": x} for x in (back, item))
                for key, value in wanted.items():
                    assert torch.equal(values[key], value) if isinstance(value, torch.Tensor) else values[key] == value


def test_two_workers_map_one_copy_which_is_removed_after_the_last(memory: Path) -> None:
    opened = SharedMemory("key", pin=False)
    mine = opened.get("tensor", lambda: torch.ones(2, 3))
    here, there = multiprocessing.get_context("spawn").Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=use, args=(str(memory), there))
    worker.start()
    assert here.recv() == 12.0  # it found the ones, and added to them
    assert mine.sum() == 12.0  # in the same memory
    remove_unused()
    assert len(folders(memory)) == 1
    del opened, mine
    remove_unused()
    assert len(folders(memory)) == 1  # the other worker holds it
    worker.kill()
    worker.join()
    remove_unused()
    assert folders(memory) == []


def test_if_it_is_full_a_worker_uses_what_it_has_read(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "SPARE", 2**60)
    item = torch.ones(3)
    assert SharedMemory("key", pin=False).get("tensor", lambda: item) is item


def test_children_are_the_same_from_shared_memory(trio: Trio, memory: Path) -> None:
    genome = long_lineage(3)
    wanted = dict(trio.materialiser().tensors(genome))
    materialiser = trio.materialiser(place="shared")
    for _ in range(2):
        for name, tensor in materialiser.tensors(genome):
            assert torch.equal(tensor, wanted[name])
