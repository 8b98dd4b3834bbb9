"""Thinking models: telling a thought from the answer that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cycleqd_merge.tasks.protocol import Completion

TAGS = (
    ("<think>", "</think>"),  # Qwen3, QwQ, DeepSeek-R1, GLM-4.5, SmolLM3, Nemotron, MiniMax, Phi-4 reasoning
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel>", "<channel|>"),  # Gemma 4
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
"""The tags that open and close a thought."""


def opens_thought(prompt: str, begun: str = "") -> bool:
    """Whether a prompt leaves a thought open, for the answer to continue. begun: the part that the answer continues."""
    return any(prompt.rstrip().endswith(start) or begun.rfind(start) > begun.rfind(end) for start, end in TAGS)


def without_thought(text: str, opened: bool = False) -> str:
    """The text after the last thought that is closed, and before one that is not.

    opened: the prompt has opened a thought, so that a text without a closing tag is a thought.
    """
    closed = [text.rindex(end) + len(end) for _, end in TAGS if end in text]
    if closed:
        text = text[max(closed) :].lstrip()
    elif opened:
        return ""
    starts = [text.index(start) for start, _ in TAGS if start in text]
    return text[: min(starts)].rstrip() if starts else text


def answer_of(completion: Completion, opened: bool, stop: Sequence[str]) -> Completion:
    """A completion without its thoughts, cut off at the first of the `stop` strings. opened: see `without_thought`."""
    text = without_thought(completion.text, opened)
    cuts = [place for string in stop if (place := text.find(string)) >= 0]
    if not cuts:
        return replace(completion, text=text)
    return replace(completion, text=text[: min(cuts)], truncated=False)
