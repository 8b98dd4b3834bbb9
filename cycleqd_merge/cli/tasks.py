"""The commands `task show`, `task check` and `sandbox build`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cycleqd_merge.cli.options import Json, Pickles, TrustRemoteCode
from cycleqd_merge.cli.printing import console, print_json
from cycleqd_merge.errors import RunFailed

Task = Annotated[
    str, typer.Argument(metavar="TASK", help="A task file, or the name of a shipped task.", show_default=False)
]


def task_options() -> None:
    """Look at tasks and check them on their own, without a recipe."""


class ShownSplit(StrEnum):
    """The splits of a task."""

    search = "search"
    heldout = "heldout"


def show_task_command(
    task: Task,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A folder, a Hub id, or BASE+ADAPTER: show its answers too.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Number of samples to show.")] = 3,
    split: Annotated[ShownSplit, typer.Option(help="The split to show samples of.")] = ShownSplit.search,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show the token ids of prompts; requires --model.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    pickles: Pickles = False,
    as_json: Json = False,
) -> None:
    """Show a task's prompts and, with a model, its answers and their scores."""
    from cycleqd_merge.config.recipe import ModelsConfig
    from cycleqd_merge.preflight.task_show import show_task
    from cycleqd_merge.report.task_show import shown_json, shown_lines

    models = ModelsConfig(trust_remote_code=trust_remote_code, pickles=pickles)
    shown = show_task(task, model, split.value, samples, tokens, models)
    if as_json:
        print_json(shown_json(shown))
    else:
        for line in shown_lines(shown):
            typer.echo(line)


def check_task_command(
    task: Task,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of samples to check per split; by default all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a task's grader: it must accept correct answers to the task's own samples and reject near misses."""
    from cycleqd_merge.preflight.task_check import check_task
    from cycleqd_merge.report.tables import verdict_table

    verdicts = check_task(task, samples)
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        console().print(verdict_table(verdicts))
    wrong = sum(not verdict.passed for verdict in verdicts)
    if wrong:
        raise RunFailed(f"task {task}: {wrong} of {len(verdicts)} known answers are graded incorrectly")


def sandbox_options() -> None:
    """Manage sandboxes for untrusted code."""  # a group of one command needs a callback to stay a group


class Distribution(StrEnum):
    """Distributions that a root file system can be built from."""

    debian = "debian"
    ubuntu = "ubuntu"


def build_sandbox_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the root file system, as task files refer to it.")
    ] = "default",
    distribution: Annotated[Distribution, typer.Option(help="Distribution to install.")] = Distribution.debian,
    release: Annotated[
        str | None, typer.Option(help="Release to install; by default bookworm (Debian) or jammy (Ubuntu).")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Package mirror to install from.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Unpack this tar file instead of installing a distribution.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--to", help="Write a tar file instead, for users without root access.")
    ] = None,
    docker: Annotated[
        bool, typer.Option("--docker", help="Build Docker images instead, also that of `code` tasks.")
    ] = False,
) -> None:
    """Build the root file system that `os_interaction` tasks run on; takes about 2 minutes."""
    from cycleqd_merge.sandbox.docker import build_image, build_python_image
    from cycleqd_merge.sandbox.rootfs import build_rootfs, release_of, write_tar

    if target is not None:
        write_tar(distribution.value, release, mirror, target)
        made = str(target)
    elif docker:
        python = build_python_image()
        made = f"{build_image(name, distribution.value, release_of(distribution.value, release))} and {python}"
    else:
        made = str(build_rootfs(name, distribution.value, release, mirror, source))
    typer.echo(f"built {name}: {made}")
