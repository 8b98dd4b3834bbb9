"""The commands `push` and `pull`, which publish runs on the Hugging Face Hub and download them."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cycleqd_merge.cli.options import Json, NewFolder, RunFolder, Settings
from cycleqd_merge.cli.printing import print_json, print_pushed

if TYPE_CHECKING:
    from cycleqd_merge.hub.draft import Pushed


class PushLayout(StrEnum):
    """Where further models, besides the one at the root, are published."""

    subfolders = "subfolders"
    repos = "repos"


def push_command(
    run: RunFolder,
    repo: Annotated[
        str | None, typer.Option(help="Repository, as user/name; by default the recipe's `hub.repo`.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Model at the root of the repository: a name that `export` accepts.")
    ] = None,
    elites: Annotated[
        list[str] | None,
        typer.Option(help="Further models: names that `export` accepts, all-best or pareto; repeatable."),
    ] = None,
    layout: Annotated[
        PushLayout | None, typer.Option(help="Push further models to subfolders, or to repositories of their own.")
    ] = None,
    adapters: Annotated[bool | None, typer.Option("--adapters", help="Push models as LoRA adapters.")] = None,
    rows: Annotated[bool | None, typer.Option("--rows", help="Also push the local row files of the tasks.")] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence identifier on the Hub; by default derived from the parent models."),
    ] = None,
    private: Annotated[bool | None, typer.Option("--private", help="Make new repositories private.")] = None,
    space: Annotated[bool | None, typer.Option("--space", help="Push the run's report page as a static Space.")] = None,
    archive_only: Annotated[bool, typer.Option("--archive-only", help="Push only the archive.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to, instead of main.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open pull requests instead of pushing to main.")
    ] = False,
    onto: Annotated[
        str | None,
        typer.Option(metavar="COMMIT", help="Commit on main to build on, if somebody else has changed the repository."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list repositories, files and sizes.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub: its archive as a dataset, its best models as model repositories."""
    if sys.stderr.isatty():  # uploads take long enough to show the client's own progress bars
        os.environ.pop("TQDM_DISABLE", None)
    from cycleqd_merge.hub.publication import PushOptions
    from cycleqd_merge.hub.publish import hub_settings, publish
    from cycleqd_merge.hub.pushed import pushed_json

    stated = {
        "repo": repo,
        "root": root,
        "elites": elites,
        "layout": None if layout is None else layout.value,
        "adapters": adapters,
        "rows": rows,
        "private": private,
        "license": licence,
        "space": space,
    }
    settings = hub_settings(run, {key: value for key, value in stated.items() if value is not None})
    options = PushOptions(archive_only, dry_run, create_pr, revision, onto)

    def report(done: Pushed) -> None:
        if not as_json:
            print_pushed(done, dry_run)

    pushed = publish(run, settings, options, report)
    if as_json:
        print_json([pushed_json(each) for each in pushed])


def pull_command(
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="A published archive: user/name-archive.", show_default=False)
    ],
    out: NewFolder,
    revision: Annotated[str | None, typer.Option(help="Tag (such as gen-120), branch or commit to download.")] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="ARCHIVE", help="Archive or run directory to unite the run with; repeatable."),
    ] = None,
    settings: Settings = None,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help="Allow the published recipe to run code.")] = False,
) -> None:
    """Download a published run to inspect, export from or resume."""
    from cycleqd_merge.hub.pull import pull

    loaded, missing = pull(repo, out, revision, merge or (), settings or (), trust)
    typer.echo(f"{out}: generation {loaded.generation}, {len(loaded.elites())} elites")
    for path in missing:
        typer.echo(f"{out / path}: not part of the archive; put the file there before you resume the run")
