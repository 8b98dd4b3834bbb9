"""Redirects of rows on the web: a public server may not send the reader to this machine or its network."""

from __future__ import annotations

import urllib.request

import pytest

from cycleqd_merge.tasks.rows import _Redirects

PUBLIC, LOCAL = "https://example.com/x.csv", "https://intranet/x.csv"


@pytest.mark.parametrize(
    ("start", "target", "followed"),
    [
        (PUBLIC, "https://cdn.example.org/y.csv", True),
        (LOCAL, "http://intranet/y.csv", True),  # the user named this network
        (PUBLIC, "http://cdn.example.org/y.csv", False),
        (PUBLIC, "https://localhost/y.csv", False),
        (PUBLIC, "https://10.0.0.1/y.csv", False),
        (PUBLIC, "http://169.254.169.254/latest/meta-data", False),
        (PUBLIC, "ftp://example.com/y.csv", False),
    ],
)
def test_where_redirects_may_lead(start: str, target: str, followed: bool) -> None:
    request = urllib.request.Request(start)
    arguments = (None, 302, "Found", {}, target)
    if followed:
        redirected = _Redirects().redirect_request(request, *arguments)
        assert redirected is not None
        assert redirected.full_url == target
    else:
        with pytest.raises(OSError, match="not a public https:// address"):
            _Redirects().redirect_request(request, *arguments)
