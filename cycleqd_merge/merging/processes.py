"""Processes that work together: those of `accelerate launch` divide the work on singular bases, then separate; a worker
starts others for its fits.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, reduce

_TIMEOUT = timedelta(days=1)
"""How long processes wait for each other: the main one reads and checks entire models before the others have work."""
_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

_T = TypeVar("_T")
_launched = 1


def this_process() -> PartialState:
    """This process's rank and device: the CPU if the launcher asks for it, as with `Accelerator`."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_TIMEOUT)


def from_main_process(value: _T) -> _T:
    """The main process's value, in every process; all wait for each other."""
    this_process()
    (first,) = broadcast_object_list([value])
    return first


def sum_over_processes(number: float, tensor: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The sums of a number and of a tensor over all processes, in every process."""
    if this_process().num_processes == 1:
        return number, tensor
    total = reduce(torch.cat((tensor, tensor.new_tensor([number]))), "sum")
    return float(total[-1]), total[:-1]


def leave_group() -> None:
    """Leave the group once all processes do: workers that this process starts later do not belong to it."""
    global _launched
    state = this_process()
    if state.num_processes == 1:
        return
    state.wait_for_everyone()
    _launched = int(os.environ.get("LOCAL_WORLD_SIZE", _launched))
    _dissolve()


def launched_here() -> int:
    """How many processes `accelerate launch` started on this host; all but the first have ended since."""
    return _launched


@contextmanager
def in_group(rank: int, processes: int, port: int) -> Iterator[None]:
    """In a group with the other processes of this host that do the same. Sums go through the host's memory.

    rank: of this process, from 0. port: a free one, on which the first process listens.
    """
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    PartialState._reset_state()
    # gloo: if a process dies, the others receive an error; NCCL would wait
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), backend="gloo", timeout=_TIMEOUT)
    try:
        yield
        this_process().wait_for_everyone()
    finally:
        _dissolve()


def _dissolve() -> None:
    this_process().destroy_process_group()
    PartialState._reset_state()
    for name in [name for name in os.environ if name in _GROUP or name.startswith("TORCHELASTIC_")]:
        del os.environ[name]


def free_port() -> int:
    """A free port of this host."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
