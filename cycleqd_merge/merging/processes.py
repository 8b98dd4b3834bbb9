"""Processes started together by `accelerate launch`: they divide the work on singular bases, then separate."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, reduce

_TIMEOUT = timedelta(days=1)
"""How long processes wait for each other: the main one reads and checks entire models before the others have work."""
_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

_T = TypeVar("_T")


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
    state = this_process()
    if state.num_processes == 1:
        return
    state.wait_for_everyone()
    state.destroy_process_group()
    PartialState._reset_state()
    for name in [name for name in os.environ if name in _GROUP or name.startswith("TORCHELASTIC_")]:
        del os.environ[name]
