"""Pull a published run into a run directory, alone or united with others."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.files import new_folder
from cycleqd_merge.hub.restore import download_run, missing_rows, placed_events, require_published_fits, write_run
from cycleqd_merge.hub.unite import unite
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, complete_events, read_events
from cycleqd_merge.run.state import Run, open_run, replay_events


def pull(
    repo: str,
    out: str | PathLike[str],
    revision: str | None = None,
    merge: Sequence[str] = (),
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> tuple[Run, list[str]]:
    """Restore the run that is published in dataset repository `repo` in the new folder `out`.

    revision: a tag such as `gen-100`, a branch or a commit. merge: more archives, each a dataset repository or a run
    directory; the new run starts from the elites of all of them. overrides: `key.path=value` texts for its recipe.
    trust: allow its recipe to run code. Returns the run, and the files of rows that were not published, relative to
    `out`: they are needed to extend the run.

    Raises:
        HubRefused: there is no such repository or revision, or it cannot be read.
        RecipeError: a repository is not a published run, runs cannot be united, or `out` exists.
        UserError: a published recipe is refused because it would run code or read files of this machine.
    """
    out = Path(out)
    if out.exists():
        raise RecipeError(f"{out}: already exists; choose a different folder")
    events, files = download_run(repo, revision, trust, overrides)
    events = placed_events(events, out, overrides, trust)
    sources = [files]
    if merge:
        others = [_events(other, trust) for other in merge]
        sources += [folder for _, folder in others]
        events = unite([(repo, events), *((other, found) for other, (found, _) in zip(merge, others, strict=True))])
    with new_folder(out) as unfinished:
        write_run(events, files, unfinished, sources)
        replay_events(read_events(unfinished), f"dataset {repo}: {JOURNAL_FILE}")  # checks that it can be replayed
    run = open_run(out)
    return run, missing_rows(run.recipe, out)


def _events(source: str, trust: bool) -> tuple[list[Event], Path]:
    """The events of a run directory or of a published run, and the folder that has its fits."""
    folder = Path(source)
    if not (folder / JOURNAL_FILE).is_file():
        return download_run(source, None, trust)
    events = complete_events(folder)
    require_published_fits(folder, events, source)
    return events, folder
