"""A LoRA adapter on disk, read as task vectors: low-rank factors per base tensor, never merged into a checkpoint.

What counts is what peft runs: base weights with the adapter active. A task vector is low-rank where that is a product
of factors, and dense for tensors saved whole, trained tokens and DoRA.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from safetensors import safe_open

from cycleqd_merge.errors import CycleQDError, ModelError, first_line
from cycleqd_merge.merging.adapter_names import AdapterTensors
from cycleqd_merge.merging.adapter_patterns import is_target, pattern_key
from cycleqd_merge.merging.checkpoint import Checkpoint, digest_files
from cycleqd_merge.merging.file_limits import require_configuration, require_names, require_small_files
from cycleqd_merge.merging.json_files import json_object

_STATED: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("r", int, "a whole number"),
    ("alpha_pattern", (dict, type(None)), "an object of patterns and numbers"),
    ("rank_pattern", (dict, type(None)), "an object of patterns and numbers"),
)
"""Keys of its configuration that peft does not check."""
_LONGEST_PATH = 1000
_PREFIX = "base_model.model."
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # initialisations that subtract from the base weights
_TRAINED = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)"
    r"(\.(?P<adapter>(?!(weight|bias)$)[^.]+))?(\.(?P<end>weight|bias))?"
)
_ROLES = {
    "lora_A": "down",
    "lora_embedding_A": "down",
    "lora_B": "up",
    "lora_embedding_B": "up",
    "lora_magnitude_vector": "magnitude",
    "token_adapter.trainable_tokens_delta": "tokens",
}
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(\.(?P<adapter>[^.]+))?\.(?P<end>[^.]+)")

Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Gives a tensor of one row per token the rows of the base's vocabulary. Called with it and with the base's rows."""


