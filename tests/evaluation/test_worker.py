"""The worker and its pool: means and order of scores, and how failures are handled."""

from __future__ import annotations

import gc
import logging
import math
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cycleqd_merge.errors import InfrastructureError, Interrupted, UserError
from cycleqd_merge.evaluation.pools.pool import Finished, LocalPool, evaluate_proposal
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.archive import ArchiveSnapshot, Axis
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.strategies.difficulty import FirstRows
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.racing import Race
from tests.evaluation.conftest import BASE, Reference, genome_of, use


@pytest.fixture
def finish(open_worker: Callable[..., Worker]) -> Callable[..., Finished]:
    """A pool's result for one proposal on the given tasks."""

    def finished(*uses: dict[str, Any], genome: Any = BASE) -> Finished:
        pool = LocalPool(open_worker(*uses))
        pool.submit(Proposal(7, genome, {}))
        return pool.next()

    return finished


def test_a_score_is_the_mean_over_samples_in_the_order_of_the_suite(
    open_worker: Callable[..., Worker], reference: Reference
) -> None:
    worker = open_worker(use("kept", "Scores", "keep", scores=[1, 1, 0, 0.5]), use("z", "Scores", scores=[0.25, 0.75]))
    evaluation = worker.evaluate(BASE)
    assert list(evaluation.results) == ["z", "fine", "kept"]
    assert evaluation.scores == (0.5, 0.5, 0.625)
    kept = evaluation.results["kept"]
    assert kept.samples == ("search-0", "search-1", "search-2", "search-3")
    assert [outcome.output for outcome in kept.outcomes] == [reference.text(sample, 4) for sample in kept.samples]
    assert kept.truncated == 1.0
    assert [outcome.tokens for outcome in kept.outcomes] == [4, 4, 4, 4]
    rows = evaluation.results["kept"].by_row
    assert (rows.scores.tolist(), rows.tokens.tolist()) == ([1.0, 1.0, 0.0, 0.5], [4, 4, 4, 4])


def test_unanswered_requests_of_a_failed_evaluation_end_before_the_next(
    open_worker: Callable[..., Worker], reference: Reference
) -> None:
    worker = open_worker(use("late", "RaisesDuringBatch", samples=24))
    with pytest.raises(ExceptionGroup):
        worker.evaluate(genome_of(1, 0))
    assert not worker._engine._waiting  # type: ignore[attr-defined]
    found = worker.evaluate(BASE).results["late"]
    assert [outcome.output for outcome in found.outcomes] == [reference.text(sample, 40) for sample in found.samples]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_a_signal_during_a_sample_ends_the_evaluation_cleanly(
    open_worker: Callable[..., Worker],
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    before: Any,
) -> None:
    worker = open_worker(use("ended", "Signals", number=number))
    gc.collect()
    caplog.clear()  # ignore what earlier tests left behind
    outside = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(Interrupted), terminable():
            worker.evaluate(genome_of(1, 0))
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outside)
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    found = worker.evaluate(BASE).results["ended"]
    assert [outcome.output for outcome in found.outcomes] == [reference.text(sample, 40) for sample in found.samples]


def race(quality: float) -> Race:
    """Three tasks with one cell each, which contains an elite of this quality."""
    axes = (Axis(0.0, 1.0, 1),) * 3
    return Race(0.25, 0.99, tuple(ArchiveSnapshot(task, axes, {(0, 0): quality}) for task in range(3)))


def test_a_candidate_that_loses_its_race_is_scored_only_on_the_first_rows(open_worker: Callable[..., Worker]) -> None:
    worker = open_worker(use("a", "Scores", scores=[0.0] * 80), use("b", "Scores", scores=[0.25] * 40))
    lost = worker.evaluate(BASE, race=race(0.999))
    assert (lost.censored, lost.scored, lost.rows) == (True, 20 + 10 + 1, 80 + 40 + 1)
    assert lost.results["a"].samples == tuple(f"search-{place}" for place in race(0.9).first(0, 80).places)
    assert lost.scores == (0.0, 0.25, 0.5)
    kept = lost.results["a"].by_row
    assert np.flatnonzero(kept.scored).tolist() == list(race(0.9).first(0, 80).places)
    assert (len(kept.scores), kept.mean) == (80, 0.0)


def test_a_race_scores_the_rows_that_were_chosen_for_it(open_worker: Callable[..., Worker]) -> None:
    scores = [float(place % 2) for place in range(80)]
    worker = open_worker(use("a", "Scores", scores=scores), use("b", "Scores", scores=[0.25] * 40))
    chosen = FirstRows((0, 2, 4, 9, 10), 0.5), FirstRows((7, 39)), FirstRows((0,))
    lost = worker.evaluate(BASE, race=replace(race(0.999), chosen=chosen))
    assert lost.scores == (0.2, 0.25, 0.5)
    assert [np.flatnonzero(lost.results[name].by_row.scored).tolist() for name in ("a", "b")] == [
        [0, 2, 4, 9, 10],
        [7, 39],
    ]
    assert worker.evaluate(BASE, race=replace(race(0.3), chosen=chosen)).scores == (0.5, 0.25, 0.5)


