"""Check that base and experts can be merged, before anything is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import ModelError, UserError
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.adapter_checks import check_adapter
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.config_differences import config_differences
from cycleqd_merge.merging.end_tokens import end_token_differences, end_tokens
from cycleqd_merge.merging.family import Expert, ModelFamily, fit_vocabulary
from cycleqd_merge.merging.recorded_base import other_base
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer, id_bound
from cycleqd_merge.merging.tokenizers import load_tokenizer
from cycleqd_merge.merging.vocabulary import Vocabulary, is_joinable

_LISTED = 4  # tensors that are reported one by one


@dataclass
class Problems:
    """The results of checks. `errors` prevent a run; `notices` are only reported."""

    errors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def check_family(family: ModelFamily) -> Problems:
    """Run all checks on a family; every error names the model, the tensor and both values."""
    problems = Problems()
    _check_module(family.base, problems)
    placed = not problems.errors
    for expert in family.experts:
        if isinstance(expert.weights, Checkpoint):
            _check_configuration(family.base, expert.weights, expert.name, problems)
            if placed and _check_readable(expert.weights, problems):
                _check_names(family, expert.weights, expert.name, problems)
        else:
            try:
                errors, notices = check_adapter(family, expert.weights)
            except ModelError as error:
                errors, notices = [str(error)], []
            if (recorded := other_base(expert.weights, family.base)) is not None:
                what = f"its adapter was trained on {recorded}, the recipe's base is {family.base.reference}"
                notices.append(f"{what}; check that they are the same model")
            problems.errors.extend(f"expert {expert.name}: {error}" for error in errors)
            problems.notices.extend(f"expert {expert.name}: {notice}" for notice in notices)
        _check_tokenizer(family, expert, problems)
    _check_end_tokens(family, problems)
    if family.union is not None:
        problems.notices.extend(family.union.notices)
    if not problems.errors and (family.union is not None or family.models.vocabulary != "union"):
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


def _check_configuration(base: Checkpoint, expert: Checkpoint, name: str, problems: Problems) -> None:
    """Check that both are models of one class, and compare their configurations."""
    ours, theirs = base.config.architectures, expert.config.architectures
    if ours != theirs:
        problems.errors.append(f"expert {name}: architecture {theirs}, the base has {ours}")
        return
    if base.config.model_type != expert.config.model_type:
        kinds = f"model type {expert.config.model_type!r}, the base has {base.config.model_type!r}"
        problems.errors.append(f"expert {name}: {kinds}")
        return
    for difference in config_differences(base.config, expert.config):
        (problems.errors if difference.error else problems.notices).append(difference.line(name))


def _check_readable(expert: Checkpoint, problems: Problems) -> bool:
    """Check that every tensor of an expert can be read; the scales of quantised ones would be reported as unknown."""
    try:
        for name in expert.names:
            expert.read(name)
    except ModelError as error:
        problems.errors.append(str(error))
        return False
    return True


def _check_names(family: ModelFamily, expert: Checkpoint, name: str, problems: Problems) -> None:
    """Check that the expert has the base's tensors and no others, except for those that transformers does not load."""
    places = {weight.name: expert.stored_name(weight) for weight in family.weights}
    missing = [weight for weight, place in places.items() if place is None]
    known = {stored for weight in family.weights for stored in (weight.name, *weight.aliases)}
    extra = [stored for stored in expert.names if stored not in known and stored not in places.values()]
    prefix = _wrong_prefix(missing, extra)
    if prefix is not None:
        problems.errors.append(
            f"expert {name}: its tensor names begin with {prefix!r}, so transformers does not load them; "
            "rename the tensors without it"
        )
        return
    _report_tensors(name, missing, "missing; the base has {}", problems)
    left_out = family.base.left_out({stored: expert.read(stored) for stored in extra})
    extra = [stored for stored in extra if stored not in left_out]
    tied = {stored: other for stored in extra if (other := family.base.tied.get(stored)) is not None}
    for stored, other in tied.items():
        kept = places.get(other)
        if kept is not None and not torch.equal(expert.read(stored), expert.read(kept)):
            problems.notices.append(f"expert {name}: {stored} is ignored: in the base, it is tied to {other}")
    _report_tensors(name, [stored for stored in extra if stored not in tied], "not in the base", problems)


def _wrong_prefix(missing: Sequence[str], extra: Sequence[str]) -> str | None:
    """What the extra names have in front of the missing ones, such as `module.`; None unless that explains them all."""
    if not missing:
        return None
    first = missing[0]
    prefixes = {stored.removesuffix(first) for stored in extra if stored.endswith(f".{first}")}
    return next((prefix for prefix in prefixes if all(prefix + each in extra for each in missing)), None)


def _report_tensors(expert: str, tensors: Sequence[str], what: str, problems: Problems) -> None:
    """One error for each of a few tensors, or one for all of them."""
    if len(tensors) <= _LISTED:
        problems.errors.extend(f"expert {expert}: tensor {each} is {what.format('it')}" for each in tensors)
    else:
        problems.errors.append(
            f"expert {expert}: {len(tensors)} tensors are {what.format('them')}; the first is {tensors[0]}"
        )


