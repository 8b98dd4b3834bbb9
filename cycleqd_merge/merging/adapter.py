"""A LoRA adapter on disk, read as task vectors: low-rank factors per base tensor, never merged into a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.checkpoint import digest_files

_PREFIX = "base_model.model."
_DOWN, _UP = ("lora_A.weight", "lora_embedding_A"), ("lora_B.weight", "lora_embedding_B")


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

    Raises:
        UserError: it cannot be opened, or is of a kind that has no low-rank factors (DoRA, other PEFT methods).
    """

    def __init__(self, label: str, path: Path) -> None:
        self.label, self.path = label, path
        file = path / "adapter_model.safetensors"
        if not file.is_file():
            raise UserError(f"adapter {label}: no adapter_model.safetensors in {path}")
        try:
            self._config = PeftConfig.from_pretrained(str(path))
            self._file = safe_open(file, framework="pt")
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UserError(f"adapter {label}: cannot be opened: {str(error).splitlines()[0]}") from error
        kind = getattr(self._config.peft_type, "value", str(self._config.peft_type))
        if kind != "LORA" or self._config.use_dora:
            kind = "DoRA" if kind == "LORA" else kind
            raise UserError(f"adapter {label}: {kind} has no low-rank task vector; merge it into a full checkpoint")

    @cached_property
    def _keys(self) -> dict[str, tuple[str, ...]]:
        """Base tensor name -> (down key, up key) of its factors, or the one key that replaces it."""
        found: dict[str, dict[str, str]] = {}
        for key in self._file.keys():  # noqa: SIM118 - a safetensors file is no dict
            name = key.removeprefix(_PREFIX)
            for role, endings in (("down", _DOWN), ("up", _UP), ("bias", ("lora_B.bias",))):
                ending = next((ending for ending in endings if name.endswith("." + ending)), None)
                if ending is not None:
                    tensor = name.removesuffix(ending) + ("bias" if role == "bias" else "weight")
                    found.setdefault(tensor, {})[role] = key
                    break
            else:
                if "lora_" in name:
                    raise UserError(f"adapter {self.label}: tensor {key} is not understood; merge the adapter first")
                found.setdefault(name.replace(".modules_to_save.", "."), {})["whole"] = key
        return {
            name: (roles["down"], roles["up"]) if "down" in roles else tuple(roles.values())
            for name, roles in found.items()
        }

    @property
    def names(self) -> list[str]:
        """Names of the base tensors that the adapter changes."""
        return list(self._keys)

    def task_vector(self, name: str, base: torch.Tensor) -> torch.Tensor | LowRank | None:
        """What the adapter adds to the base tensor `name` (float32): factors, a dense difference, or None."""
        keys = self._keys.get(name)
        if keys is None:
            return None
        if len(keys) == 2:
            return self._factors(name, keys, base)
        tensor = self._file.get_tensor(keys[0]).float()
        if keys[0].endswith("lora_B.bias"):
            return tensor * self._scale(name, self._rank(name))
        if tensor.shape != base.shape:
            raise UserError(
                f"adapter {self.label}: {name} has shape {tuple(tensor.shape)}, the base {tuple(base.shape)}"
            )
        return tensor - base.float()

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
            raise UserError(
                f"adapter {self.label}: {name} has shape {(up.shape[0], down.shape[1])}, the base {tuple(base.shape)}"
            )
        return factors

    def _rank(self, name: str) -> int:
        keys = self._keys[name.removesuffix("bias") + "weight"]
        return int(self._file.get_tensor(keys[0]).shape[0])

    def _scale(self, name: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, with alpha by the adapter's patterns."""
        patterns = self._config.alpha_pattern or {}
        module = name.rsplit(".", 1)[0]
        alpha = patterns.get(get_pattern_key(patterns.keys(), module), self._config.lora_alpha)
        return float(alpha) / (rank**0.5 if self._config.use_rslora else rank)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the adapter's weights and configuration."""
        return digest_files([self.path / "adapter_config.json", self.path / "adapter_model.safetensors"])
