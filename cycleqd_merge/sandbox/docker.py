"""Boxes by Docker, used where bubblewrap does not work: a container per box, slower to start."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import uuid
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.sandbox.interpreter import OPTIONS, PACKAGES, VARIABLES, numpy_version, python_release
from cycleqd_merge.sandbox.owners import is_dead, own_name
from cycleqd_merge.sandbox.processes import piped_process
from cycleqd_merge.sandbox.protocol import Limits, RootFs
from cycleqd_merge.sandbox.rootfs import BUILD_COMMAND, FINISH_SCRIPT, SYSTEM_PACKAGES

_CAPABILITIES = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SYS_CHROOT NET_BIND_SERVICE AUDIT_WRITE"
_LABEL = "cycleqd-merge.owner"
_REMOVE_SECONDS = 60.0


class Docker:
    """A `Provider`."""

    def is_available(self) -> bool:
        """Whether a daemon responds to this user."""
        return shutil.which("docker") is not None and self._succeeds("info")

    def probe(self, root: RootFs) -> str:
        image = image_of(root)
        if not self._succeeds("image", "inspect", image):
            raise TaskError(f"sandbox: Docker has no image {image}: `{BUILD_COMMAND} --docker`")
        _sweep()
        return f"Docker, image {image}"

    def python(self) -> list[str]:
        return ["python3", *OPTIONS]

    def _succeeds(self, *arguments: str) -> bool:
        done = subprocess.run(["docker", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    @asynccontextmanager
    async def start(self, command: Sequence[str], root: RootFs, limits: Limits) -> AsyncIterator[Process]:
        name = f"cycleqd-{uuid.uuid4().hex}"
        try:
            async with piped_process(run_line(name, command, root, limits), limits.output) as process:
                yield process
        finally:  # killing the client does not end the container
            await _remove(name)


async def _remove(name: str) -> None:
    try:
        removing = await asyncio.create_subprocess_exec(
            "docker", "rm", "--force", name, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
    except OSError:  # nor has the container been started
        return
    try:
        await asyncio.wait_for(removing.wait(), _REMOVE_SECONDS)
    except TimeoutError:
        removing.kill()
        raise InfrastructureError(f"sandbox: Docker did not remove the container {name}") from None


def _sweep() -> None:
    """Remove containers of this host's processes that have ended."""
    listing = ["docker", "ps", "--all", f"--filter=label={_LABEL}", f'--format={{{{.ID}}}} {{{{.Label "{_LABEL}"}}}}']
    found = subprocess.run(listing, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    for line in found.stdout.splitlines():
        name, _, owner = line.partition(" ")
        if is_left(owner):
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def is_left(owner: str) -> bool:
    """Whether a container's owner, by its label, was a process of this host that has ended."""
    host, _, process = owner.rpartition("/")
    return host == _host() and is_dead(process)


def _host() -> str:
    """A text that differs between hosts, and between starts of a host: several may share a daemon."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def image_of(root: RootFs) -> str:
    """The image of a root file system; without one, of this environment's Python and numpy."""
    if root.name is None:
        return f"cycleqd-python:{python_release()}-numpy{numpy_version()}"
    return f"cycleqd-root:{root.name}"


def run_line(name: str, command: Sequence[str], root: RootFs, limits: Limits) -> list[str]:
    """The command line that runs a command in a new container."""
    resources = [
        f"--memory={limits.memory}",
        f"--memory-swap={limits.memory}",
        f"--pids-limit={limits.processes}",
        f"--cpus={limits.cpus}",
        f"--ulimit=fsize={limits.disk}",
        "--ulimit=core=1",  # keeps away the host's handler of crashes, which 0 does not
        f"--shm-size={limits.disk // 8}",
    ]
    if root.name is None:
        user = ["--user=65534:65534", "--read-only", f"--tmpfs=/tmp:size={limits.disk}", "--workdir=/tmp"]
        user += [f"--env={name}={value}" for name, value in VARIABLES.items()]
    else:
        user = [*(f"--cap-add={capability}" for capability in _CAPABILITIES.split()), "--workdir=/"]
    isolation = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--log-driver=none"]
    owner = f"--label={_LABEL}={_host()}/{own_name()}"
    options = [
        "--rm",
        "--init",
        owner,
        "--interactive",
        f"--name={name}",
        "--hostname=box",
        *isolation,
        *resources,
        *user,
    ]
    return ["docker", "run", *options, image_of(root), *command]


def build_image(name: str, distribution: str, release: str) -> str:
    """Build the image of a named root file system; returns the image's name.

    Raises:
        TaskError: Docker is not available to this user, or fails.
    """
    install = f"apt-get update && apt-get install -y --no-install-recommends {SYSTEM_PACKAGES}"
    dockerfile = f"FROM {distribution}:{release}\nENV DEBIAN_FRONTEND=noninteractive\nRUN {install}\n"
    return _build(RootFs(name), f"{dockerfile}RUN <<'END'{FINISH_SCRIPT}END\n")


def build_python_image() -> str:
    """Build the image of boxes without a root file system; returns and raises as `build_image`."""
    return _build(RootFs(), python_dockerfile())


def python_dockerfile() -> str:
    """The release of this environment's Python, with the same numpy in the folder that `PACKAGES` names."""
    install = f"pip install --no-cache-dir --target {PACKAGES} numpy=={numpy_version()}"
    return f"FROM python:{python_release()}-slim\nRUN {install}\n"


def _build(root: RootFs, dockerfile: str) -> str:
    if not Docker().is_available():
        raise TaskError("docker: the daemon does not respond; start it, and check that this user has access to it")
    image = image_of(root)
    done = subprocess.run(["docker", "build", "--tag", image, "-"], input=dockerfile, text=True, check=False)
    if done.returncode:
        raise TaskError(f"docker: building {image} failed; its output is above")
    return image
