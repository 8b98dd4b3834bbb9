"""Whether an adapter can be merged into its base, as peft runs it: known from the names and shapes of its tensors."""

from __future__ import annotations

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import Expert, ModelFamily, TaskVector
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer, id_bound
from cycleqd_merge.merging.tokenizers import load_tokenizer


def check_adapter(family: ModelFamily, adapter: Adapter) -> tuple[list[str], list[str]]:
    """Errors and notices. An error names the tensor; `check_family` names the expert.

    Raises:
        ModelError: the adapter has tensors of an unknown kind.
    """
    errors = [*_unknown_tensors(family, adapter), *_added_biases(family, adapter)]
    resized, notices = _vocabulary(family, adapter)
    errors += resized
    if not errors:
        errors += _untied(family, adapter)
    if adapter.unknown_options:
        notices.append(
            f"adapter_config.json has keys that the installed peft ignores: {', '.join(adapter.unknown_options)}; "
            "update peft if they change the model"
        )
    return errors, notices


def require_adapter(family: ModelFamily, expert: Expert) -> None:
    """Check that an expert that is an adapter can be merged as peft runs it.

    Raises:
        ModelError: it cannot; one line for each reason.
    """
    if isinstance(expert.weights, Adapter):
        errors, _ = check_adapter(family, expert.weights)
        if errors:
            raise ModelError("\n".join(f"{expert.reference}: {error}" for error in errors))


def stock_merges(family: ModelFamily, adapter: Adapter) -> bool:
    """Whether peft, with which stock mergekit merges adapters, merges this one as it runs it."""
    if not adapter.has_plain_keys:
        return False
    tied = {name for pair in family.base.tied.items() for name in pair}
    for name, weight in _by_name(family).items():
        if name not in adapter.names:
            continue
        if adapter.shape(name, weight.shape) != weight.shape or (name in tied and adapter.rank_of(name) is not None):
            return False
    return True


def _unknown_tensors(family: ModelFamily, adapter: Adapter) -> list[str]:
    known = {*_by_name(family), *family.base.tied}
    unknown = [name for name in adapter.names if name not in known and not adapter.is_bias(name)]
    return [f"its adapter changes {_first(unknown)}, which the base lacks"] if unknown else []


def _added_biases(family: ModelFamily, adapter: Adapter) -> list[str]:
    """Biases of factors (`lora_bias`) whose layer has no bias in the base. Zeros change nothing."""
    known = _by_name(family)
    added = [name for name in adapter.names if name not in known and adapter.is_bias(name) and adapter.adds(name)]
    return [f"its adapter adds {_first(added)}, which the base lacks; train it without `lora_bias`"] if added else []


def _vocabulary(family: ModelFamily, adapter: Adapter) -> tuple[list[str], list[str]]:
    """Errors and notices for embeddings with another number of rows than the base's."""
    if family.union is not None:  # it has the rows of the union
        return [], []
    errors, notices = [], []
    for name, weight in _by_name(family).items():
        axis = weight.vocabulary_axis
        if axis is None or name not in adapter.names:
            continue
        shape = adapter.shape(name, weight.shape)
        if len(shape) != len(weight.shape) or shape[axis] == weight.shape[axis]:
            continue
        rows = shape[axis] - weight.shape[axis]
        if rows < 0 and shape[axis] >= (family.token_bound or weight.shape[axis]):
            notices.append(f"{name}: {-rows} rows that belong to no token are missing; the base's are used")
        elif rows > 0 and (family.models.vocabulary == "base" or not _has_token(family, adapter, weight.shape[axis])):
            notices.append(f"{name}: {rows} rows beyond the base's vocabulary dropped")
        else:
            hint = "; `models.vocabulary: base` drops added rows" if rows > 0 else ""
            errors.append(f"tensor {name}: shape {shape}, the base has {weight.shape}{hint}")
    return errors, notices


def _has_token(family: ModelFamily, adapter: Adapter, number: int) -> bool:
    """Whether the adapter's tokenizer has tokens from this id on; so does one that it lacks."""
    return not has_tokenizer(adapter.path) or id_bound(load_tokenizer(adapter.path, family)) > number


def _untied(family: ModelFamily, adapter: Adapter) -> list[str]:
    """Pairs of tied tensors that peft would run with different values."""
    errors, weights = [], _by_name(family)
    for head, other in family.base.tied.items():
        weight = weights.get(other) or weights.get(head)
        if weight is None:
            continue
        own = {weight.name, *weight.aliases, other} - {head}
        embedding = next((name for name in adapter.names if name in own), weight.name)
        if head not in adapter.names and embedding not in adapter.names:
            continue
        if head not in adapter.names and adapter.trains_tokens(embedding):
            continue  # peft ties these by itself
        one, two = (_vector(family, adapter, weight, name) for name in (embedding, head))
        if not _equal(one, two) or not adapter.loads_head(head):
            errors.append(
                f"its adapter gives {embedding} and {head} different values, but the base ties them; train it with "
                "peft's `ensure_weight_tying`, or use an untied copy of the base (`tie_word_embeddings: false`)"
            )
    return errors


def _vector(family: ModelFamily, adapter: Adapter, weight: Weight, name: str) -> TaskVector | None:
    return adapter.task_vector(name, family.base_tensor(weight), family.fit(adapter, weight))


def _equal(one: TaskVector | None, other: TaskVector | None) -> bool:
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        same = one.scale == other.scale and torch.equal(one.left, other.left) and torch.equal(one.right, other.right)
        return same or (_zero(one) and _zero(other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return _zero(one) and _zero(other)


def _zero(vector: TaskVector | None) -> bool:
    """Whether it changes nothing."""
    if isinstance(vector, LowRank):
        return not (torch.count_nonzero(vector.left) and torch.count_nonzero(vector.right))
    return vector is None or not torch.count_nonzero(vector)


def _by_name(family: ModelFamily) -> dict[str, Weight]:
    """The base's tensors by all of their names."""
    return {name: weight for weight in family.weights for name in (*weight.aliases, weight.name)}


def _first(names: list[str]) -> str:
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} and {more} other tensor{'s' if more > 1 else ''}"
