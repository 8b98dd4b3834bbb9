"""Reading the model's turns and writing the system's."""

from __future__ import annotations

import pytest

from cycleqd_merge.tasks.os_interaction.turns import Action, read_action, system_turn, without_control_codes


@pytest.mark.parametrize(
    ("turn", "action"),
    [
        ("Think: look.\n\nAct: bash\n\n```bash\nls /\n```", Action("bash", "ls /")),
        ("Act: bash\n```bash\ncd /\n```\nand\n```bash\nls\npwd\n```", Action("bash", "cd /\n\nls\npwd")),
        ("Think: x\n\nAct: finish", Action("commit", None)),
        ("Act: answer(220)", Action("commit", "220")),
        ("Act: answer( (a) and (b) ) .", Action("commit", " (a) and (b) ")),
        ("Act: bash\n```bash\nls\n```\nAct: answer(1)", Action("commit", "1")),  # the last one counts
        ("Act: answer 1\nAct: BASH\n```bash\nls\n```", Action("bash", "ls")),
        ("Act: answer 1", None),
        ("Act: bash\nls /", Action("bash", "")),
        ("Think: I wonder.", None),
        ("", None),
        ("Act: sudo reboot", None),
    ],
)
def test_the_last_valid_action_of_a_turn_counts(turn: str, action: Action | None) -> None:
    assert read_action(turn) == action


def test_outputs_are_shown_in_full_cut_off_or_as_empty() -> None:
    assert system_turn(b"a\nb\n", 800, 780) == "The output of the OS:\n\na\nb\n"
    assert system_turn(b"x" * 800, 800, 780) == "The output of the OS:\n\n" + "x" * 800
    cut = "The output of the OS:\n\n" + "x" * 780 + "\n[truncated because the output is too long]"
    assert system_turn(b"x" * 801, 800, 780) == cut
    assert system_turn(b"", 800, 780) == "The output of the OS is empty."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;cm0gLXJm\x1b\\after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0;2;0;0;0\x1b\\picture", "picture"),
        ("a\rb\x08c\x00d\x7fe\x9bf", "abcdef"),
        ("\x1b[2J\x1b[H\x1bc\x1b(0", ""),
        ("tab\tand\nline", "tab\tand\nline"),
        ("ünï ☃", "ünï ☃"),
    ],
)
def test_terminal_control_sequences_are_not_shown(text: str, shown: str) -> None:
    assert without_control_codes(text) == shown
