"""Choosing a sandbox provider: bubblewrap if it works, else Docker, else an error."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from cycleqd_merge.errors import TaskError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.sandbox.boxes import shown_versions
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.docker import Docker
from cycleqd_merge.sandbox.protocol import Provider, RootFs


@dataclass(frozen=True)
class Sandbox:
    """A provider that works, its short description, and the versions of Python and numpy in its boxes.

    python: empty for boxes with a root file system, which have their own Python.
    """

    provider: Provider
    description: str
    python: str = ""


@functools.cache
def sandbox_for(root: RootFs) -> Sandbox:
    """The first provider that can create boxes with this root file system; tried once per process.

    Raises:
        TaskError: none can; the message says why and names the command that fixes it.
    """
    bubblewrap = Bubblewrap()
    try:
        return _working(bubblewrap, root)
    except TaskError as error:
        docker = Docker()
        if docker.is_available():
            return _working(docker, root)
        raise error


def _working(provider: Provider, root: RootFs) -> Sandbox:
    description = provider.probe(root)
    if root.name is not None:
        return Sandbox(provider, description)
    python = run_coroutine(shown_versions(provider))
    name, _, rest = description.partition(", ")
    return Sandbox(provider, ", ".join(filter(None, (name, python, rest))), python)
