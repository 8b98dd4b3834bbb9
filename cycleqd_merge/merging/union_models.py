"""Models in the vocabulary that `models.vocabulary: union` joins: copies in the cache, in which only that changes.

Everything else (merging, mergekit, both engines, exports) then reads models of one vocabulary, as with `strict`. A
copy is a folder that any program can load: links to the model's files, except safetensors files that contain a tensor
with a vocabulary axis, and configurations. The base's has the union's tokenizer, an expert's its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from safetensors.torch import save_file
from tokenizers import Tokenizer

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.cached_folders import cached_folder
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.json_files import edited, read_json
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer, open_tokenizer
from cycleqd_merge.merging.vocabulary import Union, Vocabulary, base_rows, expert_rows, union_of

_METHOD = "union/1"
_UNION = "union.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class UnitedModels:
    """A base and its experts in the union's vocabulary. experts: by name."""

    union: Union
    base: Checkpoint
    experts: dict[str, Checkpoint | Adapter]


def unite_models(base: Checkpoint, experts: Mapping[str, Checkpoint | Adapter], models: ModelsConfig) -> UnitedModels:
    """Base and experts with one vocabulary: themselves, or copies from the cache, which are written if missing.

    Raises:
        ModelError: their tokenizers or embeddings cannot be joined, or there is no room for the copies.
    """
    folder = cache_folder("unions") / _key(base, experts, models)

    def build(unfinished: Path) -> None:
        union = _union(base, experts, models)
        _write(base, experts, union, unfinished, models)
        (unfinished / _UNION).write_text(json.dumps(union.to_json()), encoding="utf-8")

    cached_folder(folder, build)
    union = Union.from_json(read_json(folder / _UNION))
    return UnitedModels(union, *_opened(base, experts, union, folder, models))


