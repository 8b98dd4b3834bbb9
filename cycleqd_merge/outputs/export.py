"""Exporting a model of a run as a checkpoint, and proving that it is the model that was scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.engines import TransformersEngineConfig as TransformersOptions
from cycleqd_merge.errors import RunFailed, UserError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.candidate import Candidate, MergekitConfiguration, candidate_kind
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.outputs.adapter import require_adapters, write_adapter
from cycleqd_merge.outputs.checkpoint import write_checkpoint, write_model
from cycleqd_merge.run.elites import NamedModel, choose
from cycleqd_merge.run.opening import reopen
from cycleqd_merge.run.state import Run

_EQUAL = 1e-3
_ADAPTED = 0.1  # an adapter computes beside weights that are rounded without it
_PROBE = "The quick brown fox jumps over the lazy dog."


def export(run: Run, name: str, out: Path) -> NamedModel:
    """Write the model that `name` stands for (see `elites.choose`) to the new folder `out`.

    Raises:
        UserError: no such model, or `out` cannot be written.
        RunFailed: what was written does not load, or does not answer as the engine's weights do.
    """
    chosen = choose(run, name)
    materials = reopen(run)
    candidate, materialiser = chosen.candidate, materials.materialiser(needed_bases(chosen.candidate))
    record = _record(run, chosen, materialiser)

    def check(folder: Path) -> None:
        _check_loads(folder, candidate, materialiser)

    if isinstance(candidate, Genome):
        configuration = configuration_text(candidate, materialiser, run.recipe.evolution)
        write_checkpoint(materialiser.tensors(candidate), materials.family, out, record, configuration, check)
    else:
        _write_merge(candidate, materialiser, out, record, check)
    return chosen


def _write_merge(
    candidate: MergekitConfiguration,
    materialiser: Materialiser,
    out: Path,
    record: Mapping[str, Any],
    check: Callable[[Path], None],
) -> None:
    """Let mergekit write its configuration's checkpoint; prompts must be put as they were when it was scored."""
    from cycleqd_merge.merging.mergekit_run import merge_command, write_merge  # mergekit's planner is slow to import

    family, device = materialiser.family, materialiser.device

    def write(folder: Path) -> None:
        write_merge(candidate, family, folder, device)
        if family.models.chat_template not in (None, "base"):
            family_tokenizer(family).save_pretrained(folder)

    text = candidate.yaml.rstrip("\n")
    write_model(write, out, record, f"# {merge_command(candidate, family, device)}\n{text}\n", check)


def finish_exports(run: Run, out: Path) -> Iterator[tuple[str, Path]]:
    """Write the models that the recipe's `finish.export` names below `out`, less those that are there.

    Yields the name and the folder of each once it is written.
    """
    for name in run.recipe.finish.export:
        folder = out / "models" / f"{name.replace(':', '-')}-gen-{run.generation}"
        if not folder.exists():
            export(run, name, folder)
            yield name, folder


def export_adapter(run: Run, name: str, out: Path) -> NamedModel:
    """Write the model that `name` stands for to the new folder `out` as a LoRA adapter on the base.

    Raises:
        UserError: no such model, it is no sum of adapters, or `out` cannot be written.
        RunFailed: what was written does not answer as the engine's weights do.
    """
    chosen = choose(run, name)
    require_genome(chosen)
    materials = reopen(run)
    require_adapters(materials.family)
    materialiser = materials.materialiser(needed_bases(chosen.genome))

    def check(folder: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(materials.family.base.path, dtype="auto")
        _compare(PeftModel.from_pretrained(base, folder), chosen.genome, materialiser, _ADAPTED)

    base = materials.family.base.reference.model
    write_adapter(chosen.genome, materialiser, base, out, _record(run, chosen, materialiser), check)
    return chosen


def require_genome(chosen: NamedModel) -> None:
    """Check that a model is a sum of task vectors, which an adapter may hold.

    Raises:
        UserError: it is a mergekit configuration.
    """
    if not isinstance(chosen.candidate, Genome):
        raise UserError(f"{chosen.label}: a mergekit configuration, which no adapter can hold")


def state_dict(run: Run, name: str) -> dict[str, torch.Tensor]:
    """All tensors of the model that `name` stands for, in memory, in the checkpoint's dtype.

    Raises:
        UserError: no such model.
    """
    chosen = choose(run, name)
    materialiser = reopen(run).materialiser(needed_bases(chosen.candidate))
    return dict(candidate_tensors(chosen.candidate, materialiser))


def needed_bases(*candidates: Candidate) -> set[int]:
    """Numbers of the experts whose singular bases the genomes' mutations need."""
    genomes = [candidate for candidate in candidates if isinstance(candidate, Genome)]
    return {m.expert for genome in genomes for m in genome.mutations if m.expert is not None}


def _record(run: Run, chosen: NamedModel, materialiser: Materialiser) -> dict[str, Any]:
    """All that is needed to build the model again, for `genome.json`."""
    experts = materialiser.family.experts
    bases = {experts[number].name: bases.digest for number, bases in materialiser.bases.items()}
    return {**model_record(run, chosen), "bases": bases}


def model_record(run: Run, chosen: NamedModel) -> dict[str, Any]:
    """What `genome.json` says of a model but the digests of the singular bases."""
    recipe, start = run.recipe, run.start
    scores = None
    if chosen.number is not None and run.results[chosen.number]["scores"] is not None:  # failed ones have none
        scores = dict(zip(run.tasks, run.scores(chosen.number), strict=True))
    return {
        "made_by": f"cycleqd-merge {version('cycleqd-merge')}",
        "name": chosen.label,
        "evaluation": chosen.number,
        "search_scores": scores,
        "base": {"model": recipe.pinned(recipe.base), "sha256": start["base"]},
        "experts": {
            name: {"model": recipe.pinned(reference), "sha256": start["experts"][name]}
            for name, reference in recipe.experts.items()
        },
        "groups": recipe.evolution.model_dump(mode="json")["groups"],
        candidate_kind(chosen.candidate): chosen.candidate.to_json(),
    }


def _check_loads(folder: Path, candidate: Candidate, materialiser: Materialiser) -> None:
    """Load the checkpoint as its users will and compare a forward pass with one on the engine's weights."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, where loading is to be told of
        folder,
        dtype=materialiser.family.base.config.dtype or "auto",  # mergekit may have written another
        output_loading_info=True,
        trust_remote_code=materialiser.family.models.trust_remote_code,
    )
    model, report = loaded
    absent = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if absent:
        raise RunFailed(f"the exported checkpoint does not fit its architecture: {', '.join(map(str, absent[:3]))}")
    _compare(model, candidate, materialiser, _EQUAL)


def _compare(model: Any, candidate: Candidate, materialiser: Materialiser, most: float) -> None:
    """A forward pass of a loaded model and one on the engine's weights: logits may differ by `most` of their range."""
    engine = TransformersEngine(TransformersOptions(device="cpu"), materialiser)
    engine.load(candidate)
    tokens = torch.tensor([engine.encode(_PROBE)])
    with torch.inference_mode():
        wanted = engine.model(tokens).logits.float()
        engine.close()
        found = model(tokens).logits.float()
    if (found - wanted).abs().max() > most * wanted.abs().max().clamp_min(1):
        difference = float((found - wanted).abs().max())
        raise RunFailed(
            f"the exported model answers otherwise than the engine's: logits differ by up to {difference:g}"
        )
