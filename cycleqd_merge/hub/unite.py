"""Archives of several runs as the start of one: all their elites become founders, with the scores that they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import Event, of_kind
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.semantics import engine_versions
from cycleqd_merge.run.state import Run, replay_events

_SAME = ("base", "experts", "models", "tasks", "groups")
"""What runs must share for the genomes and scores of one to mean the same in another; engines that several used must
have had the same semantics version, too."""


def unite(runs: Sequence[tuple[str, Sequence[Event]]]) -> list[Event]:
    """The journal of a run that starts from the archives of `runs`, each a name and its events.

    Operators and settings are those of the first; the seed follows from all of them, so that the new run does not draw
    again what one of them drew.

    Raises:
        UserError: two are not over the same base, experts, tasks and groups; every difference is listed.
    """
    (first, events), *others = runs
    for name, other in others:
        found = differences(_shared(events, other), _shared(other, events))
        if found:
            listed = "\n".join(f"  {line}" for line in found)
            raise UserError(f"{first} and {name} cannot be united, they differ in\n{listed}")
    replays = [replay_events(each, name) for name, each in runs]
    founders = _founders(replays)
    session = dict(of_kind(events, "session")[-1])
    chosen = _seed([each for _, each in runs])
    evolution = {**session["recipe"].get("evolution", {}), "seed": chosen}
    session["recipe"] = {**session["recipe"], "evolution": evolution}
    start = {
        **events[0],
        "evolution": {**events[0]["evolution"], "seed": chosen},
        "seeds": [{key: founder[key] for key in ("genome", "scores", "from")} for founder in founders],
    }
    return [start, session, *_results(start, session, replays[0], founders)]


def _shared(events: Sequence[Event], other: Sequence[Event]) -> dict[str, Any]:
    """What a run and another must share, as it is in the first."""
    start = events[0]
    tasks = {name: {"semantics": 0, **task} for name, task in start.get("tasks", {}).items()}
    engines, others = (engine_versions(of_kind(each, "session")) for each in (events, other))
    both = {kind: {"semantics": version} for kind, version in engines.items() if kind in others}
    return {**{key: start.get(key) for key in _SAME}, "tasks": tasks, "engine": both}


def _founders(replays: Sequence[Run]) -> list[dict[str, Any]]:
    """The elites of all runs but the experts, each genome once."""
    found: dict[str, dict[str, Any]] = {}
    for run in replays:
        for number in run.inheritable():
            genome = run.search.genome(number).to_json()
            founder = {
                "genome": genome,
                "scores": dict(zip(run.tasks, run.scores(number), strict=True)),
                "from": number,
                "confirmed": run.confirmed.get(number),
            }
            found.setdefault(json.dumps(genome, sort_keys=True), founder)
    return list(found.values())


def _results(start: Event, session: Event, first: Run, founders: Sequence[dict[str, Any]]) -> list[Event]:
    """What the new run was told of its founders already: experts as in the first run, elites as in their own."""
    whole = replay_events([start, session])
    events: list[Event] = []
    for number in range(whole.search.first):
        place = number - len(whole.experts)
        scores = first.results[number]["scores"] if place < 0 else list(founders[place]["scores"].values())
        event = {"event": "result", "number": number, "step": whole.steps[number], "scores": scores}
        events.append(event)
        whole.tell(event)
    events.append({"event": "bounds", "bounds": [list(pair) for pair in whole.search.bounds or ()]})
    elites = set(whole.elites())
    for place, founder in enumerate(founders, start=len(whole.experts)):
        if founder["confirmed"] is not None and place in elites:
            events.append({"event": "confirm", "number": place, "scores": list(founder["confirmed"])})
    return events


def _seed(runs: Sequence[Sequence[Event]]) -> int:
    digest = hashlib.sha256(json.dumps([list(events) for events in runs], sort_keys=True).encode())
    return int.from_bytes(digest.digest()[:4], "big")