def _key(base: Checkpoint, experts: Mapping[str, Checkpoint | Adapter], models: ModelsConfig) -> str:
    """Identifies everything that the copies are made from, and where it is, because they are partly links."""
    parts = [_METHOD, str(models.trust_remote_code)]
    for name, weights in {"": base, **experts}.items():
        parts += [name, str(weights.path.resolve()), weights.digest]
        for path in sorted(weights.path.iterdir()):
            if path.is_file() and not path.name.endswith(_WEIGHTS):
                parts += [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _union(base: Checkpoint, experts: Mapping[str, Checkpoint | Adapter], models: ModelsConfig) -> Union:
    if not has_tokenizer(base.path):
        raise ModelError("base: has no tokenizer; `models.vocabulary: union` requires one, to know its tokens")
    if not vocabulary_weights(base):
        raise ModelError(
            f"base: {base.reference}: its architecture names no tensor with one row per token; use "
            "`models.vocabulary: base`"
        )
    ours = _vocabulary("base", base.path, _rows(base), models)
    rows = {name: _rows(e) if isinstance(e, Checkpoint) else _adapter_rows(e, base) for name, e in experts.items()}
    theirs = [_expert_vocabulary(name, each, rows[name], ours, models) for name, each in experts.items()]
    union = union_of(ours, theirs)
    for number, (name, expert) in enumerate(experts.items()):
        moved = any(source not in (-1, to) for to, source in enumerate(union.sources[number]))
        trained = [w.name for w in vocabulary_weights(base) for n in _names(w) if _trains_tokens(expert, n)]
        if moved and trained:
            raise ModelError(
                f"expert {name}: its adapter trains single tokens of {trained[0]}, which have other ids in the union; "
                "merge the adapter into a full checkpoint"
            )
    return union


def vocabulary_weights(model: Checkpoint) -> list[Weight]:
    """The tensors that have one row per token."""
    return [weight for weight in model.weights if weight.vocabulary_axis is not None]


def _rows(model: Checkpoint) -> int:
    return max(weight.shape[weight.vocabulary_axis or 0] for weight in vocabulary_weights(model))


def _names(weight: Weight) -> tuple[str, ...]:
    return (weight.name, *weight.aliases)


def _trains_tokens(expert: Checkpoint | Adapter, name: str) -> bool:
    return isinstance(expert, Adapter) and expert.trains_tokens(name)


def _adapter_rows(adapter: Adapter, base: Checkpoint) -> int:
    """The rows of the base as the adapter was trained on it: after a resize, those that it stores."""
    found = [
        adapter.shape(name, weight.shape)[weight.vocabulary_axis or 0]
        for weight in vocabulary_weights(base)
        for name in _names(weight)
        if name in adapter.names
    ]
    return max(found, default=_rows(base))


def _adapted(adapter: Adapter, base: Checkpoint, weight: Weight, new: Sequence[int]) -> torch.Tensor:
    """A tensor as peft runs it, float32, with the adapter's own rows. new: those of tokens that the base lacks."""
    rows, tensor = _adapter_rows(adapter, base), base.read(base.stored_name(weight) or weight.name)
    name = next((name for name in _names(weight) if name in adapter.names), weight.name)
    own = tensor.new_zeros((rows, *tensor.shape[1:]), dtype=torch.float32)
    own[: len(tensor)] = tensor[:rows]
    if adapter.replaces(name):
        own[list(new)] = 0  # so that the difference there is exactly what it stores
    vector = adapter.task_vector(name, own)
    dense = vector.dense() if isinstance(vector, LowRank) else vector
    return own if dense is None else own + dense


def _vocabulary(name: str, folder: Path, rows: int, models: ModelsConfig) -> Vocabulary:
    tokenizer = open_tokenizer(folder, models)
    added = {str(token): _flags(token) for token in tokenizer.added_tokens_decoder.values()}
    return Vocabulary(name, tokenizer.get_vocab(), added, rows)


def _expert_vocabulary(
    name: str, weights: Checkpoint | Adapter, rows: int, base: Vocabulary, models: ModelsConfig
) -> Vocabulary:
    """An expert's vocabulary. Without a tokenizer, it is the base's.

    Raises:
        ModelError: it has no tokenizer, but more rows than the base.
    """
    if has_tokenizer(weights.path):
        return _vocabulary(name, weights.path, rows, models)
    if rows > base.rows:
        raise ModelError(
            f"expert {name}: has {rows} rows in its vocabulary, the base has {base.rows}, and no tokenizer that says "
            "which tokens they are; add its tokenizer's files, or drop its added rows with `models.vocabulary: base`"
        )
    return Vocabulary(name, base.ids, base.added, rows)


def _write(
    base: Checkpoint, experts: Mapping[str, Checkpoint | Adapter], union: Union, folder: Path, models: ModelsConfig
) -> None:
    """Write the copies of base and experts that differ from the models themselves."""
    checkpoints = {n: (name, e) for n, (name, e) in enumerate(experts.items()) if isinstance(e, Checkpoint)}
    changed = [number for number, (_, expert) in checkpoints.items() if union.changes(number, _rows(expert))]
    _require_space([*([base] if union.extends else []), *(checkpoints[n][1] for n in changed)], union, folder)
    extended: dict[str, dict[str, torch.Tensor]] = {}
    replaced: dict[int, dict[str, dict[str, torch.Tensor]]] = {number: {} for number in changed}
    for weight in vocabulary_weights(base):
        name, axis = base.stored_name(weight) or weight.name, weight.vocabulary_axis or 0
        own = {number: _stored(expert, label, weight) for number, (label, expert) in checkpoints.items()}
        tensors: list[torch.Tensor | None] = []
        for number, expert in enumerate(experts.values()):
            new = [union.sources[number][row] for row in union.new_rows if union.sources[number][row] >= 0]
            if isinstance(expert, Adapter):
                tensors.append(_adapted(expert, base, weight, new) if new else None)
            else:
                tensors.append(own[number][1])
        joined = base_rows(base.read(name), tensors, axis, union)
        extended[name] = {name: joined}
        for number in changed:
            stored, tensor = own[number]
            if tensor is not None:
                replaced[number].setdefault(stored, {})[weight.name] = expert_rows(tensor, number, joined, axis, union)
    if union.extends:
        _write_copy(base, extended, union, folder / "base")
        for name, contents in _tokenizer_files(base, union, models).items():
            _replace(folder / "base" / name, contents)
    for number in changed:
        _write_copy(checkpoints[number][1], replaced[number], union, folder / f"expert-{number}")


def _stored(expert: Checkpoint, name: str, weight: Weight) -> tuple[str, torch.Tensor | None]:
    """An expert's tensor with its name; None if it lacks it, which the checks report.

    Raises:
        ModelError: it has the shape of a different model.
    """
    stored, axis = expert.stored_name(weight), weight.vocabulary_axis
    if stored is None:
        return "", None
    tensor = expert.read(stored)
    shapes = [[size for place, size in enumerate(shape) if place != axis] for shape in (tensor.shape, weight.shape)]
    if tensor.ndim != len(weight.shape) or shapes[0] != shapes[1]:
        what = f"shape {tuple(tensor.shape)}, the base has {weight.shape}"
        raise ModelError(f"expert {name}: tensor {weight.name}: {what}")
    return stored, tensor


def _require_space(copied: Sequence[Checkpoint], union: Union, folder: Path) -> None:
    """Check that the cache has room for copies of these models.

    Raises:
        ModelError: it has not.
    """
    needed = 0
    for model in copied:
        weights = vocabulary_weights(model)
        shards = {model.shards[name] for weight in weights if (name := model.stored_name(weight)) is not None}
        needed += sum((model.path / shard).stat().st_size for shard in shards)
        for weight in weights:
            row = weight.dtype.itemsize * math.prod(weight.shape) // weight.shape[weight.vocabulary_axis or 0]
            needed += max(0, union.rows - _rows(model)) * row
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"disk: copies of the models in one vocabulary (`models.vocabulary: union`) require {decimal(needed)}, "
            f"{decimal(free)} available on the disk of {folder.parent}; free some space, or set CYCLEQD_CACHE"
        )


