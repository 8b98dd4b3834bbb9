"""Builds the next child's tensors while the present child is scored."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

log = logging.getLogger(__name__)

NamedTensors = list[tuple[str, torch.Tensor]]


class Prefetcher:
    """Builds one child at a time, in its own thread and CUDA stream, and keeps it until it is taken.

    build: makes a child's tensors from its record; nothing else may call it while a child is being built here.
    host: keep the child in pinned host memory instead of the device's memory.
    """

    def __init__(
        self, build: Callable[[dict[str, Any]], Iterable[tuple[str, torch.Tensor]]], device: torch.device, host: bool
    ) -> None:
        self._build, self._device, self._host = build, device, host
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: dict[str, torch.Tensor] = {}
        self._record: dict[str, Any] | None = None
        self._built: NamedTensors | None = None
        self._thread: threading.Thread | None = None

    def begin(self, record: dict[str, Any]) -> None:
        """Start building a child; an earlier one that was not taken is dropped."""
        self._wait()
        self._record, self._built = record, None
        self._thread = threading.Thread(target=self._run, args=(record,), name="prefetch", daemon=True)
        self._thread.start()

    def take(self, record: dict[str, Any]) -> NamedTensors | None:
        """Wait for the child; returns its tensors, or None if a different child was begun or it could not be built.

        A child can be taken only once. Its tensors are valid until the next `begin`.
        """
        self._wait()
        wanted, built = self._record, self._built
        self._record = self._built = None
        return built if wanted == record else None

    def forget(self) -> None:
        """Drop the child that was built, once it is."""
        self._wait()
        self._record = self._built = None

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, record: dict[str, Any]) -> None:
        try:
            with torch.inference_mode(), self._on_stream():
                built = [(name, self._kept(name, tensor)) for name, tensor in self._build(record)]
                if self._stream is not None:
                    self._stream.synchronize()
            self._built = built
        except Exception as error:  # loading builds the child again and raises the error, where it is reported
            log.warning("a child could not be prefetched and is built when it is needed: %s", error)

    def _on_stream(self) -> Any:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _kept(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not self._host or self._device.type != "cuda":
            return tensor
        if name not in self._buffers:
            self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return self._buffers[name].copy_(tensor, non_blocking=True)
