"""The error that made an evaluation fail, and whether it is the candidate's own."""

from __future__ import annotations

import sys

from cycleqd_merge.errors import InfrastructureError

_INFRASTRUCTURE_TEXTS = ("event loop", "different loop", "out of memory", "can't allocate memory")
"""Parts of the messages of plain `RuntimeError`s from asyncio and torch, in lower case."""


class EngineLost(InfrastructureError):
    """An engine cannot be started or restarted. It starts with the base's weights: no candidate causes this."""


def single_cause(error: BaseException) -> BaseException:
    """One error of (nested) exception groups, such as those of an `asyncio.TaskGroup`.

    It is the first one, unless the infrastructure failed too: all other errors may follow from that.
    """
    if isinstance(error, BaseExceptionGroup):
        error = error.subgroup(is_infrastructure) or error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_infrastructure(error: BaseException) -> bool:
    """Whether an error comes from the machine or the installation, not from the candidate.

    It is a failure of disk, sandbox or database, no memory left, a missing package, or asyncio used wrongly.
    """
    if isinstance(error, InfrastructureError | OSError | MemoryError | ImportError):
        return True
    torch = sys.modules.get("torch")  # not imported here: the search alone does not need it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _INFRASTRUCTURE_TEXTS)
