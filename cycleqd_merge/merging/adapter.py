"""A LoRA adapter on disk, read as task vectors: low-rank factors per base tensor, never merged into a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open

from cycleqd_merge.errors import ModelError, first_line
from cycleqd_merge.merging.adapter_names import AdapterTensors
from cycleqd_merge.merging.checkpoint import Checkpoint, digest_files

_PREFIX = "base_model.model."
_ENDINGS = {
    "down": ("lora_A.weight", "lora_embedding_A"),
    "up": ("lora_B.weight", "lora_embedding_B"),
    "bias": ("lora_B.bias",),
}
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # initialisations that subtract from the base weights


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
        ModelError: it cannot be opened, or is of a kind without low-rank factors (DoRA, other PEFT methods).
    """

    def __init__(self, label: str, path: Path, base: Checkpoint | None = None) -> None:
        self.label, self.path = label, path
        file = path / "adapter_model.safetensors"
        if not file.is_file():
            raise ModelError(f"adapter {label}: no adapter_model.safetensors in {path}")
        try:
            self._config = PeftConfig.from_pretrained(str(path))
            self._file = AdapterTensors(safe_open(file, framework="pt"), label, base)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ModelError(f"adapter {label}: cannot be opened: {first_line(error)}") from error
        kind = _other_kind(self._config)
        if kind is not None:
            raise ModelError(f"adapter {label}: {kind} has no low-rank task vector; merge it into a full checkpoint")

    @cached_property
    def _roles(self) -> dict[str, dict[str, str]]:
        """By base tensor name: the keys of the tensors stored for it, by role.

        Roles: the factors `down` and `up`, the `bias` of `up`, and `whole`, which replaces the base tensor.
        """
        found: dict[str, dict[str, str]] = {}
        for key in self._file.keys():  # noqa: SIM118 - not a dict
            tensor, role = self._place(key)
            found.setdefault(tensor, {})[role] = key
        return found

    def _place(self, key: str) -> tuple[str, str]:
        """The base tensor that a stored tensor belongs to, and its role."""
        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        for role, endings in _ENDINGS.items():
            ending = next((ending for ending in endings if name.endswith("." + ending)), None)
            if ending is not None:
                return name.removesuffix(ending) + ("bias" if role == "bias" else "weight"), role
        if "lora_" in name:
            raise ModelError(
                f"adapter {self.label}: unknown kind of tensor: {key}; merge the adapter into a full checkpoint"
            )
        return name.replace(".modules_to_save.", "."), "whole"

    @property
    def names(self) -> list[str]:
        """Names of the base tensors that the adapter changes."""
        return list(self._roles)

    def is_linear(self, name: str) -> bool:
        """Whether it changes the base tensor `name` by factors of a linear layer."""
        return self._roles[name].get("down", "").endswith("lora_A.weight")

    @property
    def transposed(self) -> bool:
        """Whether the adapted layers store their weights as input x output."""
        return bool(getattr(self._config, "fan_in_fan_out", False))

    def task_vector(self, name: str, base: torch.Tensor) -> torch.Tensor | LowRank | None:
        """The adapter's task vector at the base tensor `name`, float32: factors, a dense difference, or None.

        base: the base tensor, shape (m, n).

        Raises:
            ModelError: the adapter's tensors do not have the base tensor's shape.
        """
        roles = self._roles.get(name)
        if roles is None:
            return None
        difference = self._difference(name, roles, base)
        if "down" not in roles:
            return difference
        factors = self._factors(name, (roles["down"], roles["up"]), base)
        return factors if difference is None else difference + factors.dense()

    def _difference(self, name: str, roles: dict[str, str], base: torch.Tensor) -> torch.Tensor | None:
        """The part without factors: a whole tensor (peft saves an adapted embedding's too), or a factor's bias."""
        keys = [roles[role] for role in ("whole", "bias") if role in roles]
        if not keys:
            return None
        difference = torch.zeros(base.shape)
        for key in keys:
            tensor = self._file.get_tensor(key).float()
            if tensor.shape != base.shape:
                raise ModelError(
                    f"adapter {self.label}: {name} has shape {tuple(tensor.shape)}; the base has {tuple(base.shape)}"
                )
            difference += tensor - base.float() if key == roles.get("whole") else tensor * self._bias_scale(name)
        return difference if torch.count_nonzero(difference) else None

    def _factors(self, name: str, keys: tuple[str, ...], base: torch.Tensor) -> LowRank:
        down, up = (self._file.get_tensor(key).float() for key in keys)
        scale = self._scale(name, down.shape[0])
        transposed = getattr(self._config, "fan_in_fan_out", False) or keys[0].endswith("lora_embedding_A")
        if transposed or (up.shape[0], down.shape[1]) != tuple(base.shape):
            factors = LowRank(down.T.contiguous(), up.T.contiguous(), scale)
        else:
            factors = LowRank(up, down, scale)
        shape = (factors.left.shape[0], factors.right.shape[1])
        if shape != tuple(base.shape):
            found = (up.shape[0], down.shape[1])
            raise ModelError(f"adapter {self.label}: {name} has shape {found}; the base has {tuple(base.shape)}")
        return factors

    def _bias_scale(self, name: str) -> float:
        """The scale of the factors that the bias `name` belongs to."""
        weight = name.removesuffix("bias") + "weight"
        return self._scale(weight, int(self._file.get_tensor(self._roles[weight]["down"]).shape[0]))

    def _scale(self, name: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, with alpha by the adapter's patterns."""
        patterns = self._config.alpha_pattern or {}
        module = self._file.module(name)
        alpha = patterns.get(get_pattern_key(list(patterns), module), self._config.lora_alpha)
        return float(alpha) / (rank**0.5 if self._config.use_rslora else rank)

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
        return digest_files([self.path / "adapter_config.json", self.path / "adapter_model.safetensors"])


def _other_kind(config: PeftConfig) -> str | None:
    """The kind of an adapter that is not base + scale * up @ down; None if it is."""
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    if kind != "LORA":
        return kind
    assert isinstance(config, LoraConfig)
    if config.use_dora:
        return "DoRA"
    variants = [field.name for field in fields(config) if field.metadata.get("is_lora_variant")]
    variant = next((name for name in variants if getattr(config, name)), None)
    if variant is not None:
        return f"LoRA with `{variant}`"
    start = str(config.init_lora_weights).lower()
    return f"LoRA initialised with `{start}`" if start.startswith(_CHANGES_BASE) else None
