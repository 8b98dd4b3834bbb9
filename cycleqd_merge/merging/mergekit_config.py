"""A genome as a mergekit configuration.

Without mutations it is plain `task_arithmetic`, which stock mergekit runs. With mutations it names the merge method
`cycleqd` that `merging.mergekit_method` registers, and carries the genome along.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mergekit.config import MergeConfiguration

from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.family import Family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.recipe.schema import Evolution

METHOD = "cycleqd"


def merge_configuration(genome: Genome, family: Family, groups: Groups, setting: Evolution) -> MergeConfiguration:
    """The configuration that builds the genome's model; `setting` is where its groups come from."""
    weights = {weight.dtype for weight in family.weights if weight.dtype.is_floating_point}
    record: dict[str, Any] = {
        "merge_method": METHOD if genome.mutations else "task_arithmetic",
        "base_model": family.base.reference,
        "models": [
            {"model": expert.reference, "parameters": {"weight": _weight(genome.coefficients[number], groups)}}
            for number, expert in enumerate(family.experts)
        ],
        "dtype": "float32",
    }
    if len(weights) == 1:
        record["out_dtype"] = str(weights.pop()).removeprefix("torch.")
    if genome.mutations:
        carried = {
            "groups": setting.model_dump(mode="json")["groups"],
            "vocabulary": family.models.vocabulary,
            **genome.to_json(),
        }
        record["parameters"] = {"genome": json.dumps(carried, separators=(",", ":"))}
    return MergeConfiguration.model_validate(record)


def _weight(coefficients: Sequence[float], groups: Groups) -> Any:
    """One number, or one per tensor filter; the largest group is the rest that no filter names."""
    values = [float(coefficient) for coefficient in coefficients]
    if len(set(values)) == 1:
        return values[0]
    rest = max(range(len(groups)), key=lambda group: len(groups.members(group)))
    filters = [
        {"filter": text, "value": values[group]}
        for group in range(len(groups))
        if group != rest
        for text in _filters(group, groups)
    ]
    return [*filters, {"value": values[rest]}]


def _filters(group: int, groups: Groups) -> list[str]:
    """Texts that are found in the names of a group's tensors and in no others: prefixes as short as can be."""
    members = set(groups.members(group))
    others = [name for number in range(len(groups)) if number != group for name in groups.members(number)]
    filters: list[str] = []
    for name in groups.members(group):
        if any(text in name for text in filters):
            continue
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) + "." for length in range(1, len(parts))]
        fitting = (prefix for prefix in prefixes if not any(prefix in other for other in others))
        filters.append(next(fitting, name))
    unsure = [text for text in filters if any(text in other for other in others)]
    if unsure:  # a whole name inside another's: mergekit takes the first filter that fits, so order decides
        filters.sort(key=len, reverse=True)
    assert all(any(text in name for text in filters) for name in members)
    return filters
