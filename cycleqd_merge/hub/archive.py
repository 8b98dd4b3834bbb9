"""A run's archive as files of a dataset repository: tables for readers, and a journal to restore the run from."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from cycleqd_merge.config.loading import recipe_text, stated_recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.candidate import candidate_kind
from cycleqd_merge.hub.portable import CHAT_TEMPLATE, ROWS_FOLDER, PortableRecipe
from cycleqd_merge.journal.foreign import PUBLISHED_FOLDER
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, failed, journal_bytes, parse_events
from cycleqd_merge.merging.fit_files import RUN_FITS
from cycleqd_merge.report.figures import archives_figure, png, progress_figure
from cycleqd_merge.report.summary import history
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.state import Run
from cycleqd_merge.run.tables import generation_of, scores_of

ELITES, GENERATIONS = "data/elites.parquet", "data/generations.parquet"
RECIPE, REVISIONS = "recipe.yaml", "revisions.json"
MANAGED_FOLDERS = ("data/", "figures/", f"{RUN_FITS}/", f"{ROWS_FOLDER}/")
"""Folders of the repository in which every other file is deleted by a push."""


def archive_files(run: Run, events: Sequence[Event], portable: PortableRecipe, rows: bool) -> dict[str, bytes]:
    """Contents by path, without the card. The same run gives the same bytes.

    events: the run's journal. rows: include local files of rows.

    Raises:
        OSError: a file of rows cannot be read.
    """
    files = {
        ELITES: _parquet(elite_rows(run)),
        GENERATIONS: _parquet(generation_rows(run)),
        RECIPE: recipe_text(portable.recipe, {"foreign": {}}).encode(),
        REVISIONS: _json(portable.recipe.revisions),
        JOURNAL_FILE: journal_bytes(portable_events(events, portable)),
        "figures/archives.png": png(archives_figure(run.archives, run.objectives, _best(run))),
        "figures/progress.png": png(progress_figure(history(run), run.objectives)),
    }
    if portable.template is not None:
        files[CHAT_TEMPLATE] = portable.template.read_bytes()
    if rows:
        files |= {place: path.read_bytes() for place, path in portable.rows.items()}
    return files


def portable_events(events: Sequence[Event], portable: PortableRecipe) -> list[Event]:
    """The journal for publication: one session, with the portable recipe; errors are reduced to their class."""
    last = next(event for event in reversed(events) if event["event"] == "session")
    session: Event = {
        "event": "session",
        **stated_recipe(portable.recipe),
        "folder": PUBLISHED_FOLDER,
        "bases": last.get("bases", {}),
        "environment": last.get("environment", {}),
        **{key: last[key] for key in ("task_environments", "engine_semantics") if key in last},
    }
    rest = [_without_details(event) for event in events[1:] if event["event"] != "session"]
    return [events[0], session, *rest]


def continues(events: Sequence[Event], published: bytes | None) -> bool:
    """Whether a run is the same as that of a published journal, or a continuation of it."""
    if published is None:
        return False
    try:
        earlier = parse_events(published, JOURNAL_FILE)
        results = [[event["step"] for event in each if event["event"] == "result"] for each in (earlier, events)]
    except (RecipeError, KeyError):
        return False
    same = bool(earlier) and earlier[0] == events[0] and not differences(earlier[0], events[0])  # order counts
    return same and results[1][: len(results[0])] == results[0]


def _without_details(event: Event) -> Event:
    if event.get("error") is None:
        return event
    return {**event, "error": str(event["error"]).partition(":")[0]}


def elite_rows(run: Run) -> list[dict[str, Any]]:
    """One row per archive and elite, ordered by archive and cell."""
    return [
        {
            "archive": run.objectives[archive.task],
            "cell": list(elite.cell),
            "evaluation": elite.number,
            "generation": generation_of(run, elite.number),
            **scores_of(run, elite.number),
            **_candidate_json(run, elite.number),
        }
        for archive in run.archives
        for elite in archive.elites()
    ]


def _candidate_json(run: Run, number: int) -> dict[str, str | None]:
    """An elite's candidate as JSON, in the column of its kind."""
    candidate = run.portable(run.candidate(number))
    stated = {candidate_kind(candidate): json.dumps(candidate.to_json(), separators=(",", ":"))}
    return {kind: stated.get(kind) for kind in ("genome", "configuration")}


def generation_rows(run: Run) -> list[dict[str, Any]]:
    """One row per evaluation: its step, its scores on the search split, whether it failed."""
    rows = []
    for event in run.results:
        scores = event["scores"] or [None] * len(run.tasks)
        rows.append(
            {
                "evaluation": event["number"],
                "generation": generation_of(run, event["number"]),
                **{f"search_{task}": score for task, score in zip(run.tasks, scores, strict=True)},
                "seconds": sum(event["seconds"]) if event.get("seconds") else None,
                "failed": failed(event),
                "step": json.dumps(event["step"], separators=(",", ":")),
            }
        )
    return rows


def _best(run: Run) -> dict[int, str]:
    return {run.best_mean(): "best-mean"} if run.elites() else {}


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    table = pyarrow.Table.from_pylist(rows, schema=_schema(rows))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _schema(rows: list[dict[str, Any]]) -> pyarrow.Schema:
    """Column types by name, because a column may have no values yet."""
    types = {
        "archive": pyarrow.string(),
        "cell": pyarrow.list_(pyarrow.int32()),
        "evaluation": pyarrow.int32(),
        "generation": pyarrow.int32(),
        "failed": pyarrow.bool_(),
        "genome": pyarrow.string(),
        "configuration": pyarrow.string(),
        "step": pyarrow.string(),
    }
    return pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in (rows[0] if rows else ())])


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
