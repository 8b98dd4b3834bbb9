"""The genome: a few kilobytes that determine a child's weights, which are built where the child is scored.

    child = base + sum_i c_i[g] tau_i + sum_e share_e[g] term_e + sum_f share_f[g] fit_f

for every tensor of group g, where tau_i is the task vector of expert i, term_e the change by mutation e, and fit_f the
change by fit f, whose values were learned by gradient. A mutation along a child states the mixture of task vectors
whose singular directions it follows, so descendants inherit its change in proportion. All sums are linear in the
genome, so crossover is a weighted sum of genomes, and a child needs none of its ancestors.
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
FORMAT_WITH_MIXTURES = 3
_FORMATS = (GENOME_FORMAT, FORMAT_WITH_FITS, FORMAT_WITH_MIXTURES)
MAX_COEFFICIENT = 1e6  # far beyond any model that answers; what is larger is damage
NEGLIGIBLE = 1e-4  # a mutation or fit whose share is smaller in every group is below bfloat16 rounding: dropped

MOST_MIXTURES = 8
"""Mutations along mixtures that a combination of genomes keeps, the largest shares: each costs an SVD per tensor."""
_MIXTURE_DIGITS = 6

Matrix = NDArray[np.float64]


_Value = Annotated[float, Field(ge=-MAX_COEFFICIENT, le=MAX_COEFFICIENT)]


class _StrictRecord(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class _FitRecord(_StrictRecord):
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    share: list[_Value]


_Coefficients = Annotated[list[Annotated[list[_Value], Field(min_length=1)]], Field(min_length=1)]


class _MixtureRecord(_StrictRecord):
    coefficients: _Coefficients
    fits: list[_FitRecord] = []


class _MutationRecord(_StrictRecord):
    kind: Literal["svd", "gaussian"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    scale: _Value
    share: list[_Value]
    expert: Annotated[int, Field(ge=0)] | None = None
    signed: bool = False
    of: _MixtureRecord | None = None


class _GenomeRecord(_StrictRecord):
    coefficients: _Coefficients
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
    if stated not in _FORMATS or isinstance(stated, bool):
        known = f"{', '.join(map(str, _FORMATS[:-1]))} and {_FORMATS[-1]}"
        raise ValueError(f"genome format {stated!r:.50}; this version reads formats {known}")
    if stated != FORMAT_WITH_MIXTURES and ("fits" in record) != (stated == FORMAT_WITH_FITS):
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
    if any(mutation.of is not None for mutation in valid.mutations) != (stated == FORMAT_WITH_MIXTURES):
        raise ValueError(f"genome: only format {FORMAT_WITH_MIXTURES} has mutations with `of`, and it has at least one")
    for number, mutation in enumerate(valid.mutations):
        if mutation.of is not None:
            _require_valid_mixture(mutation, valid, f"genome: mutations.{number}.of")


def _require_valid_mixture(mutation: _MutationRecord, genome: _GenomeRecord, place: str) -> None:
    """Check the mixture of a mutation; `place` names it in messages.

    Raises:
        ValueError: the mutation also states an expert, or the mixture has other experts, groups or fits than the
            genome.
    """
    mixture = mutation.of
    assert mixture is not None
    if mutation.kind != "svd" or mutation.expert is not None:
        raise ValueError(f"{place}: only for an svd mutation without an expert")
    experts, groups = len(genome.coefficients), len(genome.coefficients[0])
    rows = [*mixture.coefficients, *(fit.share for fit in mixture.fits)]
    if len(mixture.coefficients) != experts or any(len(row) != groups for row in rows):
        raise ValueError(f"{place}: not values for {experts} experts in {groups} groups")
    digests = [fit.digest for fit in mixture.fits]
    if digests != sorted(set(digests)) or not {*digests} <= {fit.digest for fit in genome.fits}:
        raise ValueError(f"{place}.fits: not among the genome's, in ascending order")


@dataclass(frozen=True)
class Mixture:
    """What a child held before its mutation: the task vector of a model without mutations.

    coefficients: of each expert in each group. fits: digest and share in each group, by ascending digest.
    """

    coefficients: tuple[tuple[float, ...], ...]
    fits: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @classmethod
    def of(cls, genome: Genome) -> Mixture:
        """The mixture of a genome, without its mutations, rounded to keep records short."""
        coefficients, shares = (
            tuple(map(tuple, (matrix.round(_MIXTURE_DIGITS) + 0.0).tolist()))
            for matrix in (genome.coefficients, genome.fit_shares)
        )
        return cls(coefficients, tuple(zip(genome.fits, shares, strict=True)))

    @cached_property
    def genome(self) -> Genome:
        """The genome without mutations that has this task vector."""
        plain = coefficient_genome(np.array(self.coefficients))
        shares = np.array([share for _, share in self.fits]).reshape(len(self.fits), plain.coefficients.shape[1])
        return replace(plain, fits=tuple(digest for digest, _ in self.fits), fit_shares=shares)

    def to_json(self) -> dict[str, Any]:
        """The mixture as JSON values."""
        record: dict[str, Any] = {"coefficients": [list(row) for row in self.coefficients]}
        if self.fits:
            record["fits"] = [{"digest": digest, "share": list(share)} for digest, share in self.fits]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Mixture:
        """Inverse of `to_json`."""
        fits = tuple((fit["digest"], _floats(fit["share"])) for fit in record.get("fits", []))
        return cls(tuple(map(_floats, record["coefficients"])), fits)


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


@dataclass(frozen=True, slots=True)
class Mutation:
    """One seeded random change. Its values are never stored: they follow from (seed, tensor name).

    kind `svd`: a draw w ~ U(0, scale), or U(-scale, scale) if `signed`, per singular direction of `expert`'s task
    vector, or of the mixture `of`. kind `gaussian`: N(0, scale^2) noise on the tensor; `expert` and `of` are None.
    """

    kind: Literal["svd", "gaussian"]
    expert: int | None
    seed: int
    scale: float
    signed: bool = False
    of: Mixture | None = None

    def to_json(self) -> dict[str, Any]:
        """The mutation as JSON values, without fields that have their default."""
        record: dict[str, Any] = {"kind": self.kind, "seed": self.seed, "scale": self.scale}
        if self.expert is not None:
            record["expert"] = self.expert
        if self.signed:
            record["signed"] = True
        if self.of is not None:
            record["of"] = self.of.to_json()
        return record

    def to_step(self) -> dict[str, Any]:
        """The mutation as a step of a run records it: without a mixture, which follows from the child's parents."""
        record = self.to_json()
        return record if self.of is None else {**record, "of": "child"}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Mutation:
        """Inverse of `to_json`."""
        return cls(
            kind=record["kind"],
            expert=record.get("expert"),
            seed=record["seed"],
            scale=record["scale"],
            signed=record.get("signed", False),
            of=None if record.get("of") is None else Mixture.from_json(record["of"]),
        )


