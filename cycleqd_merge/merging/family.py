"""An opened base model and its experts: the source of base tensors and task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from mergekit.common import ModelPath, ModelReference
from transformers import PreTrainedModel

from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import ModelError
from cycleqd_merge.files import file_version
from cycleqd_merge.merging.adapter import Adapter, Fit, LowRank
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight, digest_files
from cycleqd_merge.merging.download import adapter_folder
from cycleqd_merge.merging.mergekit_references import model_reference
from cycleqd_merge.merging.missing_files import require_folder
from cycleqd_merge.merging.name_map import NameMap, build_name_map
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer, id_bound, open_tokenizer
from cycleqd_merge.merging.vocabulary import Union, expert_rows

_RESTORE = "restore them, then rerun the command"
ModelDigests = tuple[str, Mapping[str, str]]
"""Of the base model, and of the experts by name."""
TaskVector = torch.Tensor | LowRank
"""tau = expert - base of one tensor, float32: dense, or as low-rank factors."""


@dataclass(frozen=True)
class Whole:
    """An expert's own tensor, in its own dtype."""

    tensor: torch.Tensor

    def task_vector(self, base: torch.Tensor) -> torch.Tensor:
        """tensor - base in float32, with a single copy. base: float32."""
        return torch.sub(self.tensor, base).float()


@dataclass(frozen=True)
class Expert:
    """One expert: a full checkpoint, or an adapter on the base model."""

    name: str
    reference: ModelReference
    weights: Checkpoint | Adapter

    @property
    def folder(self) -> Path:
        """The folder of its files, which may include a tokenizer."""
        return self.weights.path

    @property
    def digest(self) -> str:
        """A digest of its weights."""
        return self.weights.digest


class ModelFamily:
    """Base and experts. Tensors are read on demand; none is kept in memory.

    union: the vocabulary that they have been given (see `united`); None if they are as stored.
    """

    def __init__(
        self, base: Checkpoint, experts: tuple[Expert, ...], models: ModelsConfig, union: Union | None = None
    ) -> None:
        self.base, self.experts, self.models, self.union = base, experts, models, union
        self._versions: dict[str, list[str]] = {}  # of the models' files, when they were last seen to be unchanged

    def require_digests(self, base: str, experts: Mapping[str, str]) -> None:
        """Check that these are the models with the recorded digests.

        Raises:
            ModelError: a model has changed.
        """
        now = {"base": self.base.digest, **{f"experts.{each.name}": each.digest for each in self.experts}}
        recorded = {"base": base, **{f"experts.{name}": digest for name, digest in experts.items()}}
        changed = [
            f"{name}: {recorded.get(name)!r} -> {now.get(name)!r}"
            for name in dict.fromkeys((*recorded, *now))
            if recorded.get(name) != now.get(name)
        ]
        if changed:
            raise ModelError("the models have changed since the run began: " + "; ".join(changed))

    def require_unchanged(self) -> None:
        """Check that the files of the models are those that were opened: tensors are read from them for every child.

        Raises:
            ModelError: one was changed, moved or deleted.
        """
        for label, weights in (("base", self.base), *((f"expert {each.name}", each.weights) for each in self.experts)):
            try:
                versions = [file_version(path) for path in weights.digested]
                seen = not versions or versions == self._versions.get(label)
                if not seen and digest_files(weights.digested) != weights.digest:
                    raise ModelError(f"{label}: its files in {weights.path} changed while they were in use; {_RESTORE}")
            except OSError as error:
                raise ModelError(f"{label}: {error.filename}: {error.strerror}; {_RESTORE}") from error
            self._versions[label] = versions

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All tensors of a merged model, in the base checkpoint's order."""
        return self.base.weights

    @cached_property
    def token_bound(self) -> int | None:
        """One more than the largest id of a token of the base; None without a tokenizer. Ids may have gaps."""
        return id_bound(open_tokenizer(self.base.path, self.models)) if has_tokenizer(self.base.path) else None

    @cached_property
    def _copies(self) -> Mapping[ModelPath, ModelPath]:
        """By the path of a model, that of the copy which is read instead."""
        models = ((self.base.reference, self.base), *((each.reference, each.weights) for each in self.experts))
        return {ref.model: ModelPath(path=str(weights.path)) for ref, weights in models if weights.is_copy}

    @property
    def has_copies(self) -> bool:
        """Whether it reads copies of its models, in the vocabulary of `vocabulary: union`."""
        return bool(self._copies)

    def copy_of(self, reference: ModelReference) -> ModelReference:
        """The reference over the copy of its model, if the family reads one; an adapter has none of its own."""
        return ModelReference(model=self._copies.get(reference.model, reference.model), lora=reference.lora)

    @cached_property
    def stored_names(self) -> Mapping[str, str]:
        """The name of each weight in the base checkpoint, which a merged model keeps."""
        return {weight.name: name for weight in self.weights if (name := self.base.stored_name(weight))}

    def name_map(self, model: PreTrainedModel) -> NameMap:
        """Where the tensors of a merged model are in `model`, by their stored names.

        Raises:
            ModelError: see `build_name_map`.
        """
        return build_name_map(model, {self.stored_names[weight.name]: weight for weight in self.weights})

    def base_tensor(self, weight: Weight) -> torch.Tensor:
        """The base's tensor in its own dtype, shape `weight.shape`."""
        return self.base.read(self.stored_names[weight.name])

    def task_vector(self, expert: int, weight: Weight, base: torch.Tensor) -> TaskVector | None:
        """tau = expert - base in float32 for one tensor, or None where the expert equals the base.

        base: the base's tensor as `base_tensor` gives it.
        """
        difference = self.difference(expert, weight, base)
        return difference.task_vector(base.float()) if isinstance(difference, Whole) else difference

    def fit(self, adapter: Adapter, weight: Weight) -> Fit:
        """What gives an adapter's tensors the rows of the base's vocabulary."""
        if self.union is not None and weight.vocabulary_axis == 0:
            number = next(number for number, expert in enumerate(self.experts) if expert.weights is adapter)
            return partial(_fit_union, number, self.union)
        return lambda tensor, wanted: fit_vocabulary(tensor, weight, wanted, self)

    def difference(self, expert: int, weight: Weight, base: torch.Tensor) -> Whole | TaskVector | None:
        """An expert's contribution to one tensor, as stored: its own tensor, or an adapter's task vector.

        None where the expert equals the base. base: the base's tensor as `base_tensor` gives it.
        """
        if not weight.dtype.is_floating_point:
            return None
        weights = self.experts[expert].weights
        if isinstance(weights, Adapter):
            fit = self.fit(weights, weight)
            vectors = (weights.task_vector(name, base, fit) for name in (weight.name, *weight.aliases))
            return next((vector for vector in vectors if vector is not None), None)
        stored = weights.stored_name(weight)
        if stored is None:
            return None
        tensor = fit_vocabulary(weights.read(stored), weight, base, self)
        same = torch.equal(tensor.float(), base.float()) if tensor.dtype != base.dtype else torch.equal(tensor, base)
        return None if same else Whole(tensor)


