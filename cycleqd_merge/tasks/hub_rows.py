"""Rows of a dataset on the Hub, and the errors of `datasets` in one line each: which file, what is wrong."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError, brief, first_line, printable
from cycleqd_merge.hub_errors import ask_hub
from cycleqd_merge.tasks.row_files import Row, require_size


def read_dataset(source: RowsConfig) -> list[Row]:
    """The rows of a split of a dataset. Images and sound stay as they are stored.

    Raises:
        DataError: the dataset has no such configuration or split, is damaged, or is a script.
        UserError: the Hub refuses the dataset, or cannot be reached.
    """
    import datasets

    label = f"dataset {source.dataset}"
    with _logged_errors() as logged:
        try:
            rows = ask_hub(label, lambda: _loaded(source))
        except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"{label}: cannot be read: {_reason(error, logged)}") from error
    return [Row(row, f"{label}: row {number}") for number, row in enumerate(rows, start=1)]


def _loaded(source: RowsConfig) -> list[dict[str, object]]:
    import datasets

    try:
        builder = datasets.load_dataset_builder(source.dataset, source.config, revision=source.revision)
        if not Path(str(source.dataset)).exists():  # a folder here is the user's own
            _require_own_files(str(source.dataset), builder.config.data_files or {})
        builder.download_and_prepare()
        rows = builder.as_dataset(split=source.split)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DataError(
            f"dataset {source.dataset}: a script ({str(error).rpartition(' ')[2]}), which `datasets` no longer runs; "
            "on the Hub, try `revision: refs/convert/parquet`, or save its rows as a file and name that by `path`"
        ) from error
    require_size(f"dataset {source.dataset}", rows.num_rows * len(rows.features), rows.data.nbytes)
    stored = rows.with_format("arrow")[:].to_pylist()
    return [{name: _decoded(value, rows.features[name]) for name, value in row.items()} for row in stored]


def _require_own_files(dataset: str, files: Mapping[Any, Iterable[str]]) -> None:
    """Check that a dataset's configuration names its own files: `datasets` 4.0 reads any file, of this machine too.

    Raises:
        DataError: it names a file that is somewhere else.
    """
    for file in (file for split in files.values() for file in split):
        place = str(file).rpartition("::")[2]  # of a file in an archive, where the archive is
        repo = place.removeprefix("hf://datasets/").partition("@")[0].lower()
        own = dataset.lower() in (repo, repo.rpartition("/")[2])  # `squad` is short for `rajpurkar/squad`
        if not (own and place.startswith("hf://datasets/")) or ".." in Path(place).parts:
            raise DataError(
                f"dataset {dataset}: its README.md names a file outside it: {brief(printable(place))}; name that file "
                "by `path` or `url` if you trust it"
            )


def _decoded(value: Any, feature: Any) -> Any:
    """A value as it was in the dataset's file: values of different types in one column are stored as JSON."""
    import datasets

    if value is None or isinstance(feature, datasets.Value):
        return value
    if isinstance(feature, getattr(datasets, "Json", ())):  # versions before 5 may lack it
        return json.loads(value)
    if isinstance(feature, dict):
        return {name: _decoded(part, feature[name]) for name, part in value.items()}
    inner = getattr(feature, "feature", None)  # of a list
    return value if inner is None else [_decoded(part, inner) for part in value]


def _reason(error: BaseException, logged: list[str]) -> str:
    """The cause of an error of `datasets`, whose own message may only say that there was one."""
    if logged:
        file = re.search(r"'([^']*)' with error ", logged[-1])
        if file is not None:
            return f"{file[1]}: {first_line(_cause(error))}"
    cause = _cause(error)
    if isinstance(cause, StopIteration):
        return "its first file is empty"
    wanted, found = getattr(cause, "requested_column_names", None), getattr(cause, "table_column_names", None)
    if wanted and found and set(wanted) != set(found):
        differing = sorted(set(wanted) ^ set(found))
        return f"its files have different columns: not all have {', '.join(differing)}; name one file by `path`"
    configurations = re.search(r"available configs: \[(.*)\]", str(cause))
    if configurations is not None:
        return f"it has several configurations; set `config` to one of {configurations[1]}"
    return first_line(cause)


def _cause(error: BaseException) -> BaseException:
    """What led to an error that only says that one occurred."""
    while str(error).startswith("An error occurred while generating") and error.__cause__ is not None:
        error = error.__cause__
    return error


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Messages that `datasets` logs instead of printing them: they name the file that its errors do not name."""
    import datasets  # noqa: F401 - it adds its own handler when it is imported

    logger, kept = logging.getLogger("datasets"), _Kept()
    handlers, logger.handlers = logger.handlers, [kept]
    try:
        yield kept.messages
    finally:
        logger.handlers = handlers
