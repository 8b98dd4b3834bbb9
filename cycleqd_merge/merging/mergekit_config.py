"""A genome as a mergekit configuration.

Without mutations and fits it is plain `task_arithmetic`, which stock mergekit can run. With them it uses the method
`cycleqd`, which `merging.mergekit_method` registers, with the mutations and the fits' digests as a parameter.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml
from mergekit.config import ConfigYamlDumper

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.errors import ModelError, first_line
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.fit_files import bases_needed
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_experts import stock_problem
from cycleqd_merge.merging.mergekit_references import reference_value
from cycleqd_merge.merging.rebuild_command import CONFIGURATION, NO_COMMAND, STOCK
from cycleqd_merge.merging.tokenizers import family_tokenizer

MERGE_METHOD = "cycleqd"
STOCK_COMMAND, OWN_COMMAND = f"{STOCK} {CONFIGURATION} OUT", f"cycleqd-merge merge {CONFIGURATION} OUT"
"""Commands that build the model of a configuration: with stock mergekit, or with a method of this package."""


def configuration_text(genome: Genome, materialiser: Materialiser, setting: EvolutionConfig) -> str:
    """The text of `mergekit_config.yml`: the command to run, as a comment, and the configuration that builds the model.

    Where mergekit cannot build it, the comment says why instead.

    setting: the recipe's `evolution`, which defines the materialiser's groups.
    """
    family = materialiser.family
    record = merge_configuration(genome, materialiser, setting)
    models = (record["base_model"], *(each["model"] for each in record["models"]))
    plain = all(isinstance(each, str) and each.isascii() for each in models)
    width = None if plain else math.inf  # a path stays on one line
    return f"# {_command(genome, family)}\n{yaml.dump(record, Dumper=ConfigYamlDumper, width=width)}"


def _command(genome: Genome, family: ModelFamily) -> str:
    """The command that rebuilds the model from its configuration, or the reason why there is none."""
    reason = why_not_rebuilt(family)
    if reason is not None:
        return f"{NO_COMMAND}{reason}"
    if _needs_own_method(genome, family):
        return own_command(family)
    adapters = any(expert.reference.lora is not None for expert in family.experts)
    return " ".join([STOCK_COMMAND, *stock_options(family, adapters)])


def own_command(family: ModelFamily) -> str:
    """The command that rebuilds a model with the method `cycleqd`, with what its models need to be opened."""
    allowed = {"--trust-remote-code": family.models.trust_remote_code, "--pickles": family.models.pickles}
    return " ".join([OWN_COMMAND, *(option for option, needed in allowed.items() if needed)])


def why_not_rebuilt(family: ModelFamily) -> str | None:
    """Why mergekit cannot build merges of a family; None if it can.

    Its own plan must write exactly the base's tensors. For some architectures, it describes others: for Falcon those
    of a newer decoder, for Cohere norms that few models have. Nothing is read but configurations and names.
    """
    from cycleqd_merge.merging.mergekit_plan import planned_names  # mergekit's planner is slow to import

    try:
        required, optional = planned_names(family)
    except ModelError as error:
        return first_line(error)
    names = {weight.name for weight in family.weights}
    if unknown := sorted(names - required - optional):
        return f"its description of the architecture lacks {unknown[0]}"
    if absent := sorted(required - names):
        return f"its description of the architecture requires {absent[0]}, which the base lacks"
    return None


def _needs_own_method(genome: Genome, family: ModelFamily) -> bool:
    """Whether stock mergekit cannot build a genome, or reads its models in another way than transformers."""
    return bool(genome.mutations or genome.fits) or family.has_copies or stock_problem(family) is not None


def stock_options(family: ModelFamily, adapters: bool) -> list[str]:
    """The options that mergekit needs besides the configuration. adapters: whether some of its models are adapters."""
    options = ["--lora-merge-cache CACHE --lora-merge-dtype float32"] if adapters else []
    if family.models.vocabulary == "base":
        options.append("--unsafe-truncate-embeddings")
    if family.models.trust_remote_code:
        options.append("--trust-remote-code")
    return options


def merge_configuration(genome: Genome, materialiser: Materialiser, setting: EvolutionConfig) -> dict[str, Any]:
    """The configuration that builds the genome's model, as plain values. setting: the recipe's `evolution`."""
    family, filters = materialiser.family, tensor_filters(materialiser.groups)
    own = _needs_own_method(genome, family)
    dtypes = {weight.dtype for weight in family.weights if weight.dtype.is_floating_point}
    record: dict[str, Any] = {
        "merge_method": MERGE_METHOD if own else "task_arithmetic",
        "base_model": reference_value(family.base.reference),
        "models": [
            {"model": reference_value(expert.reference), "parameters": {"weight": _weight(coefficients, filters)}}
            for expert, coefficients in zip(family.experts, genome.coefficients.tolist(), strict=True)
        ],
        "dtype": "float32",
    }
    if len(dtypes) == 1:  # mergekit writes one dtype; tensors of a mixed checkpoint stay float32
        record["out_dtype"] = str(dtypes.pop()).removeprefix("torch.")
    if family.models.chat_template not in (None, "base"):
        template = family_tokenizer(family).chat_template
        record["chat_template"] = template.get("default") if isinstance(template, dict) else template
    if own:
        mutations = _mutations_parameter(genome, materialiser, setting)
        record["parameters"] = {"mutations": json.dumps(mutations, separators=(",", ":"))}
    return record


def _mutations_parameter(genome: Genome, materialiser: Materialiser, setting: EvolutionConfig) -> dict[str, Any]:
    """The parameter `mutations` of the method `cycleqd`, as plain values; the coefficients are its `weight`."""
    needed = bases_needed(genome)
    record = genome.to_json()
    del record["coefficients"]
    return {
        **record,
        "groups": setting.model_dump(mode="json")["groups"],
        "vocabulary": materialiser.family.models.vocabulary,
        "rank": materialiser.rank,
        "bases": {str(number): bases.digest for number, bases in materialiser.bases.items() if number in needed},
    }


def _weight(values: list[float], filters: list[tuple[str | None, int]]) -> float | list[dict[str, Any]]:
    """An expert's parameter `weight`: one number, or one per filter."""
    if len(set(values)) == 1:
        return values[0]
    return [{"value": values[group]} | ({} if text is None else {"filter": text}) for text, group in filters]


