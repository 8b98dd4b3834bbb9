"""Boxes by Docker, where a daemon answers and bubblewrap cannot be had. Slower to start: a container per box."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import uuid
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cycleqd_merge.errors import UserError
from cycleqd_merge.sandbox.boxes import piped
from cycleqd_merge.sandbox.protocol import Limits, Root
from cycleqd_merge.sandbox.rootfs import BUILD, FINISH, PACKAGES

PYTHON_IMAGE = "python:3.12-slim"
"""What a box without a root of its own has in place of the host's /usr."""
_CAPABILITIES = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SYS_CHROOT NET_BIND_SERVICE AUDIT_WRITE"


class Docker:
    """See `Provider`."""

    def answers(self) -> bool:
        """Whether there is a daemon that this user may talk to."""
        return shutil.which("docker") is not None and self._succeeds("info")

    def probe(self, root: Root) -> str:
        image = image_of(root)
        if not self._succeeds("image", "inspect", image):
            mending = f"docker pull {image}" if root.name is None else f"{BUILD} --docker"
            raise UserError(f"no sandbox: Docker has no image {image}: `{mending}`")
        return f"Docker, image {image}"

    def _succeeds(self, *arguments: str) -> bool:
        done = subprocess.run(["docker", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    @asynccontextmanager
    async def started(self, command: Sequence[str], root: Root, limits: Limits) -> AsyncIterator[Process]:
        name = f"cycleqd-{uuid.uuid4().hex}"
        async with piped(run_line(name, command, root, limits), limits) as process:
            try:
                yield process
            finally:  # the container is the daemon's child, not ours
                removing = await asyncio.create_subprocess_exec(
                    "docker", "rm", "--force", name, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
                )
                await removing.wait()


def image_of(root: Root) -> str:
    """The image that stands for a root."""
    return PYTHON_IMAGE if root.name is None else f"cycleqd-root:{root.name}"


def run_line(name: str, command: Sequence[str], root: Root, limits: Limits) -> list[str]:
    """The command line that runs a command in a container of its own."""
    bounded = [
        f"--memory={limits.memory}",
        f"--memory-swap={limits.memory}",
        f"--pids-limit={limits.processes}",
        f"--cpus={limits.cpus}",
        f"--ulimit=fsize={limits.disk}",
        "--ulimit=core=0",
    ]
    if root.name is None:
        user = ["--user=65534:65534", "--read-only", f"--tmpfs=/tmp:size={limits.disk}", "--workdir=/tmp"]
    else:
        user = [*(f"--cap-add={capability}" for capability in _CAPABILITIES.split()), "--workdir=/"]
    closed = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--log-driver=none"]
    options = ["--rm", "--interactive", f"--name={name}", "--hostname=box", *closed, *bounded, *user]
    return ["docker", "run", *options, image_of(root), *command]


def build_image(name: str, distribution: str, release: str) -> str:
    """Build the image that stands for a named root; returns its name.

    Raises:
        UserError: Docker does not answer, or fails.
    """
    if not Docker().answers():
        raise UserError("docker: no daemon answers; is it started, and may this user talk to it?")
    image = image_of(Root(name))
    install = f"apt-get update && apt-get install -y --no-install-recommends {PACKAGES}"
    recipe = f"FROM {distribution}:{release}\nENV DEBIAN_FRONTEND=noninteractive\nRUN {install}\n"
    recipe += f"RUN <<'END'{FINISH}END\n"
    done = subprocess.run(["docker", "build", "--tag", image, "-"], input=recipe, text=True, check=False)
    if done.returncode:
        raise UserError(f"docker build of {image} failed")
    return image