def test_a_candidate_that_does_not_lose_is_scored_as_without_a_race(open_worker: Callable[..., Worker]) -> None:
    scores = [place / 80 for place in range(80)]
    worker = open_worker(use("a", "Scores", scores=scores), use("b", "Scores", scores=[0.25] * 40))
    raced, plain = worker.evaluate(BASE, race=race(0.3)), worker.evaluate(BASE)
    assert not raced.censored
    assert (raced.results, raced.scores, raced.scored) == (plain.results, plain.scores, plain.scored)


def test_a_pool_uses_the_race_of_a_proposal(open_worker: Callable[..., Worker]) -> None:
    pool = LocalPool(open_worker(use("a", "Scores", scores=[0.0] * 80), use("b", "Scores", scores=[0.0] * 40)))
    for number, quality in enumerate((0.999, 0.0)):
        pool.submit(Proposal(number, BASE, {}, race(quality)))
    finished = [pool.next(), pool.next()]
    assert [each.evaluation.censored for each in finished if each.evaluation] == [True, False]


def test_rows_and_limit_choose_the_samples(open_worker: Callable[..., Worker]) -> None:
    worker = open_worker(use("a", "Scores", scores=[1, 0, 0, 0], heldout=[0.5, 1, 1]))
    assert worker.evaluate(BASE, "heldout").results["a"].samples == ("heldout-0", "heldout-1", "heldout-2")
    assert worker.evaluate(BASE, limit=2).scores == (0.5, 0.5)


def test_known_scores_are_not_measured_again(open_worker: Callable[..., Worker]) -> None:
    evaluation = open_worker(use("a", "Scores", scores=[1])).evaluate(BASE, known={"a": 0.125})
    assert evaluation.scores == (0.125, 0.5)
    assert list(evaluation.results) == ["fine"]


def test_without_a_candidate_the_weights_are_kept(open_worker: Callable[..., Worker]) -> None:
    worker = open_worker(use("a", "Scores", scores=[1]))
    outputs = [worker.evaluate(genome).results["a"].outcomes[0].output for genome in (None, genome_of(1, 0), None)]
    assert outputs[0] != outputs[1] == outputs[2]


@pytest.mark.parametrize("score", [0, 0.0, 1, 1.0, 0.5])
def test_scores_from_0_to_1_are_accepted(finish: Callable[..., Finished], score: float) -> None:
    finished = finish(use("a", "Scores", scores=[score]))
    assert (finished.number, finished.error) == (7, None)
    assert finished.evaluation is not None
    assert finished.evaluation.scores == (score, 0.5)


@pytest.mark.parametrize("score", [True, False, np.float32(0.5), np.int64(1)])
def test_scores_that_are_numbers_of_another_type_are_accepted(finish: Callable[..., Finished], score: Any) -> None:
    finished = finish(use("a", "Scores", scores=[score]))
    assert finished.evaluation is not None
    (outcome,) = finished.evaluation.results["a"].outcomes
    assert (type(outcome.score), outcome.score) == (float, float(score))


@pytest.mark.parametrize(("score", "shown"), [(None, "None"), ("1", "'1'"), ([1.0], "[1.0]"), (1 + 0j, "(1+0j)")])
def test_a_score_that_is_no_number_fails_the_evaluation(
    finish: Callable[..., Finished], score: Any, shown: str
) -> None:
    finished = finish(use("a", "Scores", scores=[0.5, score]))
    assert finished.error == f"ValueError: task a, sample search-1: score {shown} is not in [0, 1]"


def test_a_result_that_is_no_outcome_fails_the_evaluation(finish: Callable[..., Finished]) -> None:
    finished = finish(use("a", "ReturnsScore", scores=[0.5]))
    assert finished.error == "ValueError: task a, sample search-0: the result is of type float, not an Outcome"


@pytest.mark.parametrize("score", [-0.1, 1.0001, math.nan, math.inf])
def test_a_score_outside_0_to_1_fails_the_evaluation(finish: Callable[..., Finished], score: float) -> None:
    finished = finish(use("a", "Scores", scores=[0.5, score]))
    assert finished.evaluation is None
    assert finished.error == f"ValueError: task a, sample search-1: score {score} is not in [0, 1]"


def test_a_failed_evaluation_is_tried_once_more(finish: Callable[..., Finished]) -> None:
    finished = finish(use("a", "Raises", raised=["ValueError"]))
    assert finished.error is None
    assert finished.evaluation is not None
    assert finished.evaluation.scores == (1.0, 0.5)


@pytest.mark.parametrize(
    ("last", "message"),
    [("KeyError", "KeyError: 'the disk is full'"), ("RuntimeError", "RuntimeError: the disk is full")],
)
def test_a_repeated_failure_is_recorded_with_its_last_error(
    finish: Callable[..., Finished], last: str, message: str
) -> None:
    finished = finish(use("a", "Raises", raised=["ValueError", last]))
    assert finished.evaluation is None
    assert finished.error == message


