"""Commands for tasks by themselves and for what they run in: `task check` and `sandbox build`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cycleqd_merge.cli.options import Json
from cycleqd_merge.cli.printing import console, print_json
from cycleqd_merge.errors import RunFailed


def task_options() -> None:
    """Look at tasks by themselves, without a recipe."""


def check_task(
    task: Annotated[str, typer.Argument(help="A task file, or a shipped task by its name.", show_default=False)],
    samples: Annotated[int | None, typer.Option(min=1, help="Check only so many samples of each split.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a task's grader: right answers to its own samples must be accepted, near misses must not."""
    from cycleqd_merge.preflight.task_check import check_task as check
    from cycleqd_merge.report.tables import verdict_table

    verdicts = check(task, samples)
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        console().print(verdict_table(verdicts))
    unfair = sum(not verdict.passed for verdict in verdicts)
    if unfair:
        raise RunFailed(f"task {task}: {unfair} of {len(verdicts)} known answers are graded wrongly")


def sandbox_options() -> None:
    """What untrusted programs run in."""  # a group of one command needs this to stay a group


class Distribution(StrEnum):
    """What a root file system is made of."""

    debian = "debian"
    ubuntu = "ubuntu"


def build_sandbox(
    name: Annotated[str, typer.Argument(help="Name of the root file system, as tasks state it.")] = "default",
    distribution: Annotated[Distribution, typer.Option(help="What to install.")] = Distribution.debian,
    release: Annotated[str | None, typer.Option(help="Its release; by default bookworm, or jammy.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Where its packages come from.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Unpack a tar file instead.")] = None,
    target: Annotated[
        Path | None, typer.Option("--to", help="Write a tar file instead, for a user who is not root.")
    ] = None,
    docker: Annotated[bool, typer.Option("--docker", help="Build an image for Docker instead.")] = False,
) -> None:
    """Build the root file system that `os_interaction` tasks run on; about 2 minutes."""
    from cycleqd_merge.sandbox.docker import build_image
    from cycleqd_merge.sandbox.rootfs import build_rootfs, release_of, write_tar

    if target is not None:
        write_tar(distribution.value, release, mirror, target)
        made = str(target)
    elif docker:
        made = build_image(name, distribution.value, release_of(distribution.value, release))
    else:
        made = str(build_rootfs(name, distribution.value, release, mirror, source))
    console().print(f"{name} is {made}", highlight=False)