def tensor_filters(groups: Groups) -> list[tuple[str | None, int]]:
    """Parts of tensor names, each with a group: a tensor belongs to the group of the first part found in its name.

    The last entry is (None, group) for all other tensors: the group that would need most entries.
    """
    names = {name: group for group in range(len(groups)) for name in groups.members(group)}
    filters: dict[str, int] = {}
    unclear = []
    for name, group in names.items():
        if not any(text in name for text, of in filters.items() if of == group):
            text = _distinctive(name, names)
            if text is None:
                unclear.append(name)
            else:
                filters[text] = group
    needed = Counter([*filters.values(), *(names[name] for name in unclear)])
    rest = needed.most_common(1)[0][0]
    clear = {text: group for text, group in filters.items() if group != rest}
    whole = _whole_names([name for name in unclear if names[name] != rest], names, clear)
    return [*clear.items(), *whole, (None, rest)]


def _distinctive(name: str, names: Mapping[str, int]) -> str | None:
    """The part of a name that most names of its group share, and none of another group; None if there is none."""
    best: tuple[int, int, str] | None = None
    for text in _parts(name):
        hits = [group for other, group in names.items() if text in other]
        if set(hits) == {names[name]} and (best is None or (-len(hits), len(text), text) < best):
            best = (-len(hits), len(text), text)
    return None if best is None else best[2]


def _parts(name: str) -> Iterator[str]:
    """All sequences of consecutive components of a dotted name, including the dots at their ends."""
    parts = name.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            inner = ".".join(parts[start:end])
            yield ("." if start else "") + inner + ("." if end < len(parts) else "")


def _whole_names(unclear: list[str], names: Mapping[str, int], clear: Collection[str]) -> list[tuple[str, int]]:
    """Filters for tensors whose entire name is part of a name in another group: the longest first, so that each name
    matches its own. Names that contain one of them become filters as well, unless an earlier filter matches them.
    """
    found = [
        name for name in names if any(text in name for text in unclear) and not any(text in name for text in clear)
    ]
    return [(name, names[name]) for name in sorted(found, key=len, reverse=True)]
