"""A run as one self-contained HTML page: it needs no network, no server and no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cycleqd_merge.config.loading import stated, yaml_text
from cycleqd_merge.config.references import with_variables
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.files import new_file
from cycleqd_merge.journal.log import failed
from cycleqd_merge.redaction import redacted
from cycleqd_merge.report.optimism import chosen_mean
from cycleqd_merge.report.page_data import page_data
from cycleqd_merge.report.row_coverage import SOLVED
from cycleqd_merge.report.scores import Comparison, ScoreTable, compare_best, usual_scores
from cycleqd_merge.report.summary import summary
from cycleqd_merge.run.state import Run

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = (
    *("dom.js", "heatmap.js", "lineage.js", "elite.js", "progress.js"),
    *("sorting.js", "plot.js", "curves.js", "winners.js", "page.js"),
)
"""Concatenated in this order into one module."""


def write_page(
    run: Run,
    name: str,
    path: Path,
    comparison: Mapping[str, Any] | None = None,
    verdict: Comparison | None = None,
) -> None:
    """Write the page of a run to `path`; see `render_page`.

    Raises:
        RecipeError: the file cannot be written.
        InfrastructureError: the disk is full.
    """
    text = render_page(run, name, comparison, verdict)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        special = path.exists() and not path.is_file()  # such as /dev/stdout
        with nullcontext(path) if special else new_file(path.resolve()) as unfinished:
            # an error text may contain a lone surrogate
            unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error.strerror}; choose another path") from error


def render_page(
    run: Run, name: str, comparison: Mapping[str, Any] | None = None, verdict: Comparison | None = None
) -> str:
    """The page of a run as HTML.

    name: the run directory in the commands that the page shows. comparison: JSON values of the section about the
    comparison that the run is part of, from `comparison.page_section`. verdict: of the summary, by default that of
    `compare_best`.
    """
    name, facts = redacted(name), summary(run)
    environment = Environment(
        loader=PackageLoader("cycleqd_merge.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html.jinja").render(
        run=name,
        facts={"row_coverage": {}, "fits": [], **facts},
        solved=SOLVED,
        averaged=run.objectives,
        made_by=f"cycleqd-merge {version('cycleqd-merge')}",
        style=_asset("page.css"),
        script="\n".join(_asset(name) for name in SCRIPTS),
        comparison=comparison,
        data={**page_data(run, name, facts), "comparison": comparison and comparison["charts"]},
        failures=[event for event in run.results if failed(event)],
        **_scores(run, verdict),
        **_provenance(run),
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _scores(run: Run, verdict: Comparison | None) -> dict[str, Any]:
    """For the summary: a table per split, the verdict, and how optimistic the best mean is."""
    scored = usual_scores(run)
    tables = {
        split: ScoreTable.of({model.name: getattr(model, split) for model in scored}, run.tasks, run.objectives)
        for split in ("heldout", "search")
    }
    return {"tables": tables, "verdict": verdict or compare_best(scored, run.objectives), "chosen": chosen_mean(run)}


def _provenance(run: Run) -> dict[str, Any]:
    """Models with their hashes, rows, settings and sessions."""
    recipe, start = run.recipe, run.start
    named = {"base": recipe.base, **recipe.experts}
    digests = {"base": start["base"], **start["experts"]}
    return {
        "models": [
            (name, with_variables(recipe.pinned(reference), recipe), digests[name]) for name, reference in named.items()
        ],
        "task_rows": {
            task: {"rows": facts["rows"], "digests": {rows: facts[rows] for rows in ("search", "confirm", "heldout")}}
            for task, facts in start.get("tasks", {}).items()
        },
        "settings": yaml_text(stated(recipe)[0]),
        "identity": json.dumps({"evolution": start["evolution"], "in_flight": start["in_flight"]}, indent=1),
        "sessions": [_session(event) for event in run.sessions],
    }


def _session(event: Mapping[str, Any]) -> dict[str, Any]:
    began = None
    if "time" in event:
        with suppress(ValueError, OverflowError, OSError):  # of a clock that was years off
            began = datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    environment = {**event.get("environment", {}), **event.get("task_environments", {})}
    return {"began": began, "environment": environment, "bases": event["bases"]}
