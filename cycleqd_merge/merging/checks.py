"""Check that base and experts can be merged, before anything is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cycleqd_merge.errors import ModelError, UserError
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.family import Expert, ModelFamily, fit_vocabulary
from cycleqd_merge.merging.tokenizers import has_tokenizer, load_tokenizer


@dataclass
class Problems:
    """The results of checks. `errors` prevent a run; `notices` are only reported."""

    errors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def check_family(family: ModelFamily) -> Problems:
    """Run all checks on a family; every error names the model, the tensor and both values."""
    problems = Problems()
    _check_module(family.base, problems)
    for expert in family.experts:
        if isinstance(expert.weights, Checkpoint):
            _check_architecture(family.base, expert.weights, expert.name, problems)
            _check_names(family, expert.weights, expert.name, problems)
        else:
            try:
                _check_adapter_names(family, expert.weights, expert.name, problems)
            except ModelError as error:
                problems.errors.append(f"expert {expert.name}: {error}")
        _check_tokenizer(family, expert, problems)
    if not problems.errors:
        _check_values(family, problems)
    return problems


def require_mergeable(family: ModelFamily) -> list[str]:
    """Notices of `check_family`.

    Raises:
        ModelError: the family has errors; one line for each.
    """
    problems = check_family(family)
    if problems.errors:
        raise ModelError("\n".join(problems.errors))
    return problems.notices


def _check_module(base: Checkpoint, problems: Problems) -> None:
    """Check that a model can be exchanged in place and exported: every tensor has its place in transformers' model."""
    try:
        _ = base.name_map
    except ModelError as error:
        problems.errors.append(str(error))


def _check_architecture(base: Checkpoint, expert: Checkpoint, name: str, problems: Problems) -> None:
    ours, theirs = base.config.architectures, expert.config.architectures
    if ours != theirs:
        problems.errors.append(f"expert {name}: architecture {theirs}, the base has {ours}")


def _check_names(family: ModelFamily, expert: Checkpoint, name: str, problems: Problems) -> None:
    known = {stored for weight in family.weights for stored in (weight.name, *weight.aliases)}
    for weight in family.weights:
        if expert.stored_name(weight) is None:
            problems.errors.append(f"expert {name}: tensor {weight.name} is missing; the base has it")
    for stored in expert.names:
        if stored not in known:
            tied = family.base.config.get_text_config().tie_word_embeddings
            if tied and any(stored in (w.name, *w.aliases) for w in expert.weights if w.vocabulary_axis is not None):
                problems.notices.append(
                    f"expert {name}: {stored} is ignored: in the base, it is tied to the input embedding"
                )
            else:
                problems.errors.append(f"expert {name}: tensor {stored} is not in the base")


def _check_adapter_names(family: ModelFamily, adapter: Adapter, name: str, problems: Problems) -> None:
    known = {stored for weight in family.weights for stored in (weight.name, *weight.aliases)}
    problems.errors.extend(
        f"expert {name}: its adapter changes {tensor}, which the base lacks"
        for tensor in adapter.names
        if tensor not in known
    )


def _check_values(family: ModelFamily, problems: Problems) -> None:
    """One pass over all tensors: shapes, dtypes, finite values, and task vectors that are not all zero."""
    differs = [False] * len(family.experts)
    cast: dict[tuple[str, str, str], int] = {}
    for weight in family.weights:
        base = family.base_tensor(weight)
        if not _finite(base):
            problems.errors.append(f"base: tensor {weight.name} contains NaN or infinite values")
            continue
        for number, expert in enumerate(family.experts):
            if isinstance(expert.weights, Checkpoint):
                tensor = expert.weights.read(expert.weights.stored_name(weight) or weight.name)
                if not _same_form(family, weight, tensor, expert.name, problems):
                    continue
                if tensor.dtype != weight.dtype:
                    key = (expert.name, _short(tensor.dtype), _short(weight.dtype))
                    cast[key] = cast.get(key, 0) + 1
            try:
                vector = family.task_vector(number, weight, base)
            except UserError as error:
                problems.errors.append(f"expert {expert.name}: {error}")
                continue
            if vector is None:
                continue
            parts = (vector.left, vector.right) if isinstance(vector, LowRank) else (vector,)
            if not all(_finite(part) for part in parts):
                problems.errors.append(f"expert {expert.name}: tensor {weight.name} contains NaN or infinite values")
            differs[number] |= all(bool(torch.count_nonzero(part)) for part in parts)
    problems.notices.extend(
        f"expert {name}: {count} tensors are cast from {theirs} to the base's {ours}"
        for (name, theirs, ours), count in cast.items()
    )
    problems.errors.extend(
        f"expert {expert.name}: its task vector is zero, so it is the base model itself; choose a different expert"
        for expert, different in zip(family.experts, differs, strict=True)
        if not different and not problems.errors
    )


def _same_form(family: ModelFamily, weight: Weight, tensor: torch.Tensor, name: str, problems: Problems) -> bool:
    """Whether an expert's tensor can be merged into the base's; reports why not, or which rows are dropped."""
    axis = weight.vocabulary_axis
    fitted = fit_vocabulary(tensor, weight, family.models)
    if tuple(fitted.shape) == weight.shape:
        if fitted.shape != tensor.shape and axis is not None:
            added = tensor.shape[axis] - weight.shape[axis]
            problems.notices.append(f"expert {name}: {weight.name}: {added} rows beyond the base's vocabulary dropped")
        return True
    if axis is not None and tensor.shape[axis] != weight.shape[axis]:
        hint = "; `models.vocabulary: base` drops added rows" if tensor.shape[axis] > weight.shape[axis] else ""
        problems.errors.append(
            f"expert {name}: tensor {weight.name}: vocabulary of {tensor.shape[axis]}, "
            f"the base has {weight.shape[axis]}{hint}"
        )
    else:
        problems.errors.append(
            f"expert {name}: tensor {weight.name}: shape {tuple(tensor.shape)}, the base has {weight.shape}"
        )
    return False


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.dtype.is_floating_point or bool(torch.isfinite(tensor).all())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tokenizer(family: ModelFamily, expert: Expert, problems: Problems) -> None:
    """Check that every id is the same token, and that chat templates are equal unless the recipe chooses one."""
    if not has_tokenizer(expert.folder):
        if isinstance(expert.weights, Checkpoint):
            problems.notices.append(f"expert {expert.name}: has no tokenizer; the base's is used")
        return
    try:
        ours, theirs = load_tokenizer(family.base.path, family), load_tokenizer(expert.folder, family)
    except UserError as error:
        problems.errors.append(f"expert {expert.name}: {error}")
        return
    if family.models.chat_template is None and theirs.chat_template and ours.chat_template != theirs.chat_template:
        problems.errors.append(
            f"expert {expert.name}: its chat template differs from the base's; choose one with `models.chat_template` "
            f"(`base`, `{expert.name}` or a file)"
        )
    vocabulary, other = ours.get_vocab(), theirs.get_vocab()
    if family.models.vocabulary == "base":
        other = {token: number for token, number in other.items() if number < len(vocabulary)}
    if vocabulary != other:
        different = sorted(vocabulary.items() ^ other.items(), key=lambda item: (item[1], item[0]))
        token = different[0][0]
        hint = "; `models.vocabulary: base` drops added tokens" if vocabulary.items() <= other.items() else ""
        problems.errors.append(
            f"expert {expert.name}: its tokenizer differs in {len({token for token, _ in different})} tokens; "
            f"first {token!r}: id {other.get(token)}, in the base {vocabulary.get(token)}{hint}"
        )
