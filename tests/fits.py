"""Fits with random values over the models of a test, and runs that begin with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.evolution.genome import Genome, fit_genome
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.channels import channel_count
from cycleqd_merge.merging.family import ModelFamily, open_family
from cycleqd_merge.merging.fits import Along, Fit, keep_fit, read_fit
from cycleqd_merge.session.evolve import evolve


def random_fit(family: ModelFamily, along: Along = "channel", scaled: Sequence[int] = (), seed: int = 0) -> Fit:
    """A fit with a coefficient per expert and tensor, and scales of the experts `scaled`."""
    random = np.random.default_rng(seed)
    shapes = {weight.name: weight.shape for weight in family.weights}
    sizes = {expert: dict(bases.ranks) for expert, bases in prepare_bases(family, scaled).items()}
    if along == "channel":
        sizes = {expert: {name: channel_count(shapes[name]) for name in each} for expert, each in sizes.items()}
    scales = {n: random.normal(0, 0.3, sum(each.values())).astype(np.float32) for n, each in sizes.items()}
    coefficients = random.normal(0.5, 0.2, (len(family.experts), len(shapes))).astype(np.float32)
    return Fit(tuple(shapes), coefficients, along, sizes, scales)


def evolve_from_fits(recipe: Path, scaled: Sequence[tuple[Along, tuple[int, ...]]]) -> list[str]:
    """Evolve a recipe from founders that are fits with the best scores; returns their digests in their order."""
    loaded = load_recipe(recipe)
    family = open_family(loaded.pinned_models())
    digests = [keep_fit(random_fit(family, *each, seed).to_bytes()) for seed, each in enumerate(scaled)]
    founders = [
        {"genome": genome.to_json(), "scores": {"vowels": 1.0 - place / 4, "letters": 1.0}, "from": place}
        for place, genome in enumerate(map(_genome, digests))
    ]
    evolve(loaded, founders=founders)
    return digests


def _genome(digest: str) -> Genome:
    experts = read_fit(digest).coefficients.shape[0]
    return fit_genome(digest, experts, 1)
