"""Work on a GPU that is launched as a whole: small models spend most of a step's time on launching small operations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from cycleqd_merge.errors import first_line

log = logging.getLogger(__name__)


class Recorded:
    """A place for work that is recorded as a CUDA graph at its first call, and replayed from then on.

    Work that cannot be recorded, and on other devices all work, is done at every call.
    """

    def __init__(self, device: torch.device, pool: Any = None) -> None:
        """pool: of memory, `torch.cuda.graph_pool_handle()`, shared with work that is never done at the same time."""
        self._device, self._pool = device, pool
        self._records = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Do some work.

        work: the same at every call, on the same tensors, and with the same result if it is done twice. It is done
        once before it is recorded, which prepares what cannot be recorded, such as caches.
        """
        if self._graph is None:
            work()
            if self._records:
                self._record(work)
        if self._graph is not None:
            self._graph.replay()

    def _record(self, work: Callable[[], None]) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self._device)
        try:
            # other threads may use the GPU meanwhile
            with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:  # such as a model that reads a result on the host
            log.debug("not recorded: %s", first_line(error))
            self._records = False
            return
        self._graph = graph
