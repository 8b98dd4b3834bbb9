"""The genome: a few kilobytes that determine a child's weights, which are built where the child is scored.

    child = base + sum_i c_i[g] tau_i + sum_e share_e[g] term_e + sum_f share_f[g] fit_f

for every tensor of group g, where tau_i is the task vector of expert i, term_e the change by mutation e, and fit_f the
change by fit f, whose values were learned by gradient. All sums are linear in the genome, so crossover is a weighted
sum of genomes, and a child needs none of its ancestors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

GENOME_FORMAT = 1
FORMAT_WITH_FITS = 2
MAX_COEFFICIENT = 1e6  # far beyond any model that answers; what is larger is damage
NEGLIGIBLE = 1e-4  # a mutation or fit whose share is smaller in every group is below bfloat16 rounding: dropped

Matrix = NDArray[np.float64]


_Value = Annotated[float, Field(ge=-MAX_COEFFICIENT, le=MAX_COEFFICIENT)]


class _StrictRecord(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class _MutationRecord(_StrictRecord):
    kind: Literal["svd", "gaussian"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    scale: _Value
    share: list[_Value]
    expert: Annotated[int, Field(ge=0)] | None = None
    signed: bool = False


class _FitRecord(_StrictRecord):
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    share: list[_Value]


class _GenomeRecord(_StrictRecord):
    coefficients: Annotated[list[Annotated[list[_Value], Field(min_length=1)]], Field(min_length=1)]
    mutations: list[_MutationRecord]
    fits: list[_FitRecord] = []


def _require_valid(record: Any) -> None:
    """Check the JSON values of a genome.

    Raises:
        ValueError: a different format version, or not what `Genome.to_json` gives; one line.
    """
    if not isinstance(record, dict):
        raise ValueError("not a genome")
    stated = record.get("format")
    if stated not in (GENOME_FORMAT, FORMAT_WITH_FITS) or isinstance(stated, bool):
        known = f"{GENOME_FORMAT} and {FORMAT_WITH_FITS}"
        raise ValueError(f"genome format {stated!r:.50}; this version reads formats {known}")
    if ("fits" in record) != (stated == FORMAT_WITH_FITS):
        raise ValueError(f"genome: `fits` belongs to format {FORMAT_WITH_FITS}, not {stated}")
    try:
        valid = _GenomeRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        raise ValueError(f"genome: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    groups = len(valid.coefficients[0])
    if any(len(row) != groups for row in valid.coefficients):
        raise ValueError("genome: coefficients: rows of different lengths")
    shares = {f"mutations.{number}": mutation.share for number, mutation in enumerate(valid.mutations)}
    shares |= {f"fits.{number}": fit.share for number, fit in enumerate(valid.fits)}
    for place, share in shares.items():
        if len(share) != groups:
            raise ValueError(f"genome: {place}.share: {len(share)} values for {groups} groups")
    digests = [fit.digest for fit in valid.fits]
    if digests != sorted(set(digests)):
        raise ValueError("genome: fits: not in ascending order of their digests, or one is stated twice")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One seeded random change. Its values are never stored: they follow from (seed, tensor name).

    kind `svd`: a draw w ~ U(0, scale), or U(-scale, scale) if `signed`, per singular direction of `expert`'s task
    vector. kind `gaussian`: N(0, scale^2) noise on the tensor; `expert` is None.
    """

    kind: Literal["svd", "gaussian"]
    expert: int | None
    seed: int
    scale: float
    signed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The mutation as JSON values, without fields that have their default."""
        record: dict[str, Any] = {"kind": self.kind, "seed": self.seed, "scale": self.scale}
        if self.expert is not None:
            record["expert"] = self.expert
        if self.signed:
            record["signed"] = True
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Mutation:
        """Inverse of `to_json`."""
        return cls(
            kind=record["kind"],
            expert=record.get("expert"),
            seed=record["seed"],
            scale=record["scale"],
            signed=record.get("signed", False),
        )


@dataclass(frozen=True, eq=False)
class Genome:
    """Coefficients, mutations and fits of one child.

    coefficients: of each expert's task vector in each group of tensors, shape (experts, groups). mutations: ordered by
    seed. shares: of each mutation in each group, shape (mutations, groups). fits: SHA-256 of each fit's file, in hex,
    ascending. fit_shares: of each fit in each group, shape (fits, groups).
    """

    coefficients: Matrix
    mutations: tuple[Mutation, ...]
    shares: Matrix
    fits: tuple[str, ...] = ()
    fit_shares: Matrix = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if not self.fits:
            object.__setattr__(self, "fit_shares", np.zeros((0, self.coefficients.shape[1])))

    @cached_property
    def seeds(self) -> NDArray[np.int64]:
        """The mutations' seeds, ascending, shape (mutations,)."""
        return np.array([mutation.seed for mutation in self.mutations], dtype=np.int64)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Genome)
            and self.mutations == other.mutations
            and np.array_equal(self.coefficients, other.coefficients)
            and np.array_equal(self.shares, other.shares)
            and self.fits == other.fits
            and np.array_equal(self.fit_shares, other.fit_shares)
        )

    def to_json(self) -> dict[str, Any]:
        """The genome as JSON values, with the format version: a genome without fits has the format before there were
        any, and so the digest that it had then."""
        record = {
            "format": FORMAT_WITH_FITS if self.fits else GENOME_FORMAT,
            "coefficients": (self.coefficients + 0.0).tolist(),  # -0.0 equals 0.0, so both must give the same text
            "mutations": [
                {**mutation.to_json(), "share": share}
                for mutation, share in zip(self.mutations, (self.shares + 0.0).tolist(), strict=True)
            ],
        }
        if self.fits:
            shares = (self.fit_shares + 0.0).tolist()
            record["fits"] = [
                {"digest": digest, "share": share} for digest, share in zip(self.fits, shares, strict=True)
            ]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Genome:
        """Inverse of `to_json`.

        Raises:
            ValueError: the record has a different format version, or is not a genome.
        """
        _require_valid(record)
        coefficients = np.array(record["coefficients"], dtype=np.float64)
        mutations = tuple(Mutation.from_json(entry) for entry in record["mutations"])
        shares = np.array([entry["share"] for entry in record["mutations"]], dtype=np.float64)
        fits = record.get("fits", [])
        fit_shares = np.array([entry["share"] for entry in fits], dtype=np.float64)
        groups = coefficients.shape[1]
        return cls(
            coefficients,
            mutations,
            shares.reshape(len(mutations), groups),
            tuple(entry["digest"] for entry in fits),
            fit_shares.reshape(len(fits), groups),
        )

    def dumps(self) -> str:
        """Canonical JSON text: equal genomes give equal text."""
        return json.dumps(self.to_json(), separators=(",", ":"))


