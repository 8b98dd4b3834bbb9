"""A box that lives on, with a root of its own and several users: its shell, its commands, and attacks from its root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import pytest

from cycleqd_merge.sandbox.boxes import Box, open_box
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, Root

LIMITS = Limits(memory=256 * MIB, disk=32 * MIB, output=20_000, processes=64, seconds=2.0)
Told = TypeVar("Told")


@pytest.fixture
def within(bubblewrap: Bubblewrap, own_root: Root) -> Callable[[Callable[[Box], Coroutine[None, None, Told]]], Told]:
    """Runs a coroutine on a box of its own."""

    def run(use: Callable[[Box], Coroutine[None, None, Told]]) -> Told:
        async def opened() -> Told:
            async with open_box(bubblewrap, own_root, LIMITS) as box:
                return await use(box)

        return asyncio.run(opened())

    return run


def typed(within: Callable[..., list[str]], *commands: str) -> list[str]:
    """What a shell answers to commands typed one after another."""

    async def use(box: Box) -> list[str]:
        return [(await box.shell(command)).output.decode() for command in commands]

    return within(use)


def test_the_shell_keeps_directory_variables_and_functions(within: Callable[..., list[str]]) -> None:
    answers = typed(within, "cd /usr && x='a b'; f() { echo \"<$x>\"; }", "pwd; f", "false; echo $?")
    assert answers == ["", "/usr\n<a b>\n", "1\n"]


def test_a_shell_started_in_the_shell_takes_over(within: Callable[..., list[str]]) -> None:
    answers = typed(within, "useradd -s /bin/bash -m jack && su - jack", "whoami; pwd", "exit", "whoami")
    assert answers == ["", "jack\n/home/jack\n", "", "root\n"]


@pytest.mark.parametrize(
    "command",
    ["echo 'open", "cat", "exit 3", "kill -9 $$", "sleep 100", "while :; do :; done", "read x", "yes", "((", "}"],
)
def test_whatever_was_typed_the_shell_answers_again(within: Callable[..., list[str]], command: str) -> None:
    assert typed(within, "echo first", command, "echo again")[::2] == ["first\n", "again\n"]


def test_what_runs_in_the_background_goes_on(within: Callable[..., list[str]]) -> None:
    command = "(while :; do date +%s%N > /root/new; mv /root/new /root/log; sleep 0.05; done) & sleep 0.5"
    _, first, second = typed(within, command, "cat /root/log", "sleep 0.3; cat /root/log")
    assert int(first) < int(second)


def test_commands_see_what_the_shell_did_and_have_users_to_become(within: Callable[..., ProcessResult]) -> None:
    async def use(box: Box) -> ProcessResult:
        await box.shell("echo made > /root/file; useradd -m eve; sudo -u eve touch /home/eve/hers")
        return await box.run(
            ["sh", "-c", "cat /root/file -; stat -c %U /home/eve/hers; echo oops >&2; exit 5"], b"in\n"
        )

    assert within(use) == ProcessResult(5, b"made\nin\neve\noops\n")


def test_a_command_that_takes_too_long_is_ended(within: Callable[..., list[ProcessResult]]) -> None:
    async def use(box: Box) -> list[ProcessResult]:
        return [await box.run(["sh", "-c", "echo begun; sleep 100"]), await box.run(["echo", "next"])]

    assert within(use) == [ProcessResult(None, b"begun\n"), ProcessResult(0, b"next\n")]


def test_all_changes_go_with_the_box(within: Callable[..., list[str]]) -> None:
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
    "kill the supervisor": "kill -9 1; kill -TERM 1; kill -STOP 1; kill -INT 1",
    "write to the supervisor": "for n in 0 1 2 3 4 5; do echo nonsense > /proc/1/fd/$n; done",
    "trace the supervisor": "python3 -c 'import ctypes; c = ctypes.CDLL(None); print(c.ptrace(16, 1, 0, 0))'; "
    'python3 -c \'f = open("/proc/1/mem", "r+b", 0); f.seek(4194304); f.write(bytes(4096))\'',
    "replace the tools": "cp /bin/true /usr/bin/python3; cp /bin/true /usr/bin/bash; rm -rf /usr/lib",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_stays_in_its_box(
    bubblewrap: Bubblewrap, own_root: Root, host_file: Path, within: Callable[..., list[str]], attack: str
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


def test_root_of_a_box_is_no_root(within: Callable[..., list[str]], host_file: Path) -> None:
    (told,) = typed(
        within,
        "mount -t tmpfs x /mnt; umount /proc; unshare -Ur id; mknod /root/disk b 8 0; chroot / mount -o remount,rw /; "
        "sysctl -w kernel.core_pattern=attack; echo b > /proc/sysrq-trigger; ip link add x type dummy; reboot -f; "
        f"hostname attack; date -s 2000-01-01; nice -n -5 true; cat {host_file} /proc/*/root{host_file}; "
        "ping -c 1 8.8.8.8; echo > /dev/tcp/127.0.0.1/22; ls /sys; echo $?",
    )
    assert "secret" not in told
    assert "uid=0" not in told
    assert told.count("denied") + told.count("not permitted") + told.count("ermission") >= 6


def test_a_box_sees_only_its_own_processes(within: Callable[..., list[str]]) -> None:
    (told,) = typed(within, "ps -eo pid,comm --no-headers > /tmp/seen; wc -l < /tmp/seen; cat /proc/1/comm")
    assert told == "3\npython3\n"  # the supervisor, the shell, ps


def test_a_file_tree_is_walked_without_errors(within: Callable[..., list[ProcessResult]]) -> None:
    async def use(box: Box) -> list[ProcessResult]:
        return [await box.run(["find", "/", "-name", "no such file"])]

    assert within(use) == [ProcessResult(0, b"")]
