"""A run's models and tasks, opened and compared with the identity in its journal."""

from __future__ import annotations

from collections.abc import Sequence

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.journal.differences import differences
from cycleqd_merge.journal.log import Event, Journal
from cycleqd_merge.run.identity import start_event
from cycleqd_merge.run.loop import require_same
from cycleqd_merge.run.state import Run


def reopen(run: Run) -> OpenedRecipe:
    """The models and tasks of a run on disk.

    Raises:
        UserError: something cannot be opened.
        ModelError: the models are no longer those of the run.
    """
    opened = OpenedRecipe.open(run.recipe)
    now = start_event(opened, 0)
    changed = differences(*({key: event[key] for key in ("base", "experts", "groups")} for event in (run.start, now)))
    if changed:
        raise ModelError("the models are no longer those of the run: " + "; ".join(changed))
    return opened


def identify(opened: OpenedRecipe, journal: Journal, founders: Sequence[Event] = ()) -> Event:
    """The identity of the run in `journal`, or of the run that `opened` and `founders` would start in an empty one.

    The number of evaluations in flight is fixed when a run starts; the number of workers may change later.

    Raises:
        RecipeError: the journal belongs to another run.
    """
    evolution = opened.recipe.evolution
    in_flight = evolution.flights(worker_count(opened.recipe))
    if journal.events:
        founders = journal.events[0].get("seeds", [])
        in_flight = evolution.in_flight or journal.events[0]["in_flight"]
    start = start_event(opened, in_flight, founders)
    if journal.events:  # models are identified by their contents, not by how they are named now
        start["revisions"] = journal.events[0].get("revisions")
    require_same(journal, start)
    return start
