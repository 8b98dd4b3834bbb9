"""Hub errors in one line: which repository, what is wrong with it, what to do. Requests that read are repeated."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from cycleqd_merge.errors import CycleQDError, HubFailed, HubRefused, InfrastructureError, causes, first_line
from cycleqd_merge.files import write_failure

MAIN_CHANGED = "`main` has changed since the push began and was not overwritten; check its new commits and push again"
SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
_TRIES = 5
_FIRST_WAIT = 1.0
"""Seconds to wait before a request is repeated for the first time, unless the Hub asks for more; then twice as long."""
_LONGEST_WAIT = 300.0
"""Seconds to wait for one answer in all: the Hub's own limits apply to five minutes."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = {"TimeoutException", "NetworkError", "RemoteProtocolError"}
_Answer = TypeVar("_Answer")
log = logging.getLogger(__name__)
_ended = threading.Event()
"""Set when the requests that are waiting now must not be repeated."""


def ask_hub(
    label: str, request: Callable[[], _Answer], kind: type[HubRefused] | type[HubFailed] = HubRefused
) -> _Answer:
    """The Hub's answer to a request that changes nothing there; repeated while the Hub is only overloaded.

    The client itself repeats some requests, such as a page of a list, but not those for a commit or a file's metadata.
    request: may be called several times. label, kind: see `hub_errors`.

    Raises:
        HubRefused: (or `kind`, if given) the Hub refused the request, cannot be reached, or failed several times.
    """
    with hub_errors(label, kind):
        return repeated(label, request)


def repeated(label: str, request: Callable[[], _Answer]) -> _Answer:
    """As `ask_hub`, with the errors of `huggingface_hub`."""
    ended, waited = _ended, 0.0
    for attempt in range(1, _TRIES):
        try:
            return request()
        except Exception as error:
            wait = _seconds_to_wait(error, attempt)
            if wait is None or waited + wait > _LONGEST_WAIT:
                raise
            waited += wait
            reason = hub_reason(error) or type(error).__name__
            log.warning("%s: %s; trying again in %.0f s (%d of %d)", label, _what(reason), wait, attempt + 1, _TRIES)
            if ended.wait(wait):
                raise
    return request()


@contextmanager
def ending_waits() -> Iterator[None]:
    """Let requests that other threads repeat end with the block if it is interrupted: waits can take minutes."""
    global _ended
    try:
        yield
    except BaseException:
        _ended.set()
        _ended = threading.Event()
        raise


def _what(reason: str) -> str:
    """The first part of a reason, without its remedy."""
    return reason.partition("; ")[0]


def _seconds_to_wait(error: Exception, attempt: int) -> float | None:
    """How long to wait before a failed request is repeated; None if that would not help."""
    from huggingface_hub import constants

    cause = _transient_cause(error)
    if cause is None or constants.is_offline_mode():
        return None
    response = getattr(cause, "response", None)
    asked = None if response is None else _asked_wait(response.headers)
    return _FIRST_WAIT * 2.0 ** (attempt - 1) if asked is None else asked


def _transient_cause(error: BaseException) -> BaseException | None:
    """The HTTP error or broken connection behind an error, if it may pass by itself."""
    from huggingface_hub import errors

    for cause in causes(error):
        if isinstance(cause, errors.HfHubHTTPError):
            return cause if getattr(cause.response, "status_code", 0) in _TRANSIENT else None
        if _of_http_client(cause):  # a host that does not exist, or refuses connections, will do so again
            names = {each.__name__ for each in type(cause).__mro__}
            return cause if names & _BROKEN and "ConnectError" not in names else None
        if isinstance(cause, ConnectionResetError):
            return cause
    return None


def _of_http_client(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by the headers of a response; None if they do not say.

    `Retry-After` contains a number or a date. The Hub's `RateLimit` contains what is left (r) until a reset (t).
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        limit = re.search(r";\s*r=0\s*;\s*t=(\d{1,9})", headers.get("RateLimit", ""))
        return None if limit is None else float(limit[1])
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max((date - datetime.now(UTC if date.tzinfo else None)).total_seconds(), 0.0)


@contextmanager
def hub_errors(label: str, kind: type[HubRefused] | type[HubFailed] = HubRefused) -> Iterator[None]:
    """Turn errors of `huggingface_hub` into one-line errors of class `kind`.

    label: the repository in messages, such as `model user/base`. kind: HubRefused before a run, when nothing has been
    evaluated; HubFailed for pushes.

    Raises:
        HubRefused: (or `kind`, if given) the Hub refused the request, or cannot be reached.
        InfrastructureError: there is no room in the Hub's cache.
    """
    try:
        yield
    except CycleQDError:
        raise
    except Exception as error:
        if getattr(error, "filename", None) is None and (reason := write_failure(error)) is not None:
            raise InfrastructureError(_unwritten(label, reason)) from error
        line = hub_reason(error)
        if line is None:
            raise
        raise kind(f"{label}: {line}") from error


def _unwritten(label: str, reason: str) -> str:
    from huggingface_hub import constants

    return f"{label}: {constants.HF_HUB_CACHE}: cannot be written: {reason}, or set HF_HOME"


def hub_reason(error: BaseException) -> str | None:
    """An explanation of an error of `huggingface_hub`, with a remedy; None if the error is not about the Hub."""
    from huggingface_hub import errors, get_token

    signed_in = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        remedy = "request access on its page" if signed_in else f"request access on its page, then {SIGN_IN}"
        return f"gated, and you have no access; {remedy}"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "private and your token has no access" if signed_in else f"private; if it is private, {SIGN_IN}"
        return f"not on the Hub, or {private}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision on the Hub; check the branch, tag or commit"
    cause = _transient_cause(error)
    if isinstance(error, errors.LocalEntryNotFoundError) and cause is not None:
        return hub_reason(cause)
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "not in the cache, and the Hub cannot be reached (is HF_HUB_OFFLINE set?)"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file is missing: {first_line(error)}"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"no token; {SIGN_IN}"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, signed_in)
    if isinstance(error, errors.HFValidationError):
        return f"not a valid Hub id: {first_line(error)}"
    if _of_http_client(error):
        return f"the Hub cannot be reached ({type(error).__name__}: {first_line(error)}); try again"
    if isinstance(error, ValueError) and isinstance(error.__cause__, errors.HfHubHTTPError):  # invalid front matter
        return f"refused: {' '.join(str(error).split())}"
    if isinstance(error, UnicodeEncodeError) and error.encoding == "ascii":  # of a header
        return f"the token has characters outside ASCII; {SIGN_IN}"
    if isinstance(error, RuntimeError):  # wraps the errors of an upload's threads
        wrapped = error.__cause__
        return hub_reason(wrapped) if wrapped is not None else f"the transfer failed ({first_line(error)})"
    # other errors of the client, and those of `datasets`, name it only as their cause
    return None if cause is None or cause is error else hub_reason(cause)


def _refusal(error: Exception, signed_in: bool) -> str:
    """The message for an HTTP status code."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == 401:
        return f"the token is not valid; {SIGN_IN}" if signed_in else f"no token; {SIGN_IN}"
    if status == 403:
        return "the token has no write access to this repository; use one with write access"
    if status == 409:
        return "another change is in progress; try again"
    if status == 412:
        return MAIN_CHANGED
    if status == 429:
        seconds = None if response is None else _asked_wait(response.headers)
        return f"too many requests; try again {'later' if seconds is None else f'in {seconds:.0f} s'}"
    if status >= 500:
        return f"the Hub failed (status {status}); try again later"
    return f"refused (status {status}): {first_line(error)}"
