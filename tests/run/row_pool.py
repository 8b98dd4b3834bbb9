"""A pool without models that gives an outcome for every row: rows differ in difficulty, genomes in skill."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from cycleqd_merge.evaluation.pools.pool import Finished
from cycleqd_merge.evaluation.worker import Evaluation, TaskResult
from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.racing import Partial, Race
from cycleqd_merge.tasks.protocol import Outcome, Split
from tests.evolution.references import synthetic_scores
from tests.run.synthetic import EXPERTS, SyntheticPool

ROWS = 240


class RowPool(SyntheticPool):
    """As `SyntheticPool`, with outcomes of `ROWS` rows per task, whose mean is near the synthetic score."""

    def next(self) -> Finished:
        proposal = self._waiting.pop(self._random.randrange(len(self._waiting)))
        return Finished(proposal.number, raced(evaluated(proposal), proposal.race))


def raced(evaluation: Evaluation, race: Race | None) -> Evaluation:
    """What remains of an evaluation after a race, if that is lost."""
    if race is None:
        return evaluation
    results, partials = {}, []
    for place, (task, result) in enumerate(evaluation.results.items()):
        rows = race.first(place, ROWS)
        unscored = tuple(sorted({*range(ROWS)} - {*rows.places}))
        outcomes = tuple(result.outcomes[row] for row in rows.places)
        results[task] = TaskResult(tuple(map(str, rows.places)), outcomes, unscored=unscored)
        partials.append(Partial(results[task].score, len(rows.places), ROWS, rows.variance))
    if not race.lost(partials):
        return evaluation
    scored = sum(partial.scored for partial in partials)
    return Evaluation(results, tuple(each.score for each in results.values()), 0.0, 0.0, scored, evaluation.rows)


def evaluated(proposal: Proposal) -> Evaluation:
    """The evaluation of a genome, the same for the same genome."""
    assert isinstance(proposal.candidate, Genome)
    results: Mapping[str, TaskResult] = {
        task: TaskResult(tuple(map(str, range(ROWS))), row_outcomes(proposal.candidate, task, score))
        for task, score in zip(EXPERTS, synthetic_scores(proposal.candidate, len(EXPERTS)), strict=True)
    }
    scores = tuple(result.score for result in results.values())
    return Evaluation(results, scores, 0.0, 0.0, ROWS * len(EXPERTS), ROWS * len(EXPERTS))


def row_outcomes(genome: Genome, task: str, score: float) -> tuple[Outcome, ...]:
    """Outcomes of 0 or 1, by an item response model whose difficulties depend on the task alone."""
    own = int.from_bytes(hashlib.sha256(f"{candidate_digest(genome)} {task}".encode()).digest()[:8], "little")
    difficulties = 2.0 * np.random.default_rng(len(task)).standard_normal(ROWS)
    ability = 3.0 * np.log(max(score, 1e-3) / max(1 - score, 1e-3))
    right = np.random.default_rng(own).random(ROWS) < 1 / (1 + np.exp(difficulties - ability))
    return tuple(
        Outcome(float(each), tokens=int(5 + 20 * each + place % 7), truncated=place % 50 == 0)
        for place, each in enumerate(right)
    )


class ConfirmingPool(RowPool):
    """Its `submit` takes any split."""

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
        super().submit(proposal)
