"""Errors of the Hub in one line: which repository, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cycleqd_merge.errors import HubFailed, HubRefused, first_line

SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
MOVED = "`main` has a new commit and was not overwritten; check it and push again"


@contextmanager
def hub_errors(label: str, kind: type[HubRefused] | type[HubFailed] = HubRefused) -> Iterator[None]:
    """Convert errors of `huggingface_hub` to a `kind` with one line of text.

    label: names the repository in that line, such as `model user/base`. kind: HubRefused before a run, when nothing was
    evaluated; HubFailed for pushes.

    Raises:
        HubRefused: or `kind`: the Hub refused the request, or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        raise kind(f"{label}: {line}") from error


def explained(error: Exception) -> str | None:
    """The meaning of an error of `huggingface_hub`, and what to do; None for errors that are not about the Hub."""
    from huggingface_hub import errors, get_token

    signed_in = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        step = "request access on its page" if signed_in else f"request access on its page, then {SIGN_IN}"
        return f"gated, and you have no access; {step}"
    if isinstance(error, errors.RepositoryNotFoundError):
        hidden = "and not shared with you" if signed_in else f"(then {SIGN_IN})"
        return f"not on the Hub, or private {hidden}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision on the Hub"
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
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return f"the Hub cannot be reached ({type(error).__name__}: {first_line(error)}); try again"
    if isinstance(error, ValueError) and isinstance(error.__cause__, errors.HfHubHTTPError):  # invalid front matter
        return f"refused: {' '.join(str(error).split())}"
    if isinstance(error, RuntimeError):  # wraps errors of an upload's threads
        cause = error.__cause__
        return explained(cause) if isinstance(cause, Exception) else f"the transfer failed ({first_line(error)})"
    return None


def _refusal(error: Exception, signed_in: bool) -> str:
    """The meaning of a response's status code."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == 401:
        return f"the token is not valid; {SIGN_IN}" if signed_in else f"no token; {SIGN_IN}"
    if status == 403:
        return "the token does not allow this; use one with write access there"
    if status == 409:
        return "another change is in progress; try again"
    if status == 412:
        return MOVED
    if status == 429:
        wait = response.headers.get("Retry-After") if response is not None else None
        return f"too many requests; try again {f'in {wait} s' if wait else 'later'}"
    if status >= 500:
        return f"the Hub failed (status {status}); try again later"
    return f"refused (status {status}): {first_line(error)}"