def test_nan_weights_are_a_failure_and_the_pool_continues(open_worker: Callable[..., Worker]) -> None:
    pool = LocalPool(open_worker(use("a", "Scores", scores=[1])))
    for number, genome in enumerate((genome_of(math.nan, 0), BASE)):
        pool.submit(Proposal(number, genome, {}))
    failed, fine = pool.next(), pool.next()
    assert (failed.number, failed.evaluation) == (0, None)
    assert str(failed.error).startswith("ValueError: tensor ")
    assert (fine.number, fine.error) == (1, None)


def test_a_configuration_that_mergekit_cannot_build_only_fails_itself(open_worker: Callable[..., Worker]) -> None:
    pool = LocalPool(open_worker(use("a", "Scores", scores=[1])))
    pool.submit(Proposal(0, MergekitConfiguration("merge_method: linear\nmodels: [{model: nowhere/to-be-found}]"), {}))
    pool.submit(Proposal(1, BASE, {}))
    failed, fine = pool.next(), pool.next()
    assert failed.evaluation is None
    assert "candidate" in str(failed.error)
    assert (fine.number, fine.error) == (1, None)


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        ("InfrastructureError", InfrastructureError, "the disk is full"),
        ("OSError", InfrastructureError, "an evaluation failed: the disk is full"),
        ("MemoryError", InfrastructureError, "an evaluation failed: MemoryError: the disk is full"),
        ("ModuleNotFoundError", InfrastructureError, "an evaluation failed: ModuleNotFoundError: the disk is full"),
        ("OutOfMemoryError", InfrastructureError, "an evaluation failed: OutOfMemoryError: the disk is full"),
        (
            "no memory",
            InfrastructureError,
            "an evaluation failed: RuntimeError: DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 9 bytes",
        ),
        (
            "second loop",
            InfrastructureError,
            "an evaluation failed: RuntimeError: asyncio.run() cannot be called from a running event loop",
        ),
        ("closed loop", InfrastructureError, "an evaluation failed: RuntimeError: Event loop is closed"),
        ("UserError", UserError, "the disk is full"),
    ],
)
def test_an_infrastructure_failure_is_raised_and_never_a_score(
    finish: Callable[..., Finished], raised: str, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected) as caught:
        finish(use("a", "Raises", raised=[raised] * 2))
    assert str(caught.value) == message


@pytest.mark.parametrize("raised", ["InfrastructureError", "OSError", "UserError"])
def test_a_failed_sandbox_or_disk_is_raised_at_once(finish: Callable[..., Finished], raised: str) -> None:
    with pytest.raises((InfrastructureError, UserError)):
        finish(use("a", "Raises", raised=[raised]))


@pytest.mark.parametrize("raised", ["MemoryError", "OutOfMemoryError", "no memory", "closed loop"])
def test_one_lack_of_memory_is_retried(finish: Callable[..., Finished], raised: str) -> None:
    finished = finish(use("a", "Raises", raised=[raised]))
    assert finished.error is None
    assert finished.evaluation is not None
    assert finished.evaluation.scores == (1.0, 0.5)


def test_only_the_last_error_decides_whether_the_infrastructure_failed(finish: Callable[..., Finished]) -> None:
    assert finish(use("a", "Raises", raised=["MemoryError", "ValueError"])).error == "ValueError: the disk is full"
    with pytest.raises(InfrastructureError, match="an evaluation failed: MemoryError: the disk is full"):
        finish(use("a", "Raises", raised=["ValueError", "MemoryError"]))


def test_the_tensors_of_a_failed_attempt_are_freed_before_the_next() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []
    freed: list[bool] = []

    class Failing:
        def evaluate(self, *_: Any, **__: Any) -> Any:
            freed.extend(reference() is None for reference in kept)
            tensor = torch.zeros(3)
            kept.append(weakref.ref(tensor))
            raise MemoryError("no memory")

    with pytest.raises(InfrastructureError, match="MemoryError: no memory"):
        evaluate_proposal(cast(Worker, Failing()), Proposal(7, BASE, {}), "search", None)
    assert freed == [True]


@pytest.mark.parametrize(
    "raised",
    [
        ["ValueError", "InfrastructureError"],
        ["InfrastructureError", "ValueError"],
        ["OSError", "KeyError", "ValueError"],
        ["KeyError", "RuntimeError", "MemoryError"],
    ],
)
def test_an_infrastructure_failure_takes_precedence_over_other_errors(
    finish: Callable[..., Finished], raised: list[str]
) -> None:
    with pytest.raises(InfrastructureError):
        finish(use("a", "RaisesTogether", raised=raised))


def test_a_failed_evaluation_does_not_affect_later_ones(
    open_worker: Callable[..., Worker], reference: Reference
) -> None:
    worker = open_worker(use("a", "Raises", raised=["ValueError"]), use("many", "Scores", scores=[1] * 50))
    with pytest.raises(ExceptionGroup):
        worker.evaluate(BASE)
    results = worker.evaluate(genome_of(0, 0)).results["many"]
    assert [outcome.output for outcome in results.outcomes] == [reference.text(sample, 4) for sample in results.samples]