def _write_copy(
    model: Checkpoint, replaced: Mapping[str, Mapping[str, torch.Tensor]], union: Union, folder: Path
) -> None:
    """A copy of a model. replaced: by the name of a tensor in it, those to write in its place, by their names."""
    folder.mkdir()
    shards: dict[str, str] = {}
    written: dict[str, dict[str, torch.Tensor]] = {model.shards[name]: {} for name in replaced}
    for name, shard in model.shards.items():
        if shard in written:
            written[shard] |= replaced[name] if name in replaced else {name: model.read(name)}
        shards |= dict.fromkeys(replaced.get(name, (name,)), shard)
    for shard, tensors in written.items():
        save_file(tensors, folder / shard, {"format": "pt"})
    for path in model.path.absolute().iterdir():
        if (path.name in shards.values() and path.name not in written) or not path.name.endswith(_WEIGHTS):
            (folder / path.name).symlink_to(path)
    if set(shards.values()) != {"model.safetensors"}:
        index = {"metadata": {}, "weight_map": shards}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    _edit_config(folder, model.path, union)


def _edit_config(folder: Path, source: Path, union: Union) -> None:
    """State the number of rows in config.json, wherever it states the model's own."""
    config = read_json(source / "config.json")
    changes = {key: value for key, value in with_rows(config, union.rows).items() if config.get(key) != value}
    if changes:
        _replace(folder / "config.json", edited(source / "config.json", changes))


