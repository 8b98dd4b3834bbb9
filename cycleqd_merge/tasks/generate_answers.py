"""Known answers to the samples of a `generate` task: the reference as a model would write it, and near misses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain
from math import ceil

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig, RegexScorerConfig, TokenF1ScorerConfig
from cycleqd_merge.tasks.matching import is_found, last_match
from cycleqd_merge.tasks.protocol import KnownAnswer
from cycleqd_merge.tasks.sample_text import matching_text

KnownScorer = ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig | RegexScorerConfig
_BOUNDS = Bounds(seconds=1.0)
_LONGEST_NUMBER = 25  # digits: what Decimal adds exactly
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def known_texts(
    scorer: KnownScorer, score: Callable[[str], float], reference: str, others: Iterable[str], stop: Sequence[str]
) -> list[KnownAnswer]:
    """The known answers to a sample whose model writes text.

    score: an answer's score. others: references of the other samples, in the order in which to try them. stop: strings
    that end an answer.

    There is no right answer if the scorer's regular expression is too complicated to write a text for, and no near
    miss that the scorer rightly accepts: an empty answer to an empty reference, or another sample's equal answer.
    """
    written = [until_stop(text, stop) for text in right_texts(scorer, reference)]
    gold = next((text for text in written if score(text) == 1.0), written[0] if written else None)
    answers = [] if gold is None else [_answer("gold", gold)]
    if reference.strip():
        answers.append(_answer("empty", ""))
    if isinstance(scorer, RegexScorerConfig) or not reference.strip():
        return answers
    other = next((text for text in others if _differs(scorer, text, reference)), None)
    near = {"another sample's answer": other, "one value changed": _changed(scorer, reference)}
    for name, text in near.items():
        miss = None if text is None else next(_written(scorer, text), None)
        if miss is not None and _reads(scorer, miss, str(text)):
            answers.append(_answer(name, miss))
    return answers


def known_choices(choices: Sequence[str], reference: str) -> list[KnownAnswer]:
    """The known answers to a sample whose model finds one choice the most likely."""
    right = next(choice for choice in choices if choice.strip() == reference.strip())
    wrong = next((choice for choice in choices if choice.strip() != reference.strip()), None)
    return [_answer("gold", right), *([] if wrong is None else [_answer("another choice", wrong)])]


def _answer(name: str, text: str) -> KnownAnswer:
    return KnownAnswer(name, name == "gold", lambda prompt: text)


def right_texts(scorer: KnownScorer, reference: str) -> list[str]:
    """Ways to write the reference: as it is, or as the scorer's normalisation leaves it."""
    if isinstance(scorer, RegexScorerConfig):
        text, _ = _text_for(reference, None)
        return [] if text is None or not is_found(reference, text) else [text]
    forms = [reference, reference.strip(), reference.lower(), reference.upper(), reference.capitalize()]
    if isinstance(scorer, ExactScorerConfig):
        normal = reference.lower() if scorer.lowercase else reference
        for old, new in scorer.replace.items():
            normal = normal.replace(old, new)
        forms += [normal, normal.strip(), " ".join(normal.split()), normal.strip(f"{scorer.strip or ''} ")]
    if isinstance(scorer, NumberScorerConfig):
        forms += [*_NUMBER.findall(reference.replace(",", ""))[-1:]]
    return list(chain.from_iterable(_written(scorer, form) for form in dict.fromkeys(forms)))


def _written(scorer: KnownScorer, answer: str) -> Iterator[str]:
    """An answer in a text from which the scorer reads it."""
    pattern = getattr(scorer, "pattern", None)
    if pattern is None:
        yield answer
        return
    text, groups = _text_for(pattern, answer)
    if groups == 0:
        yield answer
    elif text is not None:
        yield text


def _text_for(pattern: str, captured: str | None) -> tuple[str | None, int]:
    """A text for a pattern (see `matching_text`), within limits, and the pattern's number of groups."""
    try:
        text, groups = call(_BOUNDS, _matching_text, pattern, captured)
    except LimitExceeded:
        return None, 1
    return text, groups


def _matching_text(pattern: str, captured: str | None) -> tuple[str | None, int]:
    """In a child."""
    groups = re.compile(pattern).groups
    return matching_text(pattern, captured if groups else None), groups


def _reads(scorer: KnownScorer, written: str, answer: str) -> bool:
    """Whether the scorer's pattern, if it has one, reads all of an answer, not only a part that may be right."""
    pattern = getattr(scorer, "pattern", None)
    return pattern is None or (last_match(pattern, written) or "").strip() == answer.strip()


def until_stop(text: str, stop: Sequence[str]) -> str:
    """A text as a model generates it: it ends at the first stop string."""
    return text[: min((text.find(each) for each in stop if each in text), default=len(text))]


def _words(text: str) -> list[str]:
    """What makes two answers different: letters and digits, in lower case; without these, the text."""
    return re.findall(r"\w+", text.lower()) or text.split()


def _differs(scorer: KnownScorer, text: str, reference: str) -> bool:
    """Whether another sample's reference is clearly a wrong answer."""
    if isinstance(scorer, NumberScorerConfig):
        mine, other = (_NUMBER.findall(each.replace(",", "")) for each in (reference, text))
        return bool(mine and other) and abs(float(mine[-1]) - float(other[-1])) > scorer.tolerance
    mine, other = _words(reference), _words(text)
    return bool(other) and (sorted(mine) != sorted(other) if isinstance(scorer, TokenF1ScorerConfig) else mine != other)


def _changed(scorer: KnownScorer, reference: str) -> str:
    """The reference with its last number increased, by more than the tolerance; else with a longer last word."""
    places = list(_NUMBER.finditer(reference))
    if not places or len(places[-1].group()) > _LONGEST_NUMBER:
        return f"{reference.rstrip()}x"
    last = places[-1]
    step = 1 + ceil(min(2 * scorer.tolerance, 1e300)) if isinstance(scorer, NumberScorerConfig) else 1
    value = Decimal(last.group())
    if float(value + step) == float(value):  # a `number` scorer cannot tell such large numbers apart
        step += int(value)
    return f"{reference[: last.start()]}{value + step}{reference[last.end() :]}"
