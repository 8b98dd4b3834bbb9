"""Rows of a dataset on the Hub, and the errors of `datasets` in one line each: which file, what is wrong."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cycleqd_merge.config.origin import is_public_address
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

    _require_own_files(source)
    try:
        rows = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
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


def _require_own_files(source: RowsConfig) -> None:
    """Check that a dataset on the Hub names only its own files: `datasets` opens others, also of this machine and its
    network, before it refuses them.

    Raises:
        DataError: its card names other files.
    """
    import datasets
    import huggingface_hub
    import yaml
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    name = str(source.dataset)
    if Path(name).exists():
        return
    for card in (datasets.config.REPOCARD_FILENAME, datasets.config.REPOYAML_FILENAME):
        try:
            path = huggingface_hub.hf_hub_download(name, card, repo_type="dataset", revision=source.revision)
            is_yaml = card.endswith(".yaml")
            stated = yaml.safe_load(Path(path).read_bytes()) if is_yaml else huggingface_hub.metadata_load(path)
        except (EntryNotFoundError, HFValidationError):  # no such file, or not cached while offline
            continue
        except (yaml.YAMLError, RecursionError) as error:
            raise DataError(f"dataset {name}: {card}: not YAML") from error
        for pattern in _file_patterns(stated):
            if _leads_elsewhere(pattern, name):
                stranger = repr(brief(printable(pattern)))
                raise DataError(f"dataset {name}: refused: its {card} names {stranger}, which is not one of its files")


def _file_patterns(card: Any) -> Iterator[str]:
    """The files and folders that the configurations in a dataset's card name. A card may contain itself."""
    configurations = card.get("configs") if isinstance(card, dict) else None
    pending = [
        each.get(key)
        for each in (configurations if isinstance(configurations, list) else [])
        if isinstance(each, dict)
        for key in ("data_files", "data_dir")
    ]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict | list) and id(each) not in seen:
            seen.add(id(each))
            pending.extend(each.values() if isinstance(each, dict) else each)


def _leads_elsewhere(pattern: str, dataset: str) -> bool:
    if "::" in pattern:
        return True
    if "://" in pattern:
        own = re.match(rf"hf://datasets/{re.escape(dataset)}(@[^/]*)?/", pattern)
        return (own is None or ".." in pattern.split("/")) and not is_public_address(pattern)
    return pattern.startswith(("/", "~", "\\")) or ".." in pattern.split("/")


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
