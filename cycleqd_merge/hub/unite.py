"""Unite the archives of several runs: all their elites become founders of a new run and keep their scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.journal.log import Event, of_kind
from cycleqd_merge.journal.outcomes import TaskOutcomes, outcomes_to_text
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.semantics import engine_versions
from cycleqd_merge.run.state import Run, replay_events

_SAME = ("base", "experts", "models", "tasks", "groups")
"""Parts of their identities that runs must share, so that genomes and scores mean the same in each. Engines that were
used in more than one of them must have had the same semantics version, too."""


def unite(runs: Sequence[tuple[str, Sequence[Event]]]) -> list[Event]:
    """The journal of a new run that starts from the archives of `runs`, each a name and its events.

    Operators and settings are those of the first run. The seed is derived from all of them, so that the new run does
    not repeat random draws of one of them.

    Raises:
        RecipeError: two runs differ in base, experts, tasks or groups; every difference is listed.
    """
    (first, events), *others = runs
    for name, other in others:
        found = differences(_shared(events, other), _shared(other, events))
        if found:
            listed = "\n".join(f"  {line}" for line in found)
            raise RecipeError(f"{first} and {name} cannot be united; differences:\n{listed}")
    parts = [replay_events(each, name) for name, each in runs]
    founders = _founders(parts)
    session = dict(of_kind(events, "session")[-1])
    seed = _seed([each for _, each in runs])
    evolution = {**session["recipe"].get("evolution", {}), "seed": seed}
    session["recipe"] = {**session["recipe"], "evolution": evolution, "fit": None}  # its fits are founders already
    start = {
        **{key: value for key, value in events[0].items() if key != "fit"},
        "evolution": {**events[0]["evolution"], "seed": seed},
        "seeds": [{key: founder[key] for key in ("genome", "scores", "from")} for founder in founders],
    }
    return [start, session, *_results(start, session, parts[0], founders)]


def _shared(events: Sequence[Event], other: Sequence[Event]) -> dict[str, Any]:
    """The parts of a run's identity that it must share with `other`."""
    start = events[0]
    tasks = {name: {"semantics": 0, **task} for name, task in start.get("tasks", {}).items()}
    engines, others = (engine_versions(of_kind(each, "session")) for each in (events, other))
    both = {kind: {"semantics": version} for kind, version in engines.items() if kind in others}
    return {**{key: start.get(key) for key in _SAME}, "tasks": tasks, "engine": both}


def _founders(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The elites of all runs, except the experts; equal genomes only once."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for number in run.inheritable():
            genome = run.search.genome(number).to_json()
            founder = {
                "genome": genome,
                "scores": dict(zip(run.tasks, run.scores(number), strict=True)),
                "from": number,
                "outcomes": _texts(run.outcomes(number)),
                "confirmed": run.confirmed.get(number),
                "confirmed_outcomes": _texts(run.outcomes(number, "confirm")),
            }
            found.setdefault(json.dumps(genome, sort_keys=True), founder)
    return list(found.values())


def _results(start: Event, session: Event, first: Run, founders: Sequence[dict[str, Any]]) -> list[Event]:
    """The results of the new run's founders: scores of experts from the first run, of elites from their own runs."""
    united = replay_events([start, session])
    events: list[Event] = []
    for number in range(united.search.first):
        place = number - len(united.experts)
        known = {} if place < 0 else founders[place]["scores"]
        scores = first.results[number]["scores"] if place < 0 else [known[task] for task in united.tasks]
        outcomes = _texts(first.outcomes(number)) if place < 0 else founders[place]["outcomes"]
        event = {"event": "result", "number": number, "step": united.steps[number], "scores": scores, **outcomes}
        events.append(event)
        united.tell(event)
    events.append({"event": "bounds", "bounds": [list(pair) for pair in united.search.bounds or ()]})
    elites = set(united.elites())
    for place, founder in enumerate(founders, start=len(united.experts)):
        if founder["confirmed"] is not None and place in elites:
            scores = list(founder["confirmed"])
            events.append({"event": "confirm", "number": place, "scores": scores, **founder["confirmed_outcomes"]})
    return events


def _texts(outcomes: TaskOutcomes) -> Event:
    """The key of an event that records outcomes of rows; none if there are none."""
    return {"outcomes": {task: outcomes_to_text(each) for task, each in outcomes.items()}} if outcomes else {}


def _seed(runs: Sequence[Sequence[Event]]) -> int:
    digest = hashlib.sha256(json.dumps([list(events) for events in runs], sort_keys=True).encode())
    return int.from_bytes(digest.digest()[:4], "big")