def coefficient_genome(coefficients: Matrix) -> Genome:
    """The genome with these coefficients, shape (experts, groups), and no mutations."""
    return Genome(coefficients, (), np.zeros((0, coefficients.shape[1])))


def spread(genome: Genome, groups: int) -> Genome:
    """A genome of one group written with `groups` groups; it gives the same weights."""
    wide = (np.repeat(each, groups, axis=1) for each in (genome.coefficients, genome.shares, genome.fit_shares))
    coefficients, shares, fit_shares = wide
    return Genome(coefficients, genome.mutations, shares, genome.fits, fit_shares)


def expert_genome(expert: int, experts: int, groups: int) -> Genome:
    """The genome of expert number `expert`: coefficient 1 for its own task vector in every group, nothing else."""
    coefficients = np.zeros((experts, groups))
    coefficients[expert] = 1.0
    return coefficient_genome(coefficients)


def fit_genome(digest: str, experts: int, groups: int) -> Genome:
    """The genome of a fit as it was learned: its whole change in every group, nothing else."""
    none = coefficient_genome(np.zeros((experts, groups)))
    return replace(none, fits=(digest,), fit_shares=np.ones((1, groups)))


def level_genome(level: float, experts: int, groups: int) -> Genome:
    """The genome with coefficient `level` for every expert: 0 is the base, 1 / `experts` the plain mean."""
    return coefficient_genome(np.full((experts, groups), level))


def combine(genomes: Sequence[Genome], weights: Matrix) -> Genome:
    """The weighted sum of genomes, without negligible mutations. weights: shape (genomes, groups)."""
    coefficients = sum(w * genome.coefficients for w, genome in zip(weights, genomes, strict=True))
    seeds = np.concatenate([genome.seeds for genome in genomes])
    union, first, position = np.unique(seeds, return_index=True, return_inverse=True)
    shares = np.zeros((len(union), weights.shape[1]))
    offset = 0
    for w, genome in zip(weights, genomes, strict=True):
        shares[position[offset : offset + len(genome.mutations)]] += w * genome.shares
        offset += len(genome.mutations)
    kept = np.flatnonzero(np.abs(shares).max(axis=1, initial=0.0) >= NEGLIGIBLE)
    pool = [mutation for genome in genomes for mutation in genome.mutations]
    fits = _combined_fits(genomes, weights)
    return Genome(np.asarray(coefficients), tuple(pool[first[i]] for i in kept), shares[kept], *fits)


def _combined_fits(genomes: Sequence[Genome], weights: Matrix) -> tuple[tuple[str, ...], Matrix]:
    """The fits of a weighted sum of genomes and their shares, without negligible ones."""
    totals: dict[str, Matrix] = {}
    for w, genome in zip(weights, genomes, strict=True):
        for digest, share in zip(genome.fits, genome.fit_shares, strict=True):
            totals[digest] = totals.get(digest, 0.0) + w * share
    kept = sorted(digest for digest, share in totals.items() if np.abs(share).max() >= NEGLIGIBLE)
    return tuple(kept), np.array([totals[digest] for digest in kept]).reshape(len(kept), weights.shape[1])


def crossover(a: Genome, b: Genome, weights: Matrix, scaling: float = 1.0) -> Genome:
    """Model-merging crossover (paper, section 4.2): per group scaling * (w1 a + w2 b) / (w1 + w2).

    weights: w1 and w2, drawn from N(mu, sigma^2), shape (2, groups). scaling: multiplies the task vectors, as in task
    arithmetic; the paper's value is 1.
    """
    return combine((a, b), scaling * (weights / weights.sum(axis=0)))


def mutate(genome: Genome, mutation: Mutation) -> Genome:
    """The genome with one more mutation, at share 1 in every group."""
    at = int(np.searchsorted(genome.seeds, mutation.seed))
    mutations = (*genome.mutations[:at], mutation, *genome.mutations[at:])
    whole = np.ones((1, genome.shares.shape[1]))
    shares = np.concatenate((genome.shares[:at], whole, genome.shares[at:]))
    return replace(genome, mutations=mutations, shares=shares)


def aggregate(genomes: Sequence[Genome], scores: Sequence[float]) -> Genome:
    """One genome from the best elite of each task (paper, section 4.4), weighted by the softmax of their scores.

    scores: of each elite on its own task, in the order of `genomes`.
    """
    exponents = np.exp(np.asarray(scores, dtype=np.float64) - max(scores))
    groups = genomes[0].coefficients.shape[1]
    return combine(genomes, np.tile((exponents / exponents.sum())[:, None], (1, groups)))
