"""The outcome of every row, as compact text in the events of a journal.

A journal's event has one text per task: base 85 of a deflated table. Its columns are a bit per row where two values
are enough, as for scores of 0 and 1. 900 rows with answers of up to 64 tokens take about a kilobyte.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.errors import RecipeError

MOST_ROWS = 2**17
"""Number of rows of a task above which its outcomes are not recorded: a short text must not fill the memory."""
_FORMAT = 1
_HEADER = struct.Struct("<BBBBI")  # format, forms of scores and tokens, parts that follow, rows
_BITS, _TABLE, _PLAIN = range(3)  # forms of the scores: 0 or 1, a place in a list of up to 256 values, float64
_PARTIAL, _TRUNCATED = 1, 2
_MOST_VALUES = 256
_BYTES_PER_ROW = 15  # at most: a score, tokens, and three bits that may each begin a byte
_TOLERANCE = 1e-9  # of a mean: the order of its sum is not recorded

Booleans = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowOutcomes:
    """A model's outcomes on a task, in the order of the split's rows; all arrays have shape (rows,).

    scores: float64 in [0, 1]; NaN for rows that were not scored, as racing leaves them. tokens: generated for each row,
    int64. truncated: whether an answer was cut off.
    """

    scores: Scores
    tokens: NDArray[np.int64]
    truncated: Booleans

    @property
    def scored(self) -> Booleans:
        """Whether each row was scored, shape (rows,)."""
        return ~np.isnan(self.scores)

    @property
    def complete(self) -> bool:
        """Whether every row was scored."""
        return bool(self.scored.all())

    @property
    def mean(self) -> float:
        """The mean of the scored rows."""
        return float(self.scores[self.scored].mean())

    @property
    def variance(self) -> float:
        """The variance of the mean, see `sampling_variance`."""
        scores = self.scores[self.scored]
        return sampling_variance(float(scores.sum()), float(np.square(scores).sum()), len(scores))


def sampling_variance(total: float, squares: float, rows: int) -> float:
    """The variance of a mean over rows by their sampling, as if a row of score 0 and one of score 1 were added.

    The two rows keep it above 0 where all scores are equal (Agresti and Coull, 1998); for scores of 0 and 1 it is
    p (1 - p) / rows. total, squares: sums of the rows' scores and of their squares.
    """
    mean = (total + 1) / (rows + 2)
    return ((squares + 1) / (rows + 2) - mean**2) / rows


TaskOutcomes = Mapping[str, RowOutcomes]
"""By task; a task without outcomes is left out."""


def outcomes_to_text(outcomes: RowOutcomes) -> str:
    """The outcomes as text: printable ASCII without quotes and backslashes. Scores are kept exactly."""
    scored = outcomes.scored
    scores = outcomes.scores[scored]
    values = np.unique(scores)
    if np.isin(values, (0.0, 1.0)).all():
        form, column = _BITS, _packed(scores == 1.0)
    elif len(values) <= _MOST_VALUES:
        places = np.searchsorted(values, scores).astype(np.uint8)
        form, column = _TABLE, bytes([len(values) - 1]) + values.astype("<f8").tobytes() + places.tobytes()
    else:
        form, column = _PLAIN, _planes(scores.astype("<f8"))
    tokens = outcomes.tokens[scored]
    width = next(width for width in (1, 2, 4) if tokens.max(initial=0) < 256**width)
    parts = _PARTIAL * (not scored.all()) | _TRUNCATED * bool(outcomes.truncated.any())
    table = [
        _HEADER.pack(_FORMAT, form, width, parts, len(scored)),
        _packed(scored) if parts & _PARTIAL else b"",
        column,
        _planes(tokens.astype(f"<u{width}")),
        _packed(outcomes.truncated[scored]) if parts & _TRUNCATED else b"",
    ]
    deflate = zlib.compressobj(9, wbits=-15)
    return base64.b85encode(deflate.compress(b"".join(table)) + deflate.flush()).decode()


def outcomes_from_text(text: str, rows: int) -> RowOutcomes:
    """Inverse of `outcomes_to_text`, for a task with this number of rows.

    Raises:
        ValueError: not a text that `outcomes_to_text` writes for this number of rows; the message is a few words.
    """
    if rows > MOST_ROWS:
        raise ValueError(f"outcomes of {rows} rows, above the limit of {MOST_ROWS}")
    most = _HEADER.size + 1 + 8 * _MOST_VALUES + _BYTES_PER_ROW * rows
    try:
        inflate = zlib.decompressobj(wbits=-15)
        data = inflate.decompress(base64.b85decode(text), most)
    except (ValueError, zlib.error):
        raise ValueError("not outcomes of rows") from None
    if not inflate.eof or inflate.unused_data or len(data) < _HEADER.size:
        raise ValueError("not outcomes of rows")
    version, form, width, parts, count = _HEADER.unpack_from(data)
    if version != _FORMAT:
        raise ValueError(f"outcomes in format {version}; this version reads format {_FORMAT}")
    if form not in (_BITS, _TABLE, _PLAIN) or width not in (1, 2, 4) or parts > _PARTIAL | _TRUNCATED:
        raise ValueError("not outcomes of rows")
    if count != rows:
        raise ValueError(f"outcomes of {count} rows instead of {rows}")
    return _table(_Reader(data, _HEADER.size), form, width, parts, rows)


def _table(reader: _Reader, form: int, width: int, parts: int, rows: int) -> RowOutcomes:
    scored = reader.bits(rows) if parts & _PARTIAL else np.ones(rows, bool)
    count = int(scored.sum())
    if form == _BITS:
        found: Scores = reader.bits(count).astype(np.float64)
    elif form == _TABLE:
        values = np.frombuffer(reader.take(8 * (reader.take(1)[0] + 1)), "<f8")
        places = np.frombuffer(reader.take(count), np.uint8)
        if places.max(initial=0) >= len(values):
            raise ValueError("not outcomes of rows")
        found = values[places]
    else:
        found = reader.planes("<f8", count).astype(np.float64)
    tokens_of_scored = reader.planes(f"<u{width}", count)
    cut = reader.bits(count) if parts & _TRUNCATED else np.zeros(count, bool)
    reader.require_end()
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("a row's score is not from 0 to 1")
    scores, tokens, truncated = np.full(rows, np.nan), np.zeros(rows, np.int64), np.zeros(rows, bool)
    scores[scored], tokens[scored], truncated[scored] = found, tokens_of_scored, cut
    return RowOutcomes(scores, tokens, truncated)


class _Reader:
    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place

    def take(self, size: int) -> bytes:
        part = self._data[self._place : self._place + size]
        if len(part) < size:
            raise ValueError("not outcomes of rows")
        self._place += size
        return part

    def bits(self, count: int) -> Booleans:
        packed = np.frombuffer(self.take(-(-count // 8)), np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").astype(bool)

    def planes(self, dtype: str, count: int) -> NDArray[np.generic]:
        size = np.dtype(dtype).itemsize
        planes = np.frombuffer(self.take(size * count), np.uint8).reshape(size, count)
        return np.ascontiguousarray(planes.T).view(dtype).reshape(count)

    def require_end(self) -> None:
        if self._place != len(self._data):
            raise ValueError("not outcomes of rows")


def _packed(bits: Booleans) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _planes(values: NDArray[np.generic]) -> bytes:
    """The first bytes of all values, then the second ones and so on: they compress better."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(len(values), values.dtype.itemsize).T).tobytes()


def decoded(
    texts: Mapping[str, str], rows: Mapping[str, int], means: Mapping[str, float], where: str
) -> dict[str, RowOutcomes]:
    """The outcomes that an event records, by task.

    rows: by task, of the split. means: by task, the recorded score of the scored rows.

    Raises:
        RecipeError: they are damaged, or contradict the recorded scores; `where` names the line.
    """
    found = {}
    for task, text in texts.items():
        if task not in rows or task not in means:
            raise RecipeError(f"{where}: damaged: outcomes of task {task!r:.50}, which has no score in this line")
        try:
            outcomes = outcomes_from_text(text, rows[task])
        except ValueError as error:
            raise RecipeError(f"{where}: damaged: task {task}: {error}; restore the file from a backup") from None
        if not outcomes.scored.any() or abs(outcomes.mean - means[task]) > _TOLERANCE:
            raise RecipeError(
                f"{where}: damaged: task {task}: the score is not the mean of the rows' scores; restore "
                "the file from a backup"
            )
        found[task] = outcomes
    return found