def _as_stored(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The tensor with its own rows."""
    return tensor


@dataclass(frozen=True)
class LowRank:
    """A task vector as a product: scale * left @ right; left (m, r), right (r, n), both float32."""

    left: torch.Tensor
    right: torch.Tensor
    scale: float

    def dense(self) -> torch.Tensor:
        """The product, shape (m, n), float32."""
        return (self.left @ self.right).mul_(self.scale)


class Adapter:
    """A LoRA adapter: which base tensors it changes, and how.

    base: the checkpoint whose tensors it changes, for their names; without it, the adapter's own names are used.

    Raises:
        ModelError: it cannot be opened, or is of a kind that is not a change of weights (other PEFT methods).
    """

    is_copy = False

    def __init__(self, label: str, path: Path, base: Checkpoint | None = None) -> None:
        self.label, self.path = label, path
        file = path / "adapter_model.safetensors"
        if not file.is_file():
            inside = sorted(each.parent.name for each in path.glob("*/adapter_config.json"))
            hint = f"; adapters are in its folders {', '.join(inside)}: name one of them" if inside else ""
            raise ModelError(f"adapter {label}: no adapter_model.safetensors in {path}{hint}")
        try:
            require_small_files(path)
            require_configuration(path / "adapter_config.json")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # unknown keys are reported by `unknown_options`
                self._config = PeftConfig.from_pretrained(str(path))
            stored = safe_open(file, framework="pt")
            require_names(stored.keys())
        except LookupError as error:
            raise ModelError(
                f"adapter {label}: the installed peft does not know the method {error}; update peft"
            ) from error
        except CycleQDError:
            raise
        except Exception as error:  # the files may be anybody's
            raise ModelError(f"adapter {label}: cannot be opened: {first_line(error)}") from error
        if self._config.peft_type is None:
            raise ModelError(f"adapter {label}: adapter_config.json states no `peft_type`; save the adapter again")
        for key, allowed, what in _STATED:
            if hasattr(self._config, key) and not isinstance(getattr(self._config, key), allowed):
                raise ModelError(f"adapter {label}: adapter_config.json: {key} is not {what}; correct the file")
        kind = _other_kind(self._config)
        if kind is not None:
            raise ModelError(f"adapter {label}: {kind} has no low-rank task vector; merge it into a full checkpoint")
        if not stored.keys():
            raise ModelError(f"adapter {label}: adapter_model.safetensors has no tensors; save the adapter again")
        self._file = AdapterTensors(stored, label, base)

    @cached_property
    def _roles(self) -> dict[str, dict[str, str]]:
        """By base tensor name: the keys of the tensors stored for it, by role.

        Roles: the factors `down` and `up`, the `bias` of `up`, the `magnitude` of DoRA's rows, the rows of trained
        `tokens`, and `whole`, which replaces the base tensor. Where peft has stored a tensor twice, the copy that it
        loads counts.
        """
        found: dict[str, dict[str, str]] = {}
        for tensor, role, key in sorted(self._placed(), key=lambda placed: "modules_to_save" in placed[2]):
            found.setdefault(tensor, {}).setdefault(role, key)
        originals = {tensor for tensor, roles in found.items() if tensor.endswith(".original")}
        for original in originals:  # the module without the adapter; the trained copy is stored next to it
            if "whole" not in found.get(original.removesuffix(".original"), {}):
                raise self._unknown(next(iter(found[original].values())))
            del found[original]
        return found

    def _placed(self) -> Iterator[tuple[str, str, str]]:
        """Each stored tensor: the base tensor that it belongs to, its role, and its key."""
        names = set()
        for key in self._file.keys():  # noqa: SIM118 - a safetensors file is not a dict
            name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
            trained, saved = _TRAINED.fullmatch(name), _SAVED.fullmatch(name)
            if trained is not None:
                names.add(trained["adapter"])
                bias = trained["end"] == "bias"
                if bias and trained["kind"] != "lora_B":
                    raise self._unknown(key)
                yield (
                    trained["module"] + (".bias" if bias else ".weight"),
                    "bias" if bias else _ROLES[trained["kind"]],
                    key,
                )
            elif saved is not None:
                names.add(saved["adapter"])
                yield f"{saved['module']}.{saved['end']}", "whole", key
            elif "lora_" in name or "trainable_tokens" in name:
                raise self._unknown(key)
            elif ".original_module." in name:
                yield name.replace(".original_module.", ".") + ".original", "whole", key
            else:
                yield name.replace(".token_adapter.", "."), "whole", key
        names.discard(None)
        if len(names) > 1:
            raise ModelError(
                f"adapter {self.label}: its file has several adapters ({', '.join(sorted(names))}); save one alone"
            )

    def _unknown(self, key: str) -> ModelError:
        return ModelError(
            f"adapter {self.label}: unknown kind of tensor: {key}; merge the adapter into a full checkpoint"
        )

    @property
    def names(self) -> list[str]:
        """Names of the base tensors that the adapter changes."""
        return list(self._roles)

    @property
    def has_plain_keys(self) -> bool:
        """Whether its tensors have the names that peft gives them, without the adapter's or a wrapper's name."""
        keys = [key for roles in self._roles.values() for key in roles.values()]
        named = (_TRAINED.fullmatch(key) for key in keys)
        return not any(match is not None and match["adapter"] for match in named) and all(
            key.startswith(_PREFIX) and ".modules_to_save." not in key for key in keys
        )

    @property
    def unknown_options(self) -> list[str]:
        """Keys set in its configuration that the installed peft does not know."""
        stated = json_object(self.path / "adapter_config.json")
        known = {each.name for each in fields(self._config)} | {"runtime_config"}
        return sorted(key for key, value in stated.items() if value and key not in known)

    def is_linear(self, name: str) -> bool:
        """Whether it changes the base tensor `name` by factors of a linear layer."""
        return ".lora_A." in self._roles[name].get("down", "")

    def shape(self, name: str, like: Sequence[int]) -> tuple[int, ...]:
        """The shape of what it stores for the base tensor `name` (of the product, if factors); like: the base's."""
        roles = self._roles[name]
        if "tokens" in roles:
            rows = self._stored_shape(roles["whole"])[0] if "whole" in roles else like[0]
            return (max(rows, *(token + 1 for token in self._tokens(name))), *like[1:])
        if "down" not in roles or "up" not in roles:
            return self._stored_shape(next(iter(roles.values())))
        up, down = self._stored_shape(roles["up"]), self._stored_shape(roles["down"])
        straight, transposed = (up[0], down[-1]), (down[-1], up[0])
        if "lora_embedding_A" in roles["down"] or (
            straight[1:] != transposed[1:] == tuple(like[1:]) and self.transposed
        ):
            return transposed
        return straight

    def _stored_shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(key).get_shape())

    def rank_of(self, name: str) -> int | None:
        """The rank of its change of the base tensor `name`; None for a change that is not stored as factors alone."""
        roles = self._roles[name]
        if "down" not in roles or "magnitude" in roles or "tokens" in roles:
            return None
        return self._stored_shape(roles["down"])[0]

    @property
    def transposed(self) -> bool:
        """Whether the adapted layers store their weights as input x output."""
        return bool(getattr(self._config, "fan_in_fan_out", False))

    def is_bias(self, name: str) -> bool:
        """Whether it stores the tensor `name` as the bias of a factor (`lora_bias`), and in no other way."""
        return list(self._roles[name]) == ["bias"]

    def adds(self, name: str) -> bool:
        """Whether anything stored for the tensor `name` is not zero."""
        return any(bool(torch.count_nonzero(self._file.get_tensor(key))) for key in self._roles[name].values())

    def replaces(self, name: str) -> bool:
        """Whether it stores the tensor `name` itself, and not only a change of the base's."""
        return "whole" in self._roles.get(name, {})

    def trains_tokens(self, name: str) -> bool:
        """Whether it replaces the rows of some tokens in the base tensor `name`."""
        return "tokens" in self._roles.get(name, {})

    def loads_head(self, head: str) -> bool:
        """Whether peft loads the factors stored for `head`, the output layer of a base that ties its embeddings.

        With `ensure_weight_tying`, the output layer is not among the targets: peft adds it, for some names of layers.
        """
        if "down" not in self._roles.get(head, {}):
            return True
        targets, module = self._config.target_modules, head.rpartition(".")[0]
        if is_target(self._config, module):
            return True
        leaves = EMBEDDING_LAYER_NAMES if isinstance(targets, str) else {each.split(".")[-1] for each in targets or ()}
        return self._config.ensure_weight_tying and not set(EMBEDDING_LAYER_NAMES).isdisjoint(leaves)

    def task_vector(self, name: str, base: torch.Tensor, fit: Fit = _as_stored) -> torch.Tensor | LowRank | None:
        """The adapter's task vector at the base tensor `name`, float32: factors, a dense difference, or None.

        base: the base tensor, shape (m, n). fit: gives them the rows of the base's vocabulary.

        Raises:
            ModelError: the adapter's tensors do not have the base tensor's shape.
        """
        roles = self._roles.get(name)
        if roles is None:
            return None
        difference = self._difference(name, roles, base, fit)
        if "down" not in roles and "up" not in roles:
            if "magnitude" in roles:
                raise self._unknown(roles["magnitude"])
            return difference
        factors, transposed = self._factors(name, roles, base, fit)
        if "magnitude" in roles:
            start = base.float() if difference is None else base.float() + difference
            magnitude = self._file.get_tensor(roles["magnitude"]).float()
            return self._dora(name, start + factors.dense(), magnitude, transposed, fit) - base.float()
        return factors if difference is None else difference + factors.dense()

    def _difference(self, name: str, roles: dict[str, str], base: torch.Tensor, fit: Fit) -> torch.Tensor | None:
        """The part without factors: a tensor saved whole (peft saves an adapted embedding's too), a factor's bias, or
        the rows of trained tokens.
        """
        if "tokens" in roles:
            whole = fit(self._file.get_tensor(roles["whole"]).float(), base) if "whole" in roles else base.float()
            difference = self._fitted(name, self._with_tokens(name, roles["tokens"], whole), base, fit) - base.float()
            return difference if torch.count_nonzero(difference) else None
        keys = [roles[role] for role in ("whole", "bias") if role in roles]
        if not keys:
            return None
        difference = torch.zeros(base.shape)
        for key in keys:
            tensor = self._fitted(name, self._file.get_tensor(key).float(), base, fit)
            difference += tensor - base.float() if key == roles.get("whole") else tensor * self._bias_scale(name)
        return difference if torch.count_nonzero(difference) else None

    def _fitted(self, name: str, tensor: torch.Tensor, base: torch.Tensor, fit: Fit) -> torch.Tensor:
        """The tensor cut to the base's vocabulary; it must have the base's shape then."""
        fitted = fit(tensor, base.float())
        if fitted.shape != base.shape:
            raise self._misshapen(name, tuple(tensor.shape), tuple(base.shape))
        return fitted

    def _misshapen(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> ModelError:
        return ModelError(f"adapter {self.label}: {name} has shape {found}; the base has {wanted}")

    def _with_tokens(self, name: str, key: str, whole: torch.Tensor) -> torch.Tensor:
        """`whole` with the rows of the trained tokens replaced, longer where a token is beyond its rows."""
        rows, tokens = self._file.get_tensor(key).float(), self._tokens(name)
        if len(tokens) != rows.shape[0]:
            raise ModelError(
                f"adapter {self.label}: {key} has {rows.shape[0]} rows; `trainable_token_indices` in its configuration "
                f"has {len(tokens)}; correct the file"
            )
        more = max(0, max(tokens) + 1 - whole.shape[0])
        return torch.nn.functional.pad(whole, (0, 0, 0, more)).index_copy(0, torch.tensor(tokens), rows)

    def _tokens(self, name: str) -> list[int]:
        """The trained tokens of an embedding, in the order of their rows."""
        stated, module = self._config.trainable_token_indices, name.removesuffix(".weight")
        if isinstance(stated, dict):
            stated = next((ids for each, ids in stated.items() if f".{module}".endswith(f".{each}")), None)
        return list(stated or ())

    def _factors(self, name: str, roles: dict[str, str], base: torch.Tensor, fit: Fit) -> tuple[LowRank, bool]:
        """The factors, and whether the layer stores its weight as input x output."""
        missing = next((role for role in ("down", "up") if role not in roles), None)
        if missing is not None:
            raise ModelError(f"adapter {self.label}: {name}: one of its two factors is missing; save the adapter again")
        down, up = (self._file.get_tensor(roles[role]).float() for role in ("down", "up"))
        if down.ndim != 2 or up.ndim != 2 or 0 in (*down.shape, *up.shape):
            raise ModelError(
                f"adapter {self.label}: {name}: factors of shape {tuple(up.shape)} and {tuple(down.shape)} are not "
                "those of a linear layer or an embedding; merge the adapter into a full checkpoint"
            )
        scale = self._scale(name, down.shape[0])
        embedding = "lora_embedding_A" in roles["down"]
        if embedding and "magnitude" in roles:
            raise ModelError(f"adapter {self.label}: {name}: DoRA of an embedding; merge it into a full checkpoint")
        preferred = self.transposed or embedding
        for transposed in (preferred, not preferred):
            left, right = (down.T.contiguous(), up.T.contiguous()) if transposed else (up, down)
            left = fit(left, left.new_zeros(base.shape[0], left.shape[1]))
            if (left.shape[0], right.shape[1]) == tuple(base.shape):
                if left.shape[1] != right.shape[0]:
                    raise ModelError(
                        f"adapter {self.label}: {name}: factors of shape {tuple(up.shape)} and {tuple(down.shape)} "
                        "have no product; save the adapter again"
                    )
                return LowRank(left, right, scale), transposed
        raise self._misshapen(name, self.shape(name, base.shape), tuple(base.shape))

    def _dora(
        self, name: str, weight: torch.Tensor, magnitude: torch.Tensor, transposed: bool, fit: Fit
    ) -> torch.Tensor:
        """The weight with the norm of each output's row (column, if transposed) set to its magnitude."""
        axis = 0 if transposed else 1
        norms = torch.linalg.norm(weight, dim=axis)
        magnitude = fit(magnitude, norms)
        if magnitude.shape != norms.shape:
            raise self._misshapen(f"{name} (magnitude)", tuple(magnitude.shape), tuple(norms.shape))
        return weight * (magnitude / norms).unsqueeze(axis)

    def _bias_scale(self, name: str) -> float:
        """The scale of the factors that the bias `name` belongs to."""
        weight = name.removesuffix("bias") + "weight"
        return self._scale(weight, self._stored_shape(self._roles[weight]["down"])[0])

    def _scale(self, name: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, with alpha and r by the adapter's patterns."""
        module = self._file.module(name)
        alpha, stated = (
            (patterns or {}).get(pattern_key(tuple(patterns or {}), module), default)
            for patterns, default in (
                (self._config.alpha_pattern, self._config.lora_alpha),
                (self._config.rank_pattern, self._config.r),
            )
        )
        if stated != rank or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ModelError(
                f"adapter {self.label}: {name}: factors of rank {rank}; adapter_config.json states rank {stated} and "
                f"alpha {alpha}, so the scale is unknown; correct the file"
            )
        return float(alpha) / (rank**0.5 if self._config.use_rslora else rank)

    @property
    def recorded_base(self) -> str | None:
        """The base model in its configuration: a Hub id, or a path on the machine that trained it; None without one.

        It is only compared with the recipe's base, never opened.
        """
        name = self._config.base_model_name_or_path
        return name if isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_PATH else None

    @property
    def files(self) -> list[Path]:
        """Its safetensors files."""
        return [self.path / "adapter_model.safetensors"]

    @property
    def rank(self) -> int:
        """The rank in its configuration; individual tensors may have a different one."""
        return int(self._config.r)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the adapter's weights and configuration."""
        return digest_files(self.digested)

    @property
    def digested(self) -> list[Path]:
        """The files that `digest` covers."""
        return [self.path / "adapter_config.json", self.path / "adapter_model.safetensors"]


def _other_kind(config: PeftConfig) -> str | None:
    """The kind of an adapter that does not change weights by factors, whole tensors, rows or magnitudes; else None."""
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    if kind != "LORA":
        return kind
    assert isinstance(config, LoraConfig)
    variants = [field.name for field in fields(config) if field.metadata.get("is_lora_variant")]
    others = (*variants, "use_qalora", "alora_invocation_tokens", "layer_replication", "megatron_config")
    other = next((name for name in others if name != "use_dora" and getattr(config, name, None)), None)
    if other is not None:
        return f"LoRA with `{other}`"
    start = str(config.init_lora_weights).lower()
    return f"LoRA initialised with `{start}`" if start.startswith(_CHANGES_BASE) else None
