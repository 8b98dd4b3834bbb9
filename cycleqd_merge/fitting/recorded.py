"""Work on a GPU that is launched as a whole: small models spend most of a step's time on launching small operations."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Recorded:
    """A place for work that is recorded as a CUDA graph at its second call, and replayed from then on.

    On other devices it is done at every call.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._prepared = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Do some work.

        work: the same at every call, on the same tensors; it waits for nothing that the GPU computes. The first call
        prepares what cannot be recorded, such as caches.
        """
        if self._graph is not None:
            self._graph.replay()
        elif self._prepared:
            self._graph = self._record(work)
            self._graph.replay()
        else:
            work()
            self._prepared = self._device.type == "cuda"

    def _record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self._device)
        # other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
        return graph