def with_rows(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A configuration with this `vocab_size`, in its part for text if it has one."""
    part = next(
        (key for key in ("text_config", "llm_config", "language_config") if isinstance(config.get(key), dict)), ""
    )
    changed = {**config, part: with_rows(config[part], rows)} if part else {**config, "vocab_size": rows}
    if part and "vocab_size" in config:
        changed["vocab_size"] = rows
    return changed


def _replace(path: Path, contents: bytes) -> None:
    path.unlink(missing_ok=True)  # a link to the model's own file
    path.write_bytes(contents)


def _tokenizer_files(base: Checkpoint, union: Union, models: ModelsConfig) -> dict[str, bytes]:
    """The files of the base's tokenizer that change with the union's tokens.

    Raises:
        ModelError: the tokenizer cannot give the new tokens their ids.
    """
    tokenizer = open_tokenizer(base.path, models)
    files: dict[str, bytes] = {}
    if (base.path / "tokenizer.json").is_file():
        names = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")
        files = {name: (base.path / name).read_bytes() for name in names if (base.path / name).is_file()}
    else:
        with tempfile.TemporaryDirectory() as saved:  # transformers converts older formats
            tokenizer.save_pretrained(saved)
            files = {path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()}
    if "tokenizer.json" not in files:
        raise ModelError(
            f"base: {base.reference}: its tokenizer has no tokenizer.json, so tokens cannot be added to it"
        )
    own = tokenizer.added_tokens_decoder
    added: dict[int, dict[str, Any]] = {n: {"id": n, "content": str(each), **_flags(each)} for n, each in own.items()}
    added |= {token.id: {"id": token.id, "content": token.text, **token.flags} for token in union.tokens}
    ids = {**tokenizer.get_vocab(), **{token.text: token.id for token in union.tokens}}
    files["tokenizer.json"] = _with_added_tokens(files["tokenizer.json"], added, ids, str(base.reference))
    if "added_tokens.json" in files:
        files["added_tokens.json"] = edited(files["added_tokens.json"], {t.text: t.id for t in union.tokens})
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        decoder |= {str(t.id): {"content": t.text, **dict(sorted(t.flags.items()))} for t in union.tokens}
        changes = {"added_tokens_decoder": decoder}
        files["tokenizer_config.json"] = edited(files["tokenizer_config.json"], changes)
    return files


def _flags(token: Any) -> dict[str, bool]:
    return {flag: bool(getattr(token, flag)) for flag in _FLAGS}


def _with_added_tokens(
    text: bytes, added: Mapping[int, Mapping[str, Any]], ids: Mapping[str, int], reference: str
) -> bytes:
    """A tokenizer.json with these added tokens, at exactly the given ids.

    The tokenizers library numbers added tokens from the size of its model's vocabulary on, whatever their stated ids,
    except those that are in that vocabulary too. So where ids have gaps, added tokens are put there as well.

    Raises:
        ModelError: the tokenizer's model has no place for ids with gaps.
    """
    stated = json.loads(text)
    stated["added_tokens"] = [dict(added[number]) for number in sorted(added)]
    for _ in range(2):
        result = json.dumps(stated, indent=2, ensure_ascii=False)
        if Tokenizer.from_str(result).get_vocab(with_added_tokens=True) == ids:
            return result.encode()
        if isinstance(stated["model"].get("vocab"), dict):
            stated["model"]["vocab"] |= {str(token["content"]): number for number, token in added.items()}
    raise ModelError(f"base: {reference}: its tokenizer cannot give added tokens ids with gaps; use `vocabulary: base`")


def _opened(
    base: Checkpoint, experts: Mapping[str, Checkpoint | Adapter], union: Union, folder: Path, models: ModelsConfig
) -> tuple[Checkpoint, dict[str, Checkpoint | Adapter]]:
    """Base and experts: the copies in `folder`, or the models themselves where there is none."""
    parts = [_METHOD, union.identity, base.digest, *(each.digest for each in experts.values())]
    key = "|".join(parts)

    def copy(name: str, model: Checkpoint) -> Checkpoint:
        if not (folder / name).is_dir():
            return model
        digest = hashlib.sha256(f"{key}|{model.digest}".encode()).hexdigest()
        return Checkpoint(model.reference, models, folder / name, digest)

    copies = {
        name: copy(f"expert-{number}", each) if isinstance(each, Checkpoint) else each
        for number, (name, each) in enumerate(experts.items())
    }
    return copy("base", base), copies
