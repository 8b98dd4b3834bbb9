"""Processes that `accelerate launch` started together: they share the work on singular bases, then part."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

_LONGEST = timedelta(days=1)
"""That one of them may keep the others waiting: the first reads and checks whole models before they have work."""
_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


def this_process() -> PartialState:
    """This process among those started together; on the CPU where the launcher asked for it, as `Accelerator` does."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_LONGEST)


def of_the_first(value: T) -> T:
    """The value that the first process gives, in all of them; everybody waits for everybody."""
    this_process()
    (first,) = broadcast_object_list([value])
    return first


def part() -> None:
    """Leave the group when all are ready to: what this process starts from here on, such as workers, is none of it."""
    state = this_process()
    if state.num_processes == 1:
        return
    state.wait_for_everyone()
    state.destroy_process_group()
    PartialState._reset_state()
    for name in [name for name in os.environ if name in _GROUP or name.startswith("TORCHELASTIC_")]:
        del os.environ[name]
