"""Candidates for evaluation: genomes and mergekit configurations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from cycleqd_merge.evolution.genome import Genome


@dataclass(frozen=True)
class MergekitConfiguration:
    """A candidate that mergekit itself builds.

    yaml: the text of a mergekit configuration. seed: for random methods (DARE, DELLA); mergekit's `--random-seed`.
    """

    yaml: str
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {"mergekit": self.yaml, "seed": self.seed}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> MergekitConfiguration:
        """Inverse of `to_json`.

        Raises:
            ValueError: the record is not a configuration.
        """
        text, seed = record.get("mergekit"), record.get("seed")
        if not isinstance(text, str) or not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError("not a mergekit configuration with a seed")
        return cls(text, seed)


Candidate = Genome | MergekitConfiguration


def candidate_kind(candidate: Candidate) -> Literal["genome", "configuration"]:
    """The name of a candidate's kind in records."""
    return "genome" if isinstance(candidate, Genome) else "configuration"


def candidate_from_json(record: dict[str, Any]) -> Candidate:
    """Inverse of `to_json` of both kinds.

    Raises:
        ValueError: the record is neither.
    """
    return MergekitConfiguration.from_json(record) if "mergekit" in record else Genome.from_json(record)


def candidate_digest(candidate: Candidate) -> str:
    """SHA-256 over a candidate's JSON: equal candidates have equal digests."""
    return hashlib.sha256(json.dumps(candidate.to_json(), separators=(",", ":")).encode()).hexdigest()


def mutated_experts(*candidates: Candidate) -> set[int]:
    """Numbers of the experts whose singular bases the candidates' mutations need."""
    genomes = [candidate for candidate in candidates if isinstance(candidate, Genome)]
    return {m.expert for genome in genomes for m in genome.mutations if m.expert is not None}


def fits_of(*candidates: Candidate) -> list[str]:
    """Digests of the fits that the candidates have shares of; ascending."""
    return sorted({digest for each in candidates if isinstance(each, Genome) for digest in each.fits})
