"""Fits as founders: every strategy waits for them and searches around the first one, and journals with them replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, fit_genome, mutate
from cycleqd_merge.hub.unite import unite
from cycleqd_merge.journal.log import Event, of_kind
from cycleqd_merge.report.summary import history, summary
from cycleqd_merge.run.identity import as_of_today, fit_identity
from cycleqd_merge.run.state import Run, replay_events
from cycleqd_merge.strategies.coordinates import Coordinates
from tests.evolution.references import snapshot
from tests.run.synthetic import EXPERTS, session_of, start_of, synthetic_recipe

DIGESTS = tuple(letter * 64 for letter in "cabd")
ROWS = {"search": 40, "confirm": 10}
STRATEGIES: list[dict[str, Any]] = [
    {},
    {"evolution": {"cycling": False}},
    {"strategy": {"kind": "random"}},
    {"strategy": {"kind": "cma-es", "population": 20}},
    {"strategy": {"kind": "nsga2", "population": 20}},
    {"strategy": {"kind": "cma-me", "population": 20, "bred": 0.3}},
    {"strategy": {"kind": "bayesian", "bred": 0.3}},
    {"strategy": {"kind": "mergekit"}},
]


def begun(generations: int = 30, in_flight: int = 1, founders: tuple[Genome, ...] = (), **settings: Any) -> list[Event]:
    """A run with four fits before its first evaluation: its start and session."""
    recipe = synthetic_recipe(generations, **{"fit": {}, **settings})
    seeds = [{"genome": each.to_json(), "scores": {}, "from": 0} for each in founders]
    assert recipe.fit is not None
    tasks = {name: {"rows": ROWS} for name in EXPERTS}
    fit = fit_identity(recipe.fit, EXPERTS)
    return [{**start_of(recipe, in_flight), "tasks": tasks, "seeds": seeds, "fit": fit}, session_of(recipe)]


def scores_of(run: Run, number: int) -> list[float] | None:
    """Scores near 1 where the first fit has a share of 1 and one expert's coefficient is a little above 0."""
    candidate = run.search.candidate(number)
    if not isinstance(candidate, Genome):
        return [0.1, 0.2, 0.3]
    shares = dict(zip(candidate.fits, candidate.fit_shares.mean(axis=1), strict=True))
    off = [shares.get(digest, 0.0) - (digest == DIGESTS[0]) for digest in DIGESTS]
    rows = [np.concatenate([off, candidate.coefficients.ravel() - 0.3 * np.eye(3)[task]]) for task in range(3)]
    return [float(np.exp(-np.square(row).sum())) for row in rows]


def fit_event(number: int) -> Event:
    return {"event": "fit", "number": number, "digest": DIGESTS[number], "weights": {"sql": 1.0}, "loss": [2.0, 1.0]}


def play(events: list[Event]) -> tuple[Run, list[Event]]:
    """Complete a run as the loop does; returns all its events too."""
    run, events = replay_events(events), list(events)
    while not run.schedule.done:
        if run.fits_due and not run.open:
            for number in run.fits_due:
                events.append(fit_event(number))
                run.tell_fit(events[-1])
            continue
        number = run.schedule.received
        event = {"event": "result", "number": number, "step": run.steps[number], "scores": scores_of(run, number)}
        events.append({**event, "seconds": [0.0, 1.0]})
        run.tell(events[-1])
    return run, events


@pytest.mark.parametrize("settings", STRATEGIES, ids=str)
@pytest.mark.parametrize("in_flight", [1, 4])
def test_fits_are_founders_of_every_strategy_and_runs_with_them_replay(
    settings: dict[str, Any], in_flight: int
) -> None:
    run, events = play(begun(in_flight=in_flight, **settings))
    assert [event["event"] for event in events[2:10]] == ["result"] * 3 + ["fit"] * 4 + ["result"]
    assert run.steps[:7] == [*({"expert": number} for number in range(3)), *({"fit": number} for number in range(4))]
    for number, digest in enumerate(DIGESTS):
        assert run.search.genome(3 + number) == fit_genome(digest, 3, 1)
    assert run.generations >= 30 or "mergekit" in str(settings)
    again = replay_events(events)
    assert again.steps == run.steps
    assert [again.search.candidate(number) for number in range(len(run.results))] == [
        run.search.candidate(number) for number in range(len(run.results))
    ]
    assert snapshot(again.archives) == snapshot(run.archives)
    assert history(run)[-1]["generation"] == run.generations
    assert len(summary(run)["fits"]) == 4


