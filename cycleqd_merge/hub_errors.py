"""What the Hub answered, in one line: which repository, what is wrong with it, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cycleqd_merge.errors import HubFailed, UserError, first_line

SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def hub_errors(what: str, kind: type[UserError] | type[HubFailed] = UserError) -> Iterator[None]:
    """Turn what `huggingface_hub` raises inside into a `kind` of one line. what: such as `model user/base`.

    Raises:
        UserError: or `kind`: the Hub refused, or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        raise kind(f"{what}: {line}") from error


def explained(error: Exception) -> str | None:
    """What an error of `huggingface_hub` means and what to do; None if it is not about the Hub."""
    from huggingface_hub import errors, get_token

    signed_in = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        then = "ask for access on its page" if signed_in else f"ask for access on its page, then {SIGN_IN}"
        return f"gated, and access was not granted; {then}"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "private to others" if signed_in else f"private; for a private one {SIGN_IN}"
        return f"not on the Hub, or {private}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the Hub knows no such revision of it"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "not in the cache, and the Hub cannot be reached (is HF_HUB_OFFLINE set?)"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file is missing: {first_line(error)}"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"no token; {SIGN_IN}"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, signed_in)
    if isinstance(error, errors.HFValidationError):
        return f"no id of the Hub: {first_line(error)}"
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return f"the Hub cannot be reached ({type(error).__name__}: {first_line(error)}); try again"
    if isinstance(error, ValueError) and isinstance(error.__cause__, errors.HfHubHTTPError):  # a card's front matter
        return f"refused: {' '.join(str(error).split())}"
    if isinstance(error, RuntimeError):  # what an upload's threads raise is wrapped
        cause = error.__cause__
        return explained(cause) if isinstance(cause, Exception) else f"the transfer failed ({first_line(error)})"
    return None


def _refusal(error: Exception, signed_in: bool) -> str:
    """What a status code means."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == 401:
        return f"the token is not valid; {SIGN_IN}" if signed_in else f"no token; {SIGN_IN}"
    if status == 403:
        return "the token may not do this; it needs the permission to write there"
    if status == 409:
        return "another change is being made at the same time; try again"
    if status == 412:
        return "`main` has moved meanwhile and was not overwritten; look at it and push again"
    if status == 429:
        wait = response.headers.get("Retry-After") if response is not None else None
        return f"too many requests; try again {f'in {wait} s' if wait else 'later'}"
    if status >= 500:
        return f"the Hub fails (status {status}); try again later"
    return f"refused (status {status}): {first_line(error)}"
