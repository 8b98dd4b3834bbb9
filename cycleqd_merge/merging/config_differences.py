"""Differences between the configurations of base and expert that change what the same weights compute.

A child is saved and run with the base's configuration. Loaded configurations are compared, not files: transformers
fills in defaults and rewrites old keys (`rope_theta`, `rope_scaling`), so old and new files of one model are equal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

# Keys of every configuration: they describe how a model is handled, not what it computes.
_COMMON = frozenset(PretrainedConfig().to_dict())
# More keys without an effect on a forward pass: training, generation, records of tools. The vocabulary's size, tied
# embeddings and the number of positions show in the tensors, end tokens in the tokenizers.
_NO_EFFECT = re.compile(
    r"^_|_token_ids?$|_token_index$|dropout|pdrop|drop_path|initializer|init_std|_loss|^aux_|^seq_aux$|jitter|_version$"
    r"|^use_cache$|^auto_map$|^torch_dtype$|^vocab_size$|^tie_word_embeddings$|^pretraining_tp$|^ep_size$"
    r"|^(original_)?max_position_embeddings$|^n_positions$|^n_ctx$|^max_(seq|sequence)_len(gth)?$|^seq_length$"
    r"|^model_max_length$|^tokenizer_class$|^task_specific_params$|^summary_|^output_|^gradient_|^quantization_config$"
    r"|^num_(nextn_predict|mtp)_layers$|^time_step_(min|max|floor|rank)$|^rescale_prenorm_residual$|attn_implementation$"
    r"|flash_attn|^do_sample$|^temperature$|^top_[kp]$|^max_(new_tokens|length)$|^min_length$|penalty$|^num_beams$"
    r"|^transformers_weights$|^unsloth|^use_mambapy$|^chunk_size$|^is_encoder_decoder$"
)
# Keys that fine-tuning changes on purpose, above all for longer contexts: models that differ in them are merged.
_TUNED = re.compile(
    r"(^|\.)(rope_(parameters|scaling)\.(?!.*partial_rotary_factor).*|rope_(parameters|scaling|theta|local_base_freq)"
    r"|rotary_(emb_)?base|attention_factor|attention_chunk_size|attn_temperature_tuning"
    r"|\w*sliding_window\w*|\w*window_(layers|size)|layer_types|\w*softcap(ping)?|\w*(per_tok|topk|top_k))$"
)
_EPSILON = re.compile(r"(^|[._])eps(ilon)?$")
_SMALL_EPSILON = 1e-4
"""Norms whose epsilons are at most this differ by little more than rounding."""
_ACTIVATION = re.compile(r"(^|[._])act(ivation)?(_function|_fn)?$")
_SIMILAR_ACTIVATION = 1e-2
"""Approximations of one activation differ by less, different activations by more."""
_SAME_ACTIVATION = 1e-5
_LEGACY = re.compile(r"^rope_parameters\.(.*\.)?type$")
"""transformers keeps the old key next to `rope_type`."""
_ABSENT = object()
_NOT_SET = "not set"

_NULL_MEANS: Mapping[str, Callable[[PretrainedConfig], Any]] = {
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "n_inner": lambda config: 4 * config.hidden_size,
}
"""The value that architectures compute for a key that is null, so that a file that states it is equal."""


@dataclass(frozen=True)
class ConfigDifference:
    """A key, dotted if it is nested, whose values differ.

    error: whether the expert's weights compute something else under the base's value, and no fine-tuning changes it.
    """

    key: str
    base: str
    expert: str
    error: bool

    def line(self, expert: str) -> str:
        """The error or notice about the expert of this name."""
        ours = "it is not set in the base" if self.base == _NOT_SET else f"the base has {self.base}"
        values = f"expert {expert}: config.json: {self.key} is {self.expert}; {ours}"
        if self.error:
            return f"{values}, with which the expert's weights compute something else; choose a different expert"
        return f"{values}; the child uses the base's value"


@dataclass(frozen=True)
class _Value:
    """A configuration's value. declared: whether its architecture defines the key."""

    value: Any
    declared: bool


def config_differences(base: PretrainedConfig, expert: PretrainedConfig) -> list[ConfigDifference]:
    """The keys that can change a forward pass and differ, in the order of the base's."""
    ours, theirs = dict(_values(base)), dict(_values(expert))
    found = []
    for key in dict.fromkeys((*ours, *theirs)):
        mine, other = _value(ours, key), _value(theirs, key)
        if not _same(mine.value, other.value) and not _same_activation(key, mine.value, other.value, _SAME_ACTIVATION):
            error = mine.declared and other.declared and not _harmless(key, mine.value, other.value)
            entry, (one, two) = _first_difference(mine.value, other.value)
            found.append(ConfigDifference(f"{key}{entry}", _shown(one), _shown(two), error))
    return found


def _value(values: Mapping[str, _Value], key: str) -> _Value:
    """A key's value; an absent one belongs to the architecture if the dict around it does."""
    around = key.rpartition(".")[0]
    inside = bool(around) and any(other.startswith(f"{around}.") and values[other].declared for other in values)
    return values.get(key, _Value(_ABSENT, declared=inside))


def _values(config: PretrainedConfig, prefix: str = "") -> Iterator[tuple[str, _Value]]:
    """The keys that can change a forward pass, with their values; those of nested configurations are dotted."""
    kind = type(config)
    parameters = inspect.signature(kind.__init__).parameters
    for key, value in config.to_dict().items():
        if key in _COMMON or _NO_EFFECT.search(key):
            continue
        nested = getattr(config, key, None)
        if isinstance(nested, PretrainedConfig):
            yield from _values(nested, f"{prefix}{key}.")
            continue
        if value is None and key in _NULL_MEANS:
            value = _computed(config, key)
        declared = hasattr(kind, key) or key in parameters
        for name, leaf in _leaves(f"{prefix}{key}", value):
            if not _LEGACY.search(name):
                yield name, _Value(leaf, declared)


def _computed(config: PretrainedConfig, key: str) -> Any:
    try:
        return _NULL_MEANS[key](config)
    except (AttributeError, TypeError, ZeroDivisionError):  # it has no such sizes
        return None


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a dict of any depth with dotted names; any other value by itself."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def _same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN, a tuple a list, and an absent key one that is null or empty."""
    if one is _ABSENT or other is _ABSENT:
        value = other if one is _ABSENT else one
        return value is None or value is False or value in ({}, [], ())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _harmless(key: str, base: Any, expert: Any) -> bool:
    """Whether fine-tuning changes this key, or the change is close to rounding."""
    if _EPSILON.search(key):
        return all(isinstance(value, float) and 0 <= value <= _SMALL_EPSILON for value in (base, expert))
    return bool(_TUNED.search(key)) or _same_activation(key, base, expert, _SIMILAR_ACTIVATION)


def _same_activation(key: str, base: Any, expert: Any, most: float) -> bool:
    """Whether two names of activations are functions that differ by at most `most` (`silu` and `swish` are one)."""
    if not _ACTIVATION.search(key) or not {base, expert} <= set(ACT2FN):
        return False
    grid = torch.linspace(-8, 8, 161)
    with torch.no_grad():
        return bool((ACT2FN[base](grid) - ACT2FN[expert](grid)).abs().max() <= most)


def _first_difference(one: Any, other: Any) -> tuple[str, tuple[Any, Any]]:
    """Of two lists of one length, the index and values of the first entries that differ; else the values themselves."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        number, values = next((n, pair) for n, pair in enumerate(zip(one, other, strict=True)) if not _same(*pair))
        return f"[{number}]", values
    return "", (one, other)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return _NOT_SET
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