def test_bounds_come_from_the_experts_alone() -> None:
    run, _ = play(begun(2))
    plain = synthetic_recipe(0)
    alone = Run.begin(plain, {**start_of(plain, 1), "tasks": {name: {"rows": ROWS} for name in EXPERTS}})
    for number in range(3):
        alone.tell({"event": "result", "number": number, "step": {}, "scores": scores_of(run, number)})
    assert run.search.bounds == alone.search.bounds


@pytest.mark.parametrize("kind", ["random", "cma-es", "nsga2", "cma-me"])
def test_the_first_population_is_around_the_first_fit(kind: str) -> None:
    population = {} if kind == "random" else {"population": 200}
    run, _ = play(begun(200, strategy={"kind": kind, **population}))
    points = [run.search.coordinates.point(run.search.candidate(number)) for number in range(7, 207)]
    mean = np.mean([point for point in points if point is not None], axis=0)
    np.testing.assert_allclose(mean, [1, 0, 0, 0, 0, 0, 0], atol=0.07)


def test_bayesian_optimisation_starts_from_the_fits() -> None:
    """It finds a better mean than any founder, near the first fit, which is the best of them."""
    run, _ = play(begun(12, strategy={"kind": "bayesian"}))
    founders = max(run.mean(run.scores(number)) for number in range(7))
    best = run.best_mean()
    assert best >= 7
    assert run.mean(run.scores(best)) > founders
    assert dict(zip(*shares(run, best), strict=True))[DIGESTS[0]] == pytest.approx(1.0, abs=0.4)


def shares(run: Run, number: int) -> tuple[tuple[str, ...], list[float]]:
    genome = run.search.genome(number)
    return genome.fits, genome.fit_shares.mean(axis=1).tolist()


def test_inherited_fits_are_coordinates_too() -> None:
    old = "f" * 64
    founder = crossover(fit_genome(old, 3, 1), expert_genome(0, 3, 1), np.ones((2, 1)))
    run, events = play(begun(8, founders=(founder,), strategy={"kind": "cma-es", "population": 4}))
    assert run.steps[3:5] == [{"seed": 0}, {"fit": 0}]
    assert run.search.coordinates.fits == (old, *DIGESTS)
    assert len(run.steps[8]["shares"]) == 5
    assert replay_events(events).steps == run.steps


@pytest.mark.parametrize("received", [0, 2])
def test_a_fit_before_the_experts_are_scored_is_damage(received: int) -> None:
    _, events = play(begun(2))
    results = of_kind(events, "result")
    with pytest.raises(RecipeError, match=r"journal:\d: damaged: fit 1 is not due here"):
        replay_events([*events[:2], *results[:received], fit_event(1)])
    with pytest.raises(RecipeError, match="damaged: fit 1 is not due here"):
        replay_events([*events[:2], *results[:3], fit_event(1), fit_event(1)])
    with pytest.raises(RecipeError, match="damaged: fit 4 is not due here"):
        replay_events([*events[:2], *results[:3], {**fit_event(1), "number": 4}])


def test_a_run_without_fits_has_the_coordinates_that_it_had() -> None:
    coordinates = Coordinates(2, 2)
    point = np.array([0.1, 0.2, 0.3, 0.4])
    genome = coordinates.genome(point)
    assert genome.to_json()["format"] == 1
    assert coordinates.step(point) == {"coefficients": [[0.1, 0.2], [0.3, 0.4]]}
    np.testing.assert_array_equal(coordinates.point(genome), point)
    np.testing.assert_array_equal(coordinates.recorded(coordinates.step(point)), point)


