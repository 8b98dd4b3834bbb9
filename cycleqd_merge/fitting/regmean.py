"""RegMean (Jin et al., 2023, arXiv:2212.09849): linear layers whose outputs are nearest to those of the experts.

    W = (sum_i W_i G_i) (sum_i G_i)^-1, where G_i = X_i^T X_i of expert i's inputs, with off-diagonal elements scaled

The inputs are those of every token of examples, such as an expert's answers to search rows.

Memory: the Gram matrices of one expert (4 n^2 bytes for each layer of n inputs: 0.5 GB for a model of 135 million
parameters, 39 GB for one of 8 billion), as much for their sum over the experts, and products as large as the weights.
`most` bounds it, by going through the layers in several passes.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from transformers.pytorch_utils import Conv1D

from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import TaskVector
from cycleqd_merge.merging.name_map import NameMap
from cycleqd_merge.merging.singular import as_dense
from cycleqd_merge.merging.staging import Staging

_ROWS = 16
_RIDGE = 1e-8
"""Added to the diagonal, as a share of its mean: inputs that never occur would make the sum singular."""


def shrunk(gram: torch.Tensor, keep: float) -> torch.Tensor:
    """A Gram matrix with its off-diagonal elements times `keep`; the paper's is 0.9, or 0.1 for some models."""
    return keep * gram + (1 - keep) * torch.diag(gram.diagonal())


def regmean(vectors: Sequence[TaskVector], grams: Sequence[torch.Tensor]) -> torch.Tensor:
    """The merged task vector of a layer, output x input, float32. grams: (n, n), see `shrunk`."""
    products = torch.stack([product(vector, gram) for vector, gram in zip(vectors, grams, strict=True)])
    return solved(products.sum(0), torch.stack([gram.double() for gram in grams]).sum(0))


def product(vector: TaskVector, gram: torch.Tensor) -> torch.Tensor:
    """tau G, float64; of a low-rank tau without its full matrix."""
    if isinstance(vector, LowRank):
        return vector.left.double() @ (vector.right.double() @ gram.double()) * vector.scale
    return vector.double() @ gram.double()


