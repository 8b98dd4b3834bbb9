"""Outcomes of rows as text: exact, small, and read without trust."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.journal.outcomes import MOST_ROWS, RowOutcomes, decoded, outcomes_from_text, outcomes_to_text

RNG = np.random.default_rng(16)


def outcomes(scores: object, longest: int = 64, unscored: float = 0.0) -> RowOutcomes:
    """Rows with these scores; lengths of answers are those of short answers, up to a limit that cuts some off."""
    values = np.array(scores, np.float64)
    tokens = np.minimum(RNG.negative_binomial(3, 0.06 if longest > 64 else 0.2, len(values)) + 2, longest)
    left_out = RNG.random(len(values)) < unscored
    values[left_out], tokens[left_out] = np.nan, 0
    return RowOutcomes(values, tokens.astype(np.int64), (tokens == longest) & ~left_out)


CASES: dict[str, Callable[[], RowOutcomes]] = {
    "zeros and ones": lambda: outcomes(RNG.random(300) < 0.3),
    "all right": lambda: outcomes(np.ones(300)),
    "all wrong": lambda: outcomes(np.zeros(9)),
    "one row": lambda: outcomes([1.0]),
    "few values": lambda: outcomes(RNG.integers(0, 8, 300) / 7),
    "thirds of 256 rows": lambda: outcomes(np.arange(256) / 765),
    "any values": lambda: outcomes(RNG.random(300)),
    "nearly one": lambda: outcomes([np.nextafter(1.0, 0.0), 1.0, 5e-324, 0.0]),
    "part of the rows": lambda: outcomes(RNG.random(300) < 0.3, unscored=0.75),
    "part of any values": lambda: outcomes(RNG.random(300), unscored=0.5),
    "long answers": lambda: outcomes(RNG.random(300) < 0.3, longest=100_000),
    "no tokens": lambda: RowOutcomes(np.ones(5), np.zeros(5, np.int64), np.zeros(5, bool)),
    "many tokens": lambda: RowOutcomes(np.ones(2), np.array([2**32 - 1, 0]), np.array([True, False])),
}


@pytest.mark.parametrize("name", CASES)
def test_text_keeps_them_exactly(name: str) -> None:
    before = CASES[name]()
    text = outcomes_to_text(before)
    assert json.dumps(text) == f'"{text}"'
    after = outcomes_from_text(text, len(before.scores))
    for key in ("scores", "tokens", "truncated"):
        np.testing.assert_array_equal(getattr(after, key), getattr(before, key))
    assert after.complete == (not np.isnan(before.scores).any())
    assert after.mean == pytest.approx(np.nanmean(before.scores), abs=1e-12)


@pytest.mark.parametrize(("longest", "most"), [(64, 1100), (256, 1500)])
def test_a_child_of_900_rows_takes_about_a_kilobyte(longest: int, most: int) -> None:
    child = [outcomes_to_text(outcomes(RNG.random(300) < 0.35, longest)) for _ in range(3)]
    assert sum(map(len, child)) < most


def test_damaged_texts_are_refused_or_read_as_outcomes() -> None:
    """Never another error, and never more rows than the task has."""
    text, random_ = outcomes_to_text(outcomes(RNG.integers(0, 5, 40) / 4, unscored=0.3)), random.Random(0)
    for _ in range(3000):
        damaged = list(text)
        for _ in range(random_.choice([1, 1, 4])):
            damaged[random_.randrange(len(damaged))] = chr(random_.randrange(33, 127))
        with suppress(ValueError):
            found = outcomes_from_text(
                "".join(damaged[: random_.choice([len(damaged), random_.randrange(len(damaged))])]), 40
            )
            assert len(found.scores) == 40


def packed(data: bytes) -> str:
    deflate = zlib.compressobj(9, wbits=-15)
    return base64.b85encode(deflate.compress(data) + deflate.flush()).decode()


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        ("", 3, "not outcomes"),
        ("not base 85: \N{SNOWMAN}", 3, "not outcomes"),
        (packed(b"\x02\0\x01\0\x03\0\0\0"), 3, "format 2; this version reads format 1"),
        (packed(b"\x01\x03\x01\0\x03\0\0\0"), 3, "not outcomes"),
        (packed(b"\x01\0\x03\0\x03\0\0\0"), 3, "not outcomes"),
        (packed(b"\x01\0\x01\0\x03\0\0\0\x05"), 3, "not outcomes"),
        (packed(b"\x01\0\x01\0\x03\0\0\0\x05\1\2\3\4"), 3, "not outcomes"),
        (packed(b"\x01\x02\x01\0\x01\0\0\0" + np.float64("nan").tobytes() + b"\1"), 1, "not from 0 to 1"),
        (packed(b"\x01\x02\x01\0\x01\0\0\0" + np.float64(1.5).tobytes() + b"\1"), 1, "not from 0 to 1"),
        (packed(b"\x01\x01\x01\0\x01\0\0\0\0" + np.float64(0.5).tobytes() + b"\7\1"), 1, "not outcomes"),
        (packed(b"\x01\0\x01\0\x03\0\0\0" + bytes(2**26)), 3, "not outcomes"),
        (packed(b"\x01\0\x01\0\xff\xff\xff\xff"), 2**32 - 1, f"above the limit of {MOST_ROWS}"),
        (outcomes_to_text(outcomes([1.0, 0.0])), 3, "outcomes of 2 rows instead of 3"),
    ],
)
def test_texts_of_strangers(text: str, rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outcomes_from_text(text, rows)


def test_they_must_agree_with_the_recorded_scores() -> None:
    text = outcomes_to_text(outcomes([1.0, 0.0, 0.0]))
    assert decoded({"a": text}, {"a": 3}, {"a": 1 / 3}, "here")["a"].mean == pytest.approx(1 / 3)
    for texts, means in (({"a": text}, {"a": 0.5}), ({"b": text}, {"a": 1 / 3}), ({"a": text[:-3]}, {"a": 1 / 3})):
        with pytest.raises(RecipeError, match=r"^here: damaged: [^\n]*$"):
            decoded(texts, {"a": 3}, means, "here")


@pytest.mark.parametrize("rows", [1, 12, 300])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_variance_of_a_score_is_that_of_its_rows_and_two_more(rows: int, share: float) -> None:
    for scores in (RNG.random(rows) < share, RNG.random(rows) * share):
        found = outcomes(scores).variance
        with_two = np.append(np.array(scores, np.float64), [0.0, 1.0])
        assert found == pytest.approx(with_two.var() / rows)
        assert found > 0
        share_of_ones = with_two.mean()
        if scores.dtype == bool:
            assert found == pytest.approx(share_of_ones * (1 - share_of_ones) / rows)


def test_the_variance_leaves_out_rows_that_were_not_scored() -> None:
    assert outcomes([0.25, np.nan, 0.75]).variance == outcomes([0.25, 0.75]).variance
