"""What a run counted: requests, their times, events. The heartbeat and the summary show it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Metrics:
    """Counters of one section's run; durations in seconds."""

    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    events: int = 0
    late: int = 0
    #: Records listed again that had been taken already (look-back, window edges).
    repeated: int = 0
    #: Records listed again that are not what they were.
    changed: int = 0
    without_time: int = 0
    not_objects: int = 0
    #: Values that no parser could read, and that are kept as text.
    unreadable: int = 0
    #: Details that could not be fetched: the list record was written.
    stand_ins: int = 0
    #: Rows whose detail came at last.
    completed: int = 0
    adopted: int = 0
    #: Records that jsonb cannot hold exactly, and that are kept as text too.
    as_text: int = 0
    gaps: int = 0
    lists: int = 0
    #: Time that was audited (seconds), the list requests of that, and events that only it found.
    audited_seconds: int = 0
    audit_lists: int = 0
    audit_late: int = 0
    details: int = 0
    succeeded: int = 0
    failed: int = 0
    throttled: int = 0
    response_total: float = 0.0
    response_min: float | None = None
    response_max: float | None = None
    bytes_written: int = 0

    def answered(self, seconds: float, *, good: bool) -> None:
        """Count one HTTP exchange, good or not."""
        if good:
            self.succeeded += 1
        else:
            self.failed += 1
        self.response_total += seconds
        if self.response_min is None or seconds < self.response_min:
            self.response_min = seconds
        if self.response_max is None or seconds > self.response_max:
            self.response_max = seconds

    def to_json(self) -> dict[str, Any]:
        """Flat, with rates; as the heartbeat and `--json` show it."""
        duration = max((self.ended or time.monotonic()) - self.started, 1e-9)
        requests = self.succeeded + self.failed
        return {
            "total_logs_processed": self.events,
            "late_events": self.late,
            "repeated_records": self.repeated,
            "changed_records": self.changed,
            "records_without_time": self.without_time,
            "records_not_objects": self.not_objects,
            "unreadable_values": self.unreadable,
            "details_missing": self.stand_ins,
            "details_completed": self.completed,
            "adopted_after_crash": self.adopted,
            "records_kept_as_text": self.as_text,
            "gaps": self.gaps,
            "api_requests": requests,
            "list_requests": self.lists,
            "audited_seconds": self.audited_seconds,
            "audit_list_requests": self.audit_lists,
            "audit_late_events": self.audit_late,
            "detail_requests": self.details,
            "api_success": self.succeeded,
            "api_errors": self.failed,
            "api_throttled": self.throttled,
            "success_rate": round(100 * self.succeeded / requests, 2) if requests else None,
            "error_rate": round(100 * self.failed / requests, 2) if requests else None,
            "avg_response_seconds": round(self.response_total / requests, 4) if requests else None,
            "min_response_seconds": _rounded(self.response_min),
            "max_response_seconds": _rounded(self.response_max),
            "bytes_written": self.bytes_written,
            "duration_seconds": round(duration, 3),
            "logs_per_second": round(self.events / duration, 2),
        }

    def add(self, other: Metrics) -> None:
        """Count another section's finished run in, for the total."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if name == "started":
                self.started = min(mine, value)
            elif name == "ended":
                self.ended = max((time for time in (mine, value) if time is not None), default=None)
            elif name == "response_min":
                self.response_min = min((time for time in (mine, value) if time is not None), default=None)
            elif name == "response_max":
                self.response_max = max((time for time in (mine, value) if time is not None), default=None)
            else:
                setattr(self, name, mine + value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
