"""`pull`: a published run in a folder of its own, alone or united with others."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from cycleqd_merge.errors import UserError
from cycleqd_merge.files import new_folder
from cycleqd_merge.hub.restore import published_events, write_run
from cycleqd_merge.hub.unite import unite
from cycleqd_merge.journal.log import FILE, Event, read_events
from cycleqd_merge.run.state import Run, open_run


def pull(
    repo: str,
    out: str | PathLike[str],
    revision: str | None = None,
    merge: Sequence[str] = (),
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> tuple[Run, list[str]]:
    """Download the run published in the dataset repository `repo` to the new folder `out`.

    merge: further archives, on the Hub or run directories, to unite with it into one run that starts from all of their
    elites. overrides: `key.path=value` texts for its recipe. trust: allow its recipe to run code. Returns the run,
    and the row files that must be put into `out` before the run can be extended.

    Raises:
        UserError: a repository contains no run, the runs cannot be united, or `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out}: already exists; choose another folder")
    events, files = published_events(repo, revision, trust)
    if merge:
        events = unite([(repo, events), *((other, _events(other, trust)) for other in merge)])
    with new_folder(out) as unfinished:
        missing = write_run(events, files, unfinished, out, overrides)
        open_run(unfinished)  # before it stands under its name: it replays
    return open_run(out), missing


def _events(source: str, trust: bool) -> list[Event]:
    """The events of a run directory, or of a published run."""
    folder = Path(source)
    return read_events(folder) if (folder / FILE).is_file() else published_events(source, None, trust)[0]
