"""A child's files other than its weights: copies of the base's, in which only what the recipe chose is changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from cycleqd_merge.merging.end_tokens import end_tokens, stated_end_tokens
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.json_files import edited, file_bytes, json_object, read_json
from cycleqd_merge.merging.tokenizers import family_tokenizer, load_tokenizer

ChildFiles = dict[str, Path | bytes]
"""By path relative to the child's folder: the base's file to copy, or new contents."""

_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
_CONFIGURATIONS = ("config.json", GENERATION)
_PROCESSORS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
)
_OWN_GENERATE = ("custom_generate/*.py", "custom_generate/requirements.txt")
_TEMPLATE, _TEMPLATES, _PROCESSOR_TEMPLATE = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
_TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "encoder.json",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.model.v*",
    "*.tiktoken",
    "*.spm",
    _TEMPLATE,
    _PROCESSOR_TEMPLATE,
    f"{_TEMPLATES}/*.jinja",
)


def child_files(family: ModelFamily) -> ChildFiles:
    """All files of a child but its weights: configurations, tokenizer, and the base's own code.

    Raises:
        RecipeError: the chosen chat template or end tokens do not exist.
        ModelError: a tokenizer cannot be loaded, or a configuration is not a JSON object.
    """
    files = _matching(family.base.path, (*_CONFIGURATIONS, *_PROCESSORS, *_OWN_GENERATE)) | tokenizer_files(family)
    _set_end_tokens(files, family)
    return files | {name: family.base.path / name for name in _code(family.base.path, files)}


def tokenizer_files(family: ModelFamily) -> ChildFiles:
    """The files of a child's tokenizer, with the chat template that the recipe chose.

    Raises:
        RecipeError: the chosen chat template does not exist.
        ModelError: a tokenizer cannot be loaded.
    """
    tokenizer = family_tokenizer(family)
    own = getattr(type(tokenizer), "vocab_files_names", {}).values()
    files = _matching(family.base.path, (*_TOKENIZER_FILES, *own))
    if tokenizer.chat_template != load_tokenizer(family.base.path, family).chat_template:
        _set_chat_template(files, tokenizer.chat_template)
    return files | {name: family.base.path / name for name in _code(family.base.path, files)}


def adapter_files(family: ModelFamily) -> ChildFiles:
    """The files of a child that is an adapter on the base: its tokenizer, and end tokens unless they are the base's.

    Raises:
        RecipeError: the chosen chat template or end tokens do not exist.
        ModelError: a tokenizer cannot be loaded.
    """
    generation = _matching(family.base.path, (GENERATION,))
    _set_end_tokens(generation, family)
    changed = {name: contents for name, contents in generation.items() if isinstance(contents, bytes)}
    return tokenizer_files(family) | changed


def write_files(files: Mapping[str, Path | bytes], folder: Path, link: bool = False) -> None:
    """Write a child's files into its folder. link: unchanged ones as links to the base's."""
    for name, contents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(contents, bytes):
            path.write_bytes(contents)
        elif link:
            path.symlink_to(contents.absolute())
        else:
            shutil.copyfile(contents, path)


def with_dtype(files: ChildFiles, weights: Path) -> ChildFiles:
    """The files with the dtype of the floating-point tensors in the folder `weights`, if they have a single one and the
    configuration states a different one.
    """
    found = {dtype for path in weights.glob("*.safetensors") for dtype in _dtypes(path)}
    written = found.pop() if len(found) == 1 else None
    config = json.loads(file_bytes(files["config.json"]))
    stated = [key for key in ("torch_dtype", "dtype") if config.get(key) not in (None, "auto", written)]
    if written is None or not stated:
        return files
    return {**files, "config.json": edited(files["config.json"], dict.fromkeys(stated, written))}


def _dtypes(path: Path) -> set[str]:
    """The floating-point dtypes in a safetensors file, by torch's names, from its header."""
    with safe_open(path, framework="pt") as file:
        names = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - not a dict
    return {_FLOATS[name] for name in names if name in _FLOATS}


def _matching(folder: Path, patterns: Iterable[str]) -> ChildFiles:
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def _code(folder: Path, files: Mapping[str, Path | bytes]) -> Iterator[str]:
    """The modules of the base that its configurations name in `auto_map`, and those that they import."""
    for name, source in files.items():
        if not name.endswith(".json") or not name.endswith("config.json") or not isinstance(source, Path):
            continue
        for module in _modules(json_object(source)):
            path = folder / f"{module}.py"
            if path.is_file():
                needed = (path, *map(Path, get_relative_import_files(path)))
                yield from (each.relative_to(folder).as_posix() for each in needed if each.is_file())


def _modules(config: Mapping[str, Any]) -> Iterator[str]:
    """Names of the modules in a configuration's `auto_map`; code in another repository stays there."""
    mapping = config.get("auto_map")
    values = mapping.values() if isinstance(mapping, dict) else [mapping]
    for value in values:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and "--" not in each:
                yield each.rpartition(".")[0]


def _set_chat_template(files: ChildFiles, template: str | dict[str, str] | None) -> None:
    """Replace the chat template, or the named ones, in the form that all versions of transformers read.

    This is the tokenizer configuration's key `chat_template`. Template files would take precedence over it.
    """
    for name in [name for name in files if name == _TEMPLATE or name.startswith(f"{_TEMPLATES}/")]:
        del files[name]
    default = template.get("default") if isinstance(template, dict) else template
    if _PROCESSOR_TEMPLATE in files:
        files[_PROCESSOR_TEMPLATE] = edited(files[_PROCESSOR_TEMPLATE], {"chat_template": default})
    if template is None and TOKENIZER in files:
        files[TOKENIZER] = edited(files[TOKENIZER], {}, removed=("chat_template",))
    elif TOKENIZER in files:
        named = template if isinstance(template, dict) else {}
        listed = [{"name": name, "template": text} for name, text in named.items()]
        files[TOKENIZER] = edited(files[TOKENIZER], {"chat_template": listed or template})
    elif default is not None:  # a new tokenizer configuration would have to name the tokenizer's class
        files[_TEMPLATE] = default.encode()


def _set_end_tokens(files: ChildFiles, family: ModelFamily) -> None:
    """State the end tokens in the generation configuration, unless the base's files state the same ones."""
    ids = end_tokens(family).ids
    if set(ids) == set(stated_end_tokens(family.base.path)):
        return
    value = ids[0] if len(ids) == 1 else list(ids) or None
    source = files.get(GENERATION) or _generation_settings(read_json(family.base.path / "config.json"))
    # marked as derived from config.json, it could be derived again, with other end tokens
    files[GENERATION] = edited(source, {"eos_token_id": value}, removed=("_from_model_config",))


def _generation_settings(config: Mapping[str, Any]) -> bytes:
    """The generation configuration that transformers derives from a model's, for a base that has none."""
    from transformers import GenerationConfig

    settings = GenerationConfig.from_model_config(dict(config)).to_diff_dict()
    return json.dumps(settings, indent=2).encode()
