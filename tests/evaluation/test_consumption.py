"""Tensors that a loader leaves out are found, however it uses the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cycleqd_merge.evaluation.engines.consumption import Consumption

Loader = Callable[[torch.Tensor, dict[str, torch.Tensor]], object]

USES: dict[str, Loader] = {
    "copied": lambda target, given: target.copy_(given["a"]),
    "a part of it": lambda target, given: target[:2].copy_(given["a"][2:]),
    "transposed": lambda target, given: target.t().copy_(given["a"].t()),
    "computed": lambda target, given: target.copy_(-torch.exp(given["a"].double())),
    "in another tensor": lambda target, given: target.copy_(torch.cat([given["a"][:2], torch.zeros(2, 4)])),
    "on another device": lambda target, given: torch.empty(4, 4, device="meta").copy_(given["a"]),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_tensor_that_is_written_somewhere_is_used(use: Loader) -> None:
    target = torch.zeros(4, 4)
    with Consumption() as consumption:
        use(target, dict(consumption.watch([("a", torch.ones(4, 4)), ("b", torch.ones(4))])))
    assert consumption.unused == {"b"}


def test_tensors_that_are_collected_before_they_are_written_are_used() -> None:
    stacked = torch.zeros(2, 4)
    with Consumption() as consumption:
        given = list(consumption.watch([("a", torch.ones(4)), ("b", torch.ones(4))]))
        stacked.copy_(torch.stack([tensor for _, tensor in given]))
    assert consumption.unused == set()


def test_a_freed_tensor_leaves_no_trace() -> None:
    target = torch.zeros(1000)

    def read() -> torch.Tensor:  # as from a file: no operation of torch creates it
        return torch.from_numpy(np.ones(1000, dtype=np.float32))

    with Consumption() as consumption:
        for name, tensor in consumption.watch((str(number), read()) for number in range(50)):
            if int(name) % 2:
                target.copy_(tensor)
            del tensor
            target.add_(read())  # may be where a tensor that was not used has been
    assert consumption.unused == {str(number) for number in range(0, 50, 2)}


def test_integers_are_not_watched() -> None:
    with Consumption() as consumption:
        list(consumption.watch([("a", torch.ones(4, dtype=torch.int64))]))
    assert consumption.unused == set()