def _fit_union(number: int, union: Union, tensor: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A tensor of an adapter with the union's rows; one of other dimensions as it is, which is reported."""
    if tensor.ndim != wanted.ndim or tensor.shape[1:] != wanted.shape[1:]:
        return tensor
    return expert_rows(tensor, number, wanted, 0, union)


def fit_vocabulary(tensor: torch.Tensor, weight: Weight, base: torch.Tensor, family: ModelFamily) -> torch.Tensor:
    """An expert's tensor with as many rows as the base's, where the rows that differ do not matter.

    Rows that an expert has more are dropped under `vocabulary: base`, and if they belong to no token of the base.
    Rows that it has less are the base's if they belong to no token: some tools cut off the padding of a vocabulary.
    Otherwise the tensor is returned as it is.
    """
    axis = weight.vocabulary_axis
    if axis is None or tensor.ndim != base.ndim or tensor.shape[axis] == base.shape[axis]:
        return tensor
    rows, wanted = tensor.shape[axis], base.shape[axis]
    unused = family.token_bound is not None and min(rows, wanted) >= family.token_bound
    if rows > wanted and (unused or family.models.vocabulary == "base"):
        return tensor.narrow(axis, 0, wanted)
    if rows < wanted and unused and tensor.select(axis, 0).shape == base.select(axis, 0).shape:
        dtype = torch.promote_types(tensor.dtype, base.dtype)
        return torch.cat([tensor.to(dtype), base.narrow(axis, rows, wanted - rows).to(dtype)], axis)
    return tensor


def open_family(models: PinnedModels) -> ModelFamily:
    """Open a base model and its experts.

    Raises:
        UserError: a model cannot be opened, see `open_base` and `open_expert`.
    """
    base = open_base(models)
    experts = tuple(open_expert(models, name, base) for name in models.experts)
    return united(ModelFamily(base, experts, models.settings))


def united(family: ModelFamily) -> ModelFamily:
    """The family with its models in one vocabulary, under `vocabulary: union`; else the family itself.

    Raises:
        ModelError: see `unite_models`.
    """
    if family.models.vocabulary != "union":
        return family
    from cycleqd_merge.merging.union_models import unite_models  # tokenizers are slow to import

    models = unite_models(family.base, {expert.name: expert.weights for expert in family.experts}, family.models)
    experts = tuple(replace(expert, weights=models.experts[expert.name]) for expert in family.experts)
    return ModelFamily(models.base, experts, family.models, models.union)


def open_base(models: PinnedModels) -> Checkpoint:
    """Open the base model.

    Raises:
        ModelError: it cannot be opened, or is an adapter.
        HubRefused: it cannot be downloaded.
    """
    reference = model_reference(models.base)
    if reference.lora is not None:
        raise ModelError(f"base: {reference}: the base must be a full model, not an adapter")
    return Checkpoint(reference, models.settings)


def open_expert(models: PinnedModels, name: str, base: Checkpoint) -> Expert:
    """Open the expert of this name: a full model, or an adapter on `base`.

    Raises:
        ModelError: it cannot be opened, or is an adapter on a different base model.
        HubRefused: it cannot be downloaded.
    """
    reference, settings = model_reference(models.experts[name]), models.settings
    if reference.lora is None:
        return Expert(name, reference, Checkpoint(reference, settings))
    if not _same_model(reference.model, base.reference.model):
        raise ModelError(
            f"expert {reference}: its adapter is for {reference.model}, not for the recipe's base {base.reference}"
        )
    label = f"adapter {reference.lora}"
    require_folder(reference.lora, label)
    return Expert(name, reference, Adapter(str(reference.lora), adapter_folder(reference.lora, settings, label), base))


def _same_model(one: ModelPath, other: ModelPath) -> bool:
    """Whether two references are equal, or name the same folder."""
    folders = Path(one.path), Path(other.path)
    return one == other or (all(folder.is_dir() for folder in folders) and folders[0].samefile(folders[1]))
