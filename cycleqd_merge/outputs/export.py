"""Exporting a model of a run: as a checkpoint that transformers loads, as a LoRA adapter, or as tensors in memory."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from cycleqd_merge.config.references import with_variables
from cycleqd_merge.errors import InfrastructureError, RecipeError
from cycleqd_merge.evolution.candidate import candidate_kind, fits_of
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.candidates import candidate_configuration, candidate_tensors, write_candidate
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.rebuild_command import with_variable_command
from cycleqd_merge.outputs.adapter import require_adapters, write_adapter
from cycleqd_merge.outputs.checkpoint import write_model
from cycleqd_merge.outputs.verify import verify_adapter, verify_checkpoint
from cycleqd_merge.run.elites import NamedModel, choose
from cycleqd_merge.run.opening import reopen_models
from cycleqd_merge.run.state import Run


def export(run: Run, name: str, out: str | PathLike[str]) -> NamedModel:
    """Write the model called `name` (see `choose`) to the new folder `out`.

    Raises:
        UserError: no such model, or `out` exists or cannot be created.
        InfrastructureError: the disk is full; nothing is left behind.
        RunFailed: the written model does not load, or does not answer as the engine's weights do.
    """
    chosen = choose(run, name)
    materialiser = reopen_models(run, chosen.candidate)
    configuration = candidate_configuration(chosen.candidate, materialiser, run.recipe.evolution)
    configuration = with_variable_command(configuration, with_variables(configuration, run.recipe))
    record = _record(run, chosen, materialiser)

    fill = partial(write_candidate, chosen.candidate, materialiser)
    verify = partial(verify_checkpoint, chosen.candidate, materialiser)
    write_model(fill, Path(out), record, configuration, verify, fits_of(chosen.candidate))
    return chosen


def finish_exports(run: Run, out: Path) -> Iterator[tuple[str, Path]]:
    """Write the models that the recipe's `finish.export` names below `out`, unless they exist already.

    Yields the name and the folder of each once it is written.

    Raises:
        InfrastructureError: one cannot be written, for example because the disk is full.
        UserError, RunFailed: see `export`.
    """
    for name in run.recipe.finish.export:
        folder = finished_folder(name, run.generation, out)
        if not folder.exists():
            try:
                export(run, name, folder)
            except InfrastructureError as error:
                again = shlex.join(["cycleqd-merge", "evolve", str(out)])
                raise InfrastructureError(
                    f"the run is complete, but not everything was exported: {error}; export again with: {again}"
                ) from error
            yield name, folder


def finished_folder(name: str, generation: int, out: Path) -> Path:
    """The folder of a model that `finish.export` names, at the end of a run in `out`."""
    return out / "models" / f"{name.replace(':', '-')}-gen-{generation}"


def export_adapter(run: Run, name: str, out: Path) -> NamedModel:
    """Write the model called `name` to the new folder `out` as a LoRA adapter on the base.

    Raises:
        UserError: no such model, it is not a sum of adapters, or `out` cannot be written.
        RunFailed: the written adapter does not answer as the engine's weights do.
    """
    chosen = choose(run, name)
    require_genome(chosen)
    materialiser = reopen_models(run, chosen.candidate)
    require_adapters(materialiser.family)
    record = _record(run, chosen, materialiser)
    verify = partial(verify_adapter, chosen.genome, materialiser)
    write_adapter(chosen.genome, materialiser, out, record, verify)
    return chosen


def require_genome(chosen: NamedModel) -> None:
    """Check that a model is a sum of task vectors, which an adapter can hold.

    Raises:
        RecipeError: it is a mergekit configuration.
    """
    if not isinstance(chosen.candidate, Genome):
        raise RecipeError(f"{chosen.label}: a mergekit configuration cannot be exported as an adapter")


def state_dict(run: Run, name: str) -> dict[str, torch.Tensor]:
    """All tensors of the model called `name`, in memory, in the checkpoint's dtype.

    Raises:
        UserError: no such model.
    """
    chosen = choose(run, name)
    return dict(candidate_tensors(chosen.candidate, reopen_models(run, chosen.candidate)))


def _record(run: Run, chosen: NamedModel, materialiser: Materialiser) -> dict[str, Any]:
    """Everything that is needed to rebuild the model, for `genome.json`."""
    experts = materialiser.family.experts
    digests = {experts[number].name: bases.digest for number, bases in materialiser.bases.items()}
    return {**model_record(run, chosen), "bases": digests}


def model_record(run: Run, chosen: NamedModel) -> dict[str, Any]:
    """The contents of `genome.json`, except the digests of the singular bases."""
    recipe, start = run.recipe, run.start
    scores = None
    if chosen.number is not None and run.results[chosen.number]["scores"] is not None:  # failed ones have none
        scores = dict(zip(run.tasks, run.scores(chosen.number), strict=True))
    return {
        "made_by": f"cycleqd-merge {version('cycleqd-merge')}",
        "name": chosen.label,
        "evaluation": chosen.number,
        "search_scores": scores,
        "base": {"model": with_variables(recipe.pinned(recipe.base), recipe), "sha256": start["base"]},
        "experts": {
            name: {"model": with_variables(recipe.pinned(reference), recipe), "sha256": start["experts"][name]}
            for name, reference in recipe.experts.items()
        },
        "groups": recipe.evolution.model_dump(mode="json")["groups"],
        candidate_kind(chosen.candidate): with_variables(chosen.candidate.to_json(), recipe),
    }
