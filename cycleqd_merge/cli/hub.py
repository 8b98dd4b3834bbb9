"""Commands that publish runs on the Hugging Face Hub and bring them back: `push` and `pull`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cycleqd_merge.cli.options import Json, RunFolder, Settings
from cycleqd_merge.cli.printing import print_json, print_pushed

if TYPE_CHECKING:
    from cycleqd_merge.hub.draft import Pushed


class Layout(StrEnum):
    """Where further models go."""

    subfolders = "subfolders"
    repos = "repos"


def push(
    run: RunFolder,
    repo: Annotated[str | None, typer.Option(help="user/name; by default that of the recipe's `hub`.")] = None,
    root: Annotated[str | None, typer.Option(help="The model at the root: a name that `export` takes.")] = None,
    elites: Annotated[
        list[str] | None, typer.Option(help="Further models: such a name, best, all-best or pareto; repeatable.")
    ] = None,
    layout: Annotated[Layout | None, typer.Option(help="Further models in subfolders, or repositories.")] = None,
    adapters: Annotated[bool | None, typer.Option("--adapters", help="Push models as LoRA adapters.")] = None,
    rows: Annotated[bool | None, typer.Option("--rows", help="Push the tasks' local row files too.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence, as the Hub calls it; by default the parents'.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private", help="Make new repositories private.")] = None,
    space: Annotated[bool | None, typer.Option("--space", help="Push the run's page as a static Space.")] = None,
    archive_only: Annotated[bool, typer.Option("--archive-only", help="Push the archive alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch instead of main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open pull requests instead.")] = False,
    onto: Annotated[str | None, typer.Option(help="Build upon this foreign commit on main.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show repositories, files and bytes only.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub: its archive as a dataset, its best models as model repositories."""
    if sys.stderr.isatty():  # uploads take long enough for the client's own bars
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


def pull(
    repo: Annotated[str, typer.Argument(help="A published archive: user/name-archive.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Run directory to make.", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="A tag such as gen-120, a branch or a commit.")] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="Unite with this archive, or run directory; repeatable.")
    ] = None,
    settings: Settings = None,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help="Let its recipe name code that is run.")] = False,
) -> None:
    """Bring a published run to this disk, to look at, export from and go on with."""
    from cycleqd_merge.hub.pull import pull as bring

    loaded, missing = bring(repo, out, revision, merge or (), settings or (), trust)
    typer.echo(f"{out}: generation {loaded.generation}, {len(loaded.elites())} elites")
    for path in missing:
        typer.echo(f"not published with it, needed to go on: {out / path}")
