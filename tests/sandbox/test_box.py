"""A long-lived box with a root file system and several users: its shell, its commands, and attacks by its root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import pytest

from cycleqd_merge.sandbox.boxes import Box, open_box
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, RootFs

LIMITS = Limits(memory=256 * MIB, disk=32 * MIB, output=20_000, processes=64, seconds=2.0)
Result = TypeVar("Result")


@pytest.fixture
def within(
    bubblewrap: Bubblewrap, own_root: RootFs
) -> Callable[[Callable[[Box], Coroutine[None, None, Result]]], Result]:
    """Runs a coroutine function on a new box."""

    def run(use: Callable[[Box], Coroutine[None, None, Result]]) -> Result:
        async def opened() -> Result:
            async with open_box(bubblewrap, own_root, LIMITS) as box:
                return await use(box)

        return asyncio.run(opened())

    return run


def typed(within: Callable[..., list[str]], *commands: str) -> list[str]:
    """The outputs of commands typed into a shell one after another."""

    async def use(box: Box) -> list[str]:
        return [(await box.shell(command)).output.decode() for command in commands]

    return within(use)


def test_the_shell_keeps_directory_variables_and_functions(within: Callable[..., list[str]]) -> None:
    answers = typed(within, "cd /usr && x='a b'; f() { echo \"<$x>\"; }", "pwd; f", "false; echo $?")
    assert answers == ["", "/usr\n<a b>\n", "1\n"]


def test_a_shell_started_in_the_shell_receives_the_next_commands(within: Callable[..., list[str]]) -> None:
    answers = typed(within, "useradd -s /bin/bash -m jack && su - jack", "whoami; pwd", "exit", "whoami")
    assert answers == ["", "jack\n/home/jack\n", "", "root\n"]


@pytest.mark.parametrize(
    "command",
    ["echo 'open", "cat", "exit 3", "kill -9 $$", "sleep 100", "while :; do :; done", "read x", "yes", "((", "}"],
)
def test_the_shell_responds_again_after_any_command(within: Callable[..., list[str]], command: str) -> None:
    assert typed(within, "echo first", command, "echo again")[::2] == ["first\n", "again\n"]


def test_background_processes_keep_running(within: Callable[..., list[str]]) -> None:
    command = "(while :; do date +%s%N > /root/new; mv /root/new /root/log; sleep 0.05; done) & sleep 0.5"
    _, first, second = typed(within, command, "cat /root/log", "sleep 0.3; cat /root/log")
    assert int(first) < int(second)


def test_commands_see_the_shells_changes_and_can_become_other_users(within: Callable[..., ProcessResult]) -> None:
    async def use(box: Box) -> ProcessResult:
        await box.shell("echo made > /root/file; useradd -m eve; sudo -u eve touch /home/eve/hers")
        return await box.run(
            ["sh", "-c", "cat /root/file -; stat -c %U /home/eve/hers; echo oops >&2; exit 5"], b"in\n"
        )

    assert within(use) == ProcessResult(5, b"made\nin\neve\noops\n")


def test_a_command_that_exceeds_its_time_limit_is_ended(within: Callable[..., list[ProcessResult]]) -> None:
    async def use(box: Box) -> list[ProcessResult]:
        return [await box.run(["sh", "-c", "echo begun; sleep 100"]), await box.run(["echo", "next"])]

    assert within(use) == [ProcessResult(None, b"begun\n"), ProcessResult(0, b"next\n")]


def test_all_changes_are_discarded_with_the_box(within: Callable[..., list[str]]) -> None:
    wreck = "rm -rf /etc /home /var/lib/dpkg /usr/share; echo $?; rm /usr/bin/git; ls /etc 2>&1"
    assert typed(within, wreck)[0].startswith("0\nls: cannot access")
    assert typed(within, "ls -d /etc/apt /home /usr/bin/git") == ["/etc/apt\n/home\n/usr/bin/git\n"]


ATTACKS = {
    "fork bomb": ":(){ :|:& };: ; sleep 1",
    "fork bomb as many users": "for n in 1 2 3 4; do useradd u$n; su u$n -c ':(){ :|:& };:' & done; sleep 1",
    "memory bomb": "python3 -c 'x = bytearray(10**10)'; head -c 2G /dev/zero | tail",
    "memory bomb of many": "for n in 1 2 3 4; do python3 -c 'import time; x = bytearray(10**8); time.sleep(9)' & done",
    "disk fill": "cat /dev/zero > /root/attack",
    "disk fill as files": "mkdir /root/a; cd /root/a; for n in $(seq 10000000); do : > $n; done",
    "flood": "cat /dev/zero | tr '\\0' x",
    "line of 10 MB": "head -c 10M /dev/zero | tr '\\0' x",
    "kill all": "kill -9 -1",
    "kill the agent": "kill -9 1; kill -TERM 1; kill -STOP 1; kill -INT 1",
    "write to the agent": "for n in 0 1 2 3 4 5; do echo nonsense > /proc/1/fd/$n; done",
    "trace the agent": "python3 -c 'import ctypes; c = ctypes.CDLL(None); print(c.ptrace(16, 1, 0, 0))'; "
    'python3 -c \'f = open("/proc/1/mem", "r+b", 0); f.seek(4194304); f.write(bytes(4096))\'',
    "replace the tools": "cp /bin/true /usr/bin/python3; cp /bin/true /usr/bin/bash; rm -rf /usr/lib",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_stays_in_its_box(
    bubblewrap: Bubblewrap, own_root: RootFs, host_file: Path, within: Callable[..., list[str]], attack: str
) -> None:
    async def use(box: Box) -> list[str]:
        try:
            finished = await box.shell(ATTACKS[attack])
        except BoxLost:
            return []
        assert len(finished.output) <= LIMITS.output
        return []

    within(use)
    assert typed(within, "echo works; python3 -c 'print(2)'") == ["works\n2\n"]


def test_root_of_a_box_is_not_root_of_the_host(within: Callable[..., list[str]], host_file: Path) -> None:
    (output,) = typed(
        within,
        "mount -t tmpfs x /mnt; umount /proc; unshare -Ur id; mknod /root/disk b 8 0; chroot / mount -o remount,rw /; "
        "sysctl -w kernel.core_pattern=attack; echo b > /proc/sysrq-trigger; ip link add x type dummy; reboot -f; "
        f"hostname attack; date -s 2000-01-01; nice -n -5 true; cat {host_file} /proc/*/root{host_file}; "
        "ping -c 1 8.8.8.8; echo > /dev/tcp/127.0.0.1/22; ls /sys; echo $?",
    )
    assert "secret" not in output
    assert "uid=0" not in output
    assert output.count("denied") + output.count("not permitted") + output.count("ermission") >= 6


def test_a_box_sees_only_its_own_processes(within: Callable[..., list[str]]) -> None:
    (output,) = typed(within, "ps -eo pid,comm --no-headers > /tmp/seen; wc -l < /tmp/seen; cat /proc/1/comm")
    assert output == "4\nbwrap\n"  # and the agent, the shell, ps


def test_a_file_tree_is_walked_without_errors(within: Callable[..., list[ProcessResult]]) -> None:
    async def use(box: Box) -> list[ProcessResult]:
        return [await box.run(["find", "/", "-name", "no such file"])]

    assert within(use) == [ProcessResult(0, b"")]
