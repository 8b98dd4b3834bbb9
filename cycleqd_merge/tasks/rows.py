"""Reading a dataset's rows from a file, a URL or the Hub."""

from __future__ import annotations

import http.client
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.cache_entries import report_damage
from cycleqd_merge.config.origin import is_public_address
from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.files import new_file, sha256_of
from cycleqd_merge.tasks.hub_rows import read_dataset
from cycleqd_merge.tasks.row_files import Row, format_of, read_file


def read_rows(source: RowsConfig) -> list[Row]:
    """The rows of a file or Hub dataset, in order. CSV cells stay text: nothing is converted to numbers or dates.

    Raises:
        DataError: the file is missing, unreadable, in an unknown format, empty, or does not match its checksum.
        UserError: the Hub refuses the dataset, or cannot be reached.
    """
    if source.dataset is not None:
        label, rows = f"dataset {source.dataset}", read_dataset(source)
    elif source.url is not None:
        label, rows = source.url, read_file(_downloaded(source.url, str(source.sha256)), source.url)
    else:
        label = str(source.path)
        rows = _from_disk(Path(label), source.sha256)
    if not rows:
        raise DataError(f"{label}: no rows")
    if source.only is None:
        return rows
    beyond = [place for place in source.only if place >= len(rows)]
    if beyond:
        raise DataError(f"{label}: `only` lists row {beyond[0]}; its {len(rows)} rows are 0 to {len(rows) - 1}")
    return [rows[place] for place in source.only]


def _from_disk(path: Path, sha256: str | None) -> list[Row]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    format_of(path.name, str(path))  # before a large file is read for its checksum
    if sha256 is not None:
        _require_sha256(path, sha256, str(path))
    return read_file(path, str(path))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects of public web servers may not lead to this machine or its network."""

    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        """See `urllib.request.HTTPRedirectHandler`."""
        target = rest[-1]
        if is_public_address(req.full_url) and not is_public_address(target):
            raise OSError(f"redirected to {target}, which is not a public https:// address")
        return super().redirect_request(req, *rest)


_OPENER = urllib.request.build_opener(_Redirects)


def _downloaded(url: str, sha256: str) -> Path:
    """A file from the web, kept in the cache under its checksum."""
    ending = format_of(urllib.parse.unquote(urllib.parse.urlsplit(url).path), url)
    path = cache_folder("rows") / f"{sha256}{ending}"
    if path.exists() and sha256_of(path) != sha256:
        report_damage(path)
        path.unlink(missing_ok=True)
    if not path.exists():
        try:
            with new_file(path) as unchecked:
                with _OPENER.open(url, timeout=60) as answer, unchecked.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                _require_sha256(unchecked, sha256, url)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(f"{url}: cannot be downloaded: {error}") from error
    return path


def _require_sha256(path: Path, sha256: str, label: str) -> None:
    found = sha256_of(path)
    with path.open("rb") as file:
        is_page = file.read(1024).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    if found == sha256:
        return
    hint = "; it is a web page: on the Hub, files are at `/resolve/`, not `/blob/`" if is_page else ""
    raise DataError(f"{label}: wrong checksum: expected sha256 {sha256}, found {found}{hint}")
