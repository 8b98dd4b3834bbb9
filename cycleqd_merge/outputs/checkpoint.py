"""Writing a child as a checkpoint that transformers loads."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mergekit.io import TensorWriter

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import Candidate, MergekitConfiguration
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.tokenizers import family_tokenizer

SHARD_SIZE = 5 * 1000**3


Verify = Callable[[Path, Candidate, Materialiser], None]
"""Checks a written folder before it gets its final name."""


def write_candidate(
    candidate: Candidate,
    materialiser: Materialiser,
    evolution: EvolutionConfig,
    out: Path,
    record: Mapping[str, Any],
    verify: Verify,
) -> None:
    """Write a genome's or mergekit configuration's model to `out`; see `write_model`.

    evolution: where the materialiser's groups come from.
    """

    def check(folder: Path) -> None:
        verify(folder, candidate, materialiser)

    if isinstance(candidate, Genome):
        configuration = configuration_text(candidate, materialiser, evolution)
        write_checkpoint(materialiser.tensors(candidate), materialiser.family, out, record, configuration, check)
    else:
        _write_merge(candidate, materialiser, out, record, check)


def _write_merge(
    candidate: MergekitConfiguration,
    materialiser: Materialiser,
    out: Path,
    record: Mapping[str, Any],
    check: Callable[[Path], None],
) -> None:
    """Let mergekit write its configuration's checkpoint; the chat template is the one that it was scored with."""
    from cycleqd_merge.merging.mergekit_run import merge_command, write_merge  # mergekit's planner is slow to import

    family, device = materialiser.family, materialiser.device

    def write(folder: Path) -> None:
        write_merge(candidate, family, folder, device)
        if family.models.chat_template not in (None, "base"):
            family_tokenizer(family).save_pretrained(folder)

    text = candidate.yaml.rstrip("\n")
    write_model(write, out, record, f"# {merge_command(candidate, family, device)}\n{text}\n", check)


def write_checkpoint(
    tensors: Iterable[tuple[str, torch.Tensor]],
    family: ModelFamily,
    out: Path,
    record: Mapping[str, Any],
    configuration: str,
    check: Callable[[Path], None],
) -> None:
    """Write safetensors (sharded at 5 GB), configurations, tokenizer and chat template to `out`; see `write_model`."""

    def write(folder: Path) -> None:
        _write_tensors(tensors, folder)
        family.base.config.save_pretrained(folder)
        _copy(family.base.path / "generation_config.json", folder)
        family_tokenizer(family).save_pretrained(folder)

    write_model(write, out, record, configuration, check)


def write_model(
    write: Callable[[Path], None],
    out: Path,
    record: Mapping[str, Any],
    configuration: str,
    check: Callable[[Path], None],
) -> None:
    """Let `write` put a model into `out`, and say beside it what it is.

    `record` becomes `genome.json`, `configuration` becomes `mergekit_config.yml`. The folder appears under its name
    only when it is complete and `check`, called with it, has raised nothing.

    Raises:
        UserError: `out` exists and is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; name another folder")
    with folder_beside(out) as unfinished:
        write(unfinished)
        (unfinished / "genome.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (unfinished / "mergekit_config.yml").write_text(configuration, encoding="utf-8")
        check(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(out)


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A new folder to prepare `out` in, on its file system; what is left of it goes at the end.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_tensors(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    with TensorWriter(str(folder), max_shard_size=SHARD_SIZE) as writer:
        for name, tensor in tensors:
            writer.save_tensor(name, tensor.cpu(), clone=True)


def _copy(source: Path, folder: Path) -> None:
    if source.is_file():
        shutil.copy(source, folder)
