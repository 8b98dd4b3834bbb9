"""Choosing a sandbox provider: bubblewrap if it works, else Docker, else an error."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from cycleqd_merge.errors import TaskError
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.docker import Docker
from cycleqd_merge.sandbox.protocol import Provider, RootFs


@dataclass(frozen=True)
class Sandbox:
    """A provider that works, and its short description."""

    provider: Provider
    description: str


@functools.cache
def sandbox_for(root: RootFs) -> Sandbox:
    """The first provider that can create boxes with this root file system; tried once per process.

    Raises:
        TaskError: none can; the message says why and names the command that fixes it.
    """
    bubblewrap = Bubblewrap()
    try:
        return Sandbox(bubblewrap, bubblewrap.probe(root))
    except TaskError as error:
        docker = Docker()
        if docker.is_available():
            return Sandbox(docker, docker.probe(root))
        raise error
