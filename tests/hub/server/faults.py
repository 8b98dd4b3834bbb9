"""Fault injection: requests of a step are refused, or their connection is cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from tests.hub.server.refusal import Refused

CUT = 0
"""A status that cuts the connection in the middle of the request's body."""
CUT_AFTER = -1
"""A status that processes the request, then cuts the connection instead of responding."""


@dataclass
class Fault:
    """Requests of `step` (an endpoint's name) get `status`: `times` of them, after the first `skip`."""

    step: str
    status: int
    times: int
    skip: int = 0
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    met: int = 0


class Faults:
    """The faults to inject."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = Lock()

    def add(
        self,
        step: str,
        status: int,
        times: int = 10**6,
        skip: int = 0,
        code: str = "",
        headers: dict[str, str] | None = None,
    ) -> Fault:
        """Add a fault; by default it stays until `clear`."""
        fault = Fault(step, status, times, skip, code, headers or {})
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def meet(self, step: str) -> int | None:
        """Raise the refusal for a request of this step, if any; return a cut, which the caller carries out."""
        with self._lock:
            for fault in self._faults:
                if fault.step != step:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.met < fault.times:
                    fault.met += 1
                    if fault.status in (CUT, CUT_AFTER):
                        return fault.status
                    raise Refused(fault.status, f"injected {fault.status}", fault.code, fault.headers)
        return None