def solved(products: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """products gram^-1, float32; 0 for inputs that never occur."""
    diagonal = gram.diagonal()
    if not diagonal.any():
        return torch.zeros_like(products, dtype=torch.float32)
    regular = gram + _RIDGE * diagonal.mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(products.T, torch.linalg.cholesky(regular)).T.float().contiguous()


@torch.no_grad()
def gram_matrices(
    model: torch.nn.Module, modules: Mapping[str, torch.nn.Module], examples: Sequence[Example]
) -> dict[str, torch.Tensor]:
    """X^T X of the inputs X of linear layers, over all tokens of the examples, float32, on the layers' devices.

    modules: by any name. Batches hold examples of one length, so that no padding is counted.
    """
    found: dict[str, torch.Tensor] = {}
    handles = [module.register_forward_pre_hook(_counting(found, name)) for name, module in modules.items()]
    device = next(model.parameters()).device
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    by_length: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_length[len(example.tokens)].append(example)
    try:
        for alike in by_length.values():
            for start in range(0, len(alike), _ROWS):
                ids = torch.tensor([example.tokens for example in alike[start : start + _ROWS]], device=device)
                model(input_ids=ids, use_cache=False, **options)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _counting(found: dict[str, torch.Tensor], name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    """A hook that adds the Gram matrix of a layer's inputs."""

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).float()
        gram = rows.T @ rows
        found[name] = found[name].add_(gram) if name in found else gram

    return count


def regmean_task_vectors(
    model: torch.nn.Module,
    name_map: NameMap,
    staging: Staging,
    examples: Sequence[Sequence[Example]],
    keep: float = 0.9,
    most: int = 8 << 30,
) -> Iterator[tuple[Weight, torch.Tensor]]:
    """The merged task vector of every tensor that an expert changes, float32.

    Tensors that are not the weight of a linear layer, embeddings, and layers without any input get the mean of the
    experts' task vectors.

    model: whose weights are replaced by each expert's in turn. examples: by expert number. most: bytes of Gram matrices
    at a time.
    """
    layers = linear_layers(model, name_map, staging)
    for weights in _chunks(staging.family.weights, layers, most):
        own = {weight.name: layers[weight.name] for weight in weights if weight.name in layers}
        sums: dict[str, torch.Tensor] = {}
        products: dict[str, torch.Tensor] = {}
        for expert, rows in enumerate(examples) if own else ():
            become(model, name_map, staging, expert)
            for name, gram in gram_matrices(model, own, rows).items():
                gram = shrunk(gram, keep)
                vector = _task_vector(staging, expert, next(each for each in weights if each.name == name), own[name])
                sums[name] = sums[name].add_(gram) if name in sums else gram
                if vector is not None:
                    term = product(vector, gram).float()
                    products[name] = products[name].add_(term) if name in products else term
        for weight in weights:
            if weight.name in products:
                merged = solved(products[weight.name].double(), sums[weight.name].double())
                yield weight, merged.T.contiguous() if isinstance(own[weight.name], Conv1D) else merged
            elif (average := mean_task_vector(staging, weight, len(examples))) is not None:
                yield weight, average


def linear_layers(model: torch.nn.Module, name_map: NameMap, staging: Staging) -> dict[str, torch.nn.Module]:
    """The linear layer of each tensor that is its weight, by the tensor's name; embeddings and tied heads have none."""
    modules = dict(model.named_modules())
    found: dict[str, torch.nn.Module] = {}
    for weight in staging.family.weights:
        parameter = name_map.parameter(staging.family.stored_names[weight.name]) or ""
        module = modules.get(parameter.removesuffix(".weight"))
        linear = isinstance(module, torch.nn.Linear | Conv1D) and parameter.endswith(".weight")
        if module is not None and linear and weight.vocabulary_axis is None:
            found[weight.name] = module
    return found


@torch.no_grad()
def become(model: torch.nn.Module, name_map: NameMap, staging: Staging, expert: int) -> None:
    """Give a model an expert's weights."""
    resident = model.state_dict()
    for weight in staging.family.weights:
        base = staging.base(weight)
        vector = staging.task_vector(expert, weight, base.float())
        tensor = base if vector is None else base.float() + as_dense(vector).reshape(weight.shape)
        name_map.copy_into(resident, staging.family.stored_names[weight.name], tensor)


def mean_task_vector(staging: Staging, weight: Weight, experts: int) -> torch.Tensor | None:
    """The mean of the experts' task vectors of a tensor; None if no expert changes it."""
    base = staging.base(weight).float()
    vectors = [staging.task_vector(expert, weight, base) for expert in range(experts)]
    dense = [as_dense(vector).reshape(weight.shape) for vector in vectors if vector is not None]
    return torch.stack(dense).sum(0) / experts if dense else None


def _task_vector(staging: Staging, expert: int, weight: Weight, module: torch.nn.Module) -> TaskVector | None:
    """An expert's task vector of a linear layer, output x input."""
    vector = staging.task_vector(expert, weight, staging.base(weight).float())
    if vector is None or not isinstance(module, Conv1D):
        return vector
    return LowRank(vector.right.T, vector.left.T, vector.scale) if isinstance(vector, LowRank) else vector.T


def _chunks(
    weights: Sequence[Weight], layers: Mapping[str, torch.nn.Module], most: int
) -> Iterator[tuple[Weight, ...]]:
    """The weights in order, divided so that the Gram matrices of each part take at most `most` bytes."""
    part, size = list[Weight](), 0
    for weight in weights:
        module = layers.get(weight.name)
        inputs = 0 if module is None else weight.shape[0 if isinstance(module, Conv1D) else 1]
        if part and size + 4 * inputs**2 > most:
            yield tuple(part)
            part, size = [], 0
        part, size = [*part, weight], size + 4 * inputs**2
    yield tuple(part)
