"""Everything that an export does, except for computing and writing the weights: it fails before a search, not after."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import CycleQDError, ModelError, RecipeError, first_line
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.files import scratch_folder
from cycleqd_merge.merging.candidates import candidate_configuration
from cycleqd_merge.merging.end_tokens import end_tokens, listed_ids
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.model_files import GENERATION, child_files, write_files
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.outputs.adapter import require_adapter_form
from cycleqd_merge.run.elites import require_model_name
from cycleqd_merge.strategies.factory import ordered_tasks


def rehearse_export(recipe: Recipe, family: ModelFamily, groups: Groups) -> None:
    """Check that the recipe's children can be exported: their files, tensors, and configuration for mergekit.

    groups: of `recipe.evolution`. The files are written to a temporary folder, without weights, and loaded as the users
    of an export will load them.

    Raises:
        UserError: an export would fail; one line for each reason.
    """
    steps: list[Callable[[], None]] = [
        partial(_rehearse_files, family),
        partial(_rehearse_configuration, family, groups, recipe.evolution),
    ]
    if recipe.strategy.kind == "mergekit":
        steps.append(partial(_rehearse_merges, family))
    if recipe.hub is not None and recipe.hub.adapters and (recipe.hub.root or recipe.hub.elites):
        steps.append(partial(require_adapter_form, family))
    errors = []
    for step in steps:
        try:
            step()
        except CycleQDError as error:
            errors.append(str(error))
        except Exception as error:  # transformers, tokenizers, mergekit and custom code may raise anything
            errors.append(f"export: children could not be exported: {type(error).__name__}: {first_line(error)}")
    if errors:
        raise ModelError("\n".join(dict.fromkeys(errors)))


def require_exports(recipe: Recipe, founders: int) -> None:
    """Check the names in `finish.export` and `hub`, and that models can be written below the output folder.

    founders: number of evaluated models that the run starts from, in addition to its experts.

    Raises:
        RecipeError: a name is of no model that the run can have, or the folder cannot be written.
    """
    hub = recipe.hub
    lists = {
        "finish.export": recipe.finish.export,
        "hub.root": [] if hub is None or hub.root is None else [hub.root],
        "hub.elites": [] if hub is None else [each for each in hub.elites if each not in ("all-best", "pareto")],
    }
    objectives = [task_name(use) for use in ordered_tasks(recipe) if use.role == "optimise"]
    evaluations = len(recipe.experts) + founders + recipe.evolution.generations
    for place, names in lists.items():
        for name in names:
            require_model_name(name, list(recipe.experts), objectives, evaluations, place)
            if name == "aggregate" and recipe.strategy.kind == "mergekit":
                raise RecipeError(f"{place}: aggregate: mergekit configurations cannot be aggregated; remove it")
    if recipe.finish.export:
        _require_folder(Path(recipe.output) / "models")


def _require_folder(folder: Path) -> None:
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise RecipeError(
            f"finish.export: {folder}: cannot be written: {nearest} is not a folder that you may write to; "
            "choose a different `output`"
        )


def _rehearse_files(family: ModelFamily) -> None:
    """Load a child's files, and find the place of each of its tensors in the module that they describe."""
    with scratch_folder(Path(tempfile.gettempdir()) / "cycleqd-merge-export") as folder:
        write_files(child_files(family), folder, link=True)
        trust: dict[str, Any] = {"trust_remote_code": family.models.trust_remote_code}
        config = AutoConfig.from_pretrained(folder, **trust)
        with torch.device("meta"):
            model = family.base.auto_class.from_config(config, **trust)
        family.name_map(model)
        if has_tokenizer(folder):
            _compare_tokenizers(AutoTokenizer.from_pretrained(folder, **trust), family_tokenizer(family))
        if (folder / GENERATION).is_file():
            stated = GenerationConfig.from_pretrained(folder).eos_token_id
            wanted = end_tokens(family).ids
            if set(listed_ids(stated)) != set(wanted):
                raise ModelError(f"export: {GENERATION} would state the end tokens {stated}, not {list(wanted)}")


def _compare_tokenizers(exported: Any, scored: Any) -> None:
    """Check that a child's tokenizer is the one that it is scored with."""
    if exported.get_vocab() != scored.get_vocab():
        raise ModelError("export: its tokenizer would have different tokens from the one used to score children")
    if (exported.chat_template or None) != (scored.chat_template or None):
        raise ModelError("export: its chat template would differ from the one used to score children")


def _rehearse_configuration(family: ModelFamily, groups: Groups, setting: EvolutionConfig) -> None:
    """Write and read the mergekit configuration of genomes without and with mutations, all groups different."""
    materialiser = Materialiser(family, groups, {})
    wanted = [family.base.reference, *(expert.reference for expert in family.experts)]
    for genome in _genomes(len(family.experts), len(groups)):
        config = MergeConfiguration.model_validate(
            yaml.safe_load(candidate_configuration(genome, materialiser, setting))
        )
        found = [config.base_model, *(each.model for each in config.models or ())]
        for one, other in zip(found, wanted, strict=True):
            if one != other:
                raise ModelError(
                    f"export: mergekit_config.yml would name the model {one}, not {other}; rename its folder"
                )


def _rehearse_merges(family: ModelFamily) -> None:
    from cycleqd_merge.merging.mergekit_plan import require_candidates  # mergekit's planner is slow to import

    require_candidates(family)


def _genomes(experts: int, groups: int) -> list[Genome]:
    coefficients = np.arange(1.0, experts * groups + 1).reshape(experts, groups) / (experts * groups)
    mutations = (
        *(Mutation("svd", expert, expert, 0.3) for expert in range(experts)),
        Mutation("gaussian", None, 99, 0.1),
    )
    shares = np.full((len(mutations), groups), 0.5)
    return [Genome(coefficients, (), shares[:0]), Genome(coefficients, mutations, shares)]