def test_points_and_genomes() -> None:
    a, b = "a" * 64, "b" * 64
    coordinates = Coordinates(2, 3, (b, a))
    point = np.array([0.25, 0.75, *range(6)], dtype=float)
    genome = coordinates.genome(point)
    assert genome.fits == (a, b)
    assert genome.fit_shares.tolist() == [[0.75] * 3, [0.25] * 3]
    np.testing.assert_array_equal(coordinates.point(genome), point)
    np.testing.assert_array_equal(coordinates.recorded(coordinates.step(point)), point)
    assert coordinates.point(mutate(genome, Mutation("gaussian", None, 1, 0.1))) is None
    assert Coordinates(2, 3, (b,)).point(genome) is None  # a fit that has no coordinate
    uneven = crossover(genome, fit_genome(a, 2, 3), np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
    assert coordinates.point(uneven) is None
    assert coordinates.nearest(uneven)[1] == pytest.approx(uneven.fit_shares[0].mean())
    assert coordinates.genome(np.zeros(8)).fits == ()
    assert coordinates.recorded({"coefficients": [[0.0] * 3] * 2}) is None  # a step without shares
    twice = Coordinates(2, 3, (a, a))
    assert twice.genome(point).fit_shares.tolist() == [[1.0] * 3]
    assert twice.point(twice.genome(point))[:2].tolist() == [1.0, 0.0]  # type: ignore[index]


def test_a_fit_is_part_of_the_identity_but_not_its_width() -> None:
    wide, narrow, other = (
        fit_identity(Recipe.model_validate(_stated(fit)).fit, EXPERTS)  # type: ignore[arg-type]
        for fit in ({}, {"width": 100}, {"steps": 5})
    )
    assert wide == narrow != other
    assert wide["weights"][:2] == [{"sql": 1.0, "bash": 1.0, "math": 1.0}, {"sql": 2.0, "bash": 1.0, "math": 1.0}]
    start = begun()[0]
    shorter = {**start, "fit": {**start["fit"], "settings": {"steps": 300}}}  # of a version with fewer settings
    assert as_of_today(shorter)["fit"] == start["fit"]


def _stated(fit: dict[str, Any]) -> dict[str, Any]:
    return {**synthetic_recipe(1).model_dump(exclude_unset=True), "fit": fit}


def test_nothing_to_learn_is_reported_before_any_work() -> None:
    plain = Recipe.model_validate(_stated({"weights": [{}, {"sql": 0}]})).fit
    assert plain is not None
    with pytest.raises(RecipeError, match="fit: no task offers answers to learn from"):
        fit_identity(plain, [])
    with pytest.raises(RecipeError, match=r"fit.weights.1: every task that can be learned has weight 0 \(sql\)"):
        fit_identity(plain, ["sql"])


@pytest.mark.parametrize("weights", [[dict.fromkeys(EXPERTS, 0)], [{}, dict.fromkeys(EXPERTS, 0)]])
def test_weights_that_are_all_zero_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="at least one task a weight above 0"):
        Recipe.model_validate(_stated({"weights": weights}))


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no task is named 'sq'; did you mean 'sql'\?; available: sql, bash, math"):
        Recipe.model_validate(_stated({"weights": [{"sq": 2}]}))


def test_a_start_other_than_the_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="the search then starts from the first fit"):
        Recipe.model_validate({**_stated({}), "strategy": {"kind": "cma-es", "start": 0.5}})


def test_united_runs_have_the_fits_of_both_as_founders_and_learn_none() -> None:
    _, one = play(begun(6))
    _, two = play(begun(6, evolution={"seed": 4}))
    united = replay_events(unite([("one", one), ("two", two)]))
    assert united.search.space.fits == 0
    assert united.schedule.done or united.open
    assert any(genome.fits for genome in united.search.space.founders)
