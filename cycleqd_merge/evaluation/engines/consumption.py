"""Which tensors a loader uses: vLLM leaves out, without a word, those that its model has no place for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Consumption(TorchDispatchMode):
    """While it is active, follows watched tensors through views and computations until they are written somewhere.

    unused: names of the watched float tensors that were written nowhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unused: set[str] = set()
        # by storage; a weak reference keeps its address from being used again, but not its memory
        self._names: dict[StorageWeakRef, frozenset[str]] = {}

    def watch(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors, which are watched from now on."""
        for name, tensor in tensors:
            if tensor.dtype.is_floating_point:
                self._names[_storage(tensor)] = frozenset([name])
                self.unused.add(name)
            yield name, tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        used = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        names = frozenset[str]().union(*(self._names.get(_storage(tensor), ()) for tensor in used))
        if func._schema.is_mutable:
            self.unused -= names
            return result
        if names:
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self._names[_storage(tensor)] = names
        return result


def _storage(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
