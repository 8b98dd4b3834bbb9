"""A task's samples and a model's answers as text for a terminal, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cycleqd_merge.preflight.task_show import ShownExchange, ShownSample, ShownTask
from cycleqd_merge.tasks.protocol import SPLIT_NAMES
from cycleqd_merge.tasks.recording import Exchange


def shown_lines(shown: ShownTask) -> Iterator[str]:
    """The parts of a report on a task's samples: a heading, followed by its text in full."""
    yield f"{len(shown.samples)} of {shown.available} samples of the {SPLIT_NAMES[shown.split]}"
    for sample in shown.samples:
        yield f"\n===== sample {sample.sample}" + (f", {visible(sample.place)}" if sample.place else "")
        yield from map(visible, _sample_lines(sample))


def _sample_lines(sample: ShownSample) -> Iterator[str]:
    before: Exchange | None = None
    for each in sample.exchanges:
        yield from _exchange_lines(each, before)
        before = each.exchange
    if sample.reference is not None:
        yield from ("----- reference", sample.reference)
    if sample.outcome is not None:
        cut = "; an answer was truncated" if sample.outcome.truncated else ""
        cut += "".join(f"; {limit}" for limit in sample.outcome.limits)
        yield f"----- score: {sample.outcome.score:g}{cut}"


def _exchange_lines(shown: ShownExchange, before: Exchange | None) -> Iterator[str]:
    """A request and its reply; of a continued conversation, only the new turns."""
    exchange = shown.exchange
    new = _new_turns(exchange, before)
    if new is not None:
        for turn in new:
            yield from (f"----- {turn['role']}", _text(turn["content"]))
    elif before is None or (before.prompt, before.turns) != (exchange.prompt, exchange.turns):
        if exchange.prompt or exchange.turns is None:
            yield from ("----- prompt", exchange.prompt)
        else:
            for turn in exchange.turns:
                yield from (f"----- {turn['role']}", _text(turn["content"]))
    if shown.tokens is not None:
        scored = "" if shown.scored is None else f", the last {shown.scored} scored"
        yield from (f"----- {len(shown.tokens)} token ids{scored}", " ".join(map(str, shown.tokens)))
    if exchange.continuation is not None:
        likelihood = "" if exchange.logprob is None else f" (log-probability {exchange.logprob:.4f})"
        yield from (f"----- choice{likelihood}", exchange.continuation)
    if exchange.answer is not None:
        yield from (f"----- answer{' (truncated)' if exchange.truncated else ''}", exchange.answer)


def _new_turns(exchange: Exchange, before: Exchange | None) -> Sequence[Any] | None:
    """The turns after the model's last answer, if a request continues the conversation before it."""
    if before is None or not exchange.turns or not before.turns or before.answer is None:
        return None
    length = len(before.turns)
    if exchange.turns[:length] != before.turns or len(exchange.turns) <= length + 1:
        return None
    return exchange.turns[length + 1 :] if exchange.turns[length]["role"] == "assistant" else None


def _text(content: Any) -> str:
    """The content of a turn; of a list of parts, each on a line of its own."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", f"({part.get('type')})")) for part in content)


def visible(text: str) -> str:
    """Text in which only printable characters, tabs and line feeds are left; others are shown as escapes.

    A model's output, or a row, cannot control the terminal, hide text, or change its order.
    """
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shown_json(shown: ShownTask) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "split": shown.split,
        "available": shown.available,
        "samples": [
            {
                "sample": sample.sample,
                "place": sample.place or None,
                "requests": [_exchange_json(each) for each in sample.exchanges],
                "reference": sample.reference,
                "score": None if sample.outcome is None else sample.outcome.score,
                "truncated": None if sample.outcome is None else sample.outcome.truncated,
                "output": None if sample.outcome is None else sample.outcome.output,
            }
            for sample in shown.samples
        ],
    }


def _exchange_json(shown: ShownExchange) -> dict[str, Any]:
    exchange = shown.exchange
    rendered = exchange.prompt or exchange.turns is None
    return {
        "turns": None if exchange.turns is None else [dict(turn) for turn in exchange.turns],
        "prompt": exchange.prompt if rendered else None,
        **({} if shown.tokens is None else {"tokens": list(shown.tokens), "scored": shown.scored}),
        "continuation": exchange.continuation,
        "logprob": exchange.logprob,
        "answer": exchange.answer,
        "truncated": exchange.truncated,
    }