@dataclass(frozen=True, eq=False)
class Genome:
    """Coefficients, mutations and fits of one child.

    coefficients: of each expert's task vector in each group of tensors, shape (experts, groups). mutations: ordered by
    seed. shares: of each mutation in each group, shape (mutations, groups). fits: SHA-256 of each fit's file, in hex,
    ascending; those in the mixtures of mutations are always among them, even at share 0. fit_shares: of each fit in
    each group, shape (fits, groups).
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
        """The genome as JSON values, with the format version: a genome without fits or mixtures has the format before
        there were any, and so the digest that it had then."""
        plain = FORMAT_WITH_FITS if self.fits else GENOME_FORMAT
        record = {
            "format": FORMAT_WITH_MIXTURES if any(mutation.of for mutation in self.mutations) else plain,
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
    mutations = tuple(
        mutation if mutation.of is None else replace(mutation, of=Mixture.of(spread(mutation.of.genome, groups)))
        for mutation in genome.mutations
    )
    return Genome(coefficients, mutations, shares, genome.fits, fit_shares)


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
    """The weighted sum of genomes, without negligible mutations, and with the `MOST_MIXTURES` strongest along mixtures.

    weights: shape (genomes, groups).
    """
    coefficients = sum(w * genome.coefficients for w, genome in zip(weights, genomes, strict=True))
    seeds = np.concatenate([genome.seeds for genome in genomes])
    union, first, position = np.unique(seeds, return_index=True, return_inverse=True)
    shares = np.zeros((len(union), weights.shape[1]))
    offset = 0
    for w, genome in zip(weights, genomes, strict=True):
        shares[position[offset : offset + len(genome.mutations)]] += w * genome.shares
        offset += len(genome.mutations)
    strength = np.abs(shares).max(axis=1, initial=0.0)
    kept = np.flatnonzero(strength >= NEGLIGIBLE)
    pool = [mutation for genome in genomes for mutation in genome.mutations]
    along = [i for i in kept if pool[first[i]].of is not None]
    if len(along) > MOST_MIXTURES:
        dropped = sorted(along, key=lambda i: (-strength[i], i))[MOST_MIXTURES:]
        kept = np.setdiff1d(kept, dropped)
    mutations = tuple(pool[first[i]] for i in kept)
    needed = {digest for mutation in mutations if mutation.of is not None for digest, _ in mutation.of.fits}
    fits = _combined_fits(genomes, weights, needed)
    return Genome(np.asarray(coefficients), mutations, shares[kept], *fits)


def _combined_fits(genomes: Sequence[Genome], weights: Matrix, needed: set[str]) -> tuple[tuple[str, ...], Matrix]:
    """The fits of a weighted sum of genomes and their shares, without negligible ones that are not `needed`."""
    totals: dict[str, Matrix] = {}
    for w, genome in zip(weights, genomes, strict=True):
        for digest, share in zip(genome.fits, genome.fit_shares, strict=True):
            totals[digest] = totals.get(digest, 0.0) + w * share
    kept = sorted(digest for digest, share in totals.items() if np.abs(share).max() >= NEGLIGIBLE or digest in needed)
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
