"""Hub errors in one line: which repository, what is wrong with it, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cycleqd_merge.errors import HubFailed, HubRefused, first_line

MAIN_CHANGED = "`main` has changed since the push began and was not overwritten; check its new commits and push again"
SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def hub_errors(label: str, kind: type[HubRefused] | type[HubFailed] = HubRefused) -> Iterator[None]:
    """Turn errors of `huggingface_hub` into one-line errors of class `kind`.

    label: the repository in messages, such as `model user/base`. kind: HubRefused before a run, when nothing has been
    evaluated; HubFailed for pushes.

    Raises:
        HubRefused: (or `kind`, if given) the Hub refused the request, or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        line = hub_reason(error)
        if line is None:
            raise
        raise kind(f"{label}: {line}") from error


def hub_reason(error: Exception) -> str | None:
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
    if isinstance(error, RuntimeError):  # wraps the errors of an upload's threads
        cause = error.__cause__
        return hub_reason(cause) if isinstance(cause, Exception) else f"the transfer failed ({first_line(error)})"
    return None


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
        wait = response.headers.get("Retry-After") if response is not None else None
        return f"too many requests; try again {f'in {wait} s' if wait else 'later'}"
    if status >= 500:
        return f"the Hub failed (status {status}); try again later"
    return f"refused (status {status}): {first_line(error)}"
