"""Faults on order: the next requests of one step are refused, or their connection is cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from tests.hub.server.refusal import Refused

CUT = 0
"""A status that means: cut the connection in the middle of the request's body."""
CUT_AFTER = -1
"""A status that means: do what was asked, then cut the connection instead of answering."""


@dataclass
class Fault:
    """What happens to requests of `step` (the name of an endpoint): `status` to the `times` ones after `skip`."""

    step: str
    status: int
    times: int
    skip: int = 0
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    met: int = 0


class Faults:
    """The faults that are ordered."""

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
        """Order a fault; by default it stays until `clear`."""
        fault = Fault(step, status, times, skip, code, headers or {})
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Let every request pass."""
        self._faults.clear()

    def meet(self, step: str) -> int | None:
        """Raise the refusal that is ordered for a request; a cut is returned, for who holds the connection."""
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