def _check_values(family: ModelFamily, problems: Problems) -> None:
    """One pass over all tensors: shapes, dtypes, finite values, and task vectors that are not all zero."""
    differs = [False] * len(family.experts)
    cast: dict[tuple[str, str, str], int] = {}
    unmerged: dict[str, list[str]] = {}
    for weight in family.weights:
        base = family.base_tensor(weight)
        if not _finite(base):
            problems.errors.append(f"base: tensor {weight.name} contains NaN or infinite values")
            continue
        for number, expert in enumerate(family.experts):
            if isinstance(expert.weights, Checkpoint):
                tensor = expert.weights.read(expert.weights.stored_name(weight) or weight.name)
                if not _same_form(family, weight, base, tensor, expert, problems):
                    continue
                if tensor.dtype != weight.dtype:
                    key = (expert.name, _short(tensor.dtype), _short(weight.dtype))
                    cast[key] = cast.get(key, 0) + 1
            try:
                vector = family.task_vector(number, weight, base)
            except UserError as error:
                unmerged.setdefault(expert.name, []).append(str(error))
                continue
            if vector is None:
                continue
            parts = (vector.left, vector.right) if isinstance(vector, LowRank) else (vector,)
            if not all(_finite(part) for part in parts):
                problems.errors.append(f"expert {expert.name}: tensor {weight.name} contains NaN or infinite values")
            scaled = not isinstance(vector, LowRank) or vector.scale != 0
            differs[number] |= scaled and all(bool(torch.count_nonzero(part)) for part in parts)
    for name, errors in unmerged.items():
        more = f" (the first of {len(errors)} tensors with an error)" if len(errors) > 1 else ""
        problems.errors.append(f"expert {name}: {errors[0]}{more}")
    problems.notices.extend(
        f"expert {name}: {count} tensors are cast from {theirs} to the base's {ours}"
        for (name, theirs, ours), count in cast.items()
    )
    problems.errors.extend(
        f"expert {expert.name}: its task vector is zero, so it is the base model itself; choose a different expert"
        for expert, different in zip(family.experts, differs, strict=True)
        if not different and not problems.errors
    )


def _same_form(
    family: ModelFamily, weight: Weight, base: torch.Tensor, tensor: torch.Tensor, expert: Expert, problems: Problems
) -> bool:
    """Whether an expert's tensor can be merged into the base's; reports why not, or which rows are not merged."""
    axis, name = weight.vocabulary_axis, expert.name
    fitted = fit_vocabulary(tensor, weight, base, family)
    if fitted.numel() < tensor.numel() and family.models.vocabulary == "strict" and not has_tokenizer(expert.folder):
        fitted = tensor  # nothing says that the added rows belong to no token
    if tuple(fitted.shape) == weight.shape:
        added = 0 if axis is None else tensor.shape[axis] - weight.shape[axis]
        if added > 0:
            problems.notices.append(f"expert {name}: {weight.name}: {added} rows beyond the base's vocabulary dropped")
        elif added < 0:
            rows = f"{-added} rows that belong to no token are missing"
            problems.notices.append(f"expert {name}: {weight.name}: {rows}; the base's are used")
        return True
    if axis is not None and tensor.ndim == len(weight.shape) and tensor.shape[axis] != weight.shape[axis]:
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


def _check_end_tokens(family: ModelFamily, problems: Problems) -> None:
    """What ends an answer, where base, experts and children differ in it."""
    if not has_tokenizer(family.base.path):
        return
    try:
        found = end_tokens(family)
        problems.notices += [*found.notices, *end_token_differences(family, found)]
    except UserError as error:
        if not problems.errors:  # a tokenizer that cannot be loaded has been reported
            problems.errors.append(str(error))


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
    if family.models.vocabulary == "union":  # `united` has compared them
        return
    vocabulary, other = ours.get_vocab(), theirs.get_vocab()
    if family.models.vocabulary == "base":
        other = {token: number for token, number in other.items() if number < id_bound(ours)}
    if vocabulary != other:
        different = sorted(vocabulary.items() ^ other.items(), key=lambda item: (item[1], item[0]))
        token, count = different[0][0], len({token for token, _ in different})
        hint = {
            (True, True): "; `models.vocabulary: union` keeps added tokens, `base` drops them",
            (True, False): "; `models.vocabulary: union` keeps added tokens",
            (False, True): "; `models.vocabulary: base` drops added tokens",
            (False, False): "",
        }[_is_joinable(ours, theirs), vocabulary.items() <= other.items()]
        problems.errors.append(
            f"expert {expert.name}: its tokenizer differs in {count} token{'s' if count > 1 else ''}; "
            f"first {token!r}: id {other.get(token)}, in the base {vocabulary.get(token)}{hint}"
        )


def _is_joinable(base: PreTrainedTokenizerBase, expert: PreTrainedTokenizerBase) -> bool:
    """Whether `models.vocabulary: union` accepts an expert's tokenizer."""
    ours, theirs = (
        Vocabulary("", each.get_vocab(), {str(token): {} for token in each.added_tokens_decoder.values()}, rows=0)
        for each in (base, expert)
    )
    return is_joinable(ours, theirs)
