"""The result of a run, for people (plain text) and for programs (one versioned JSON object)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.events.metrics import Metrics
from mailferry.report_json import dumped
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.events.collector import Result


def total(results: Sequence[Result]) -> Metrics:
    """All sections' counts together."""
    metrics = Metrics()
    for result in results:
        metrics.add(result.metrics)
    return metrics


def as_json(results: Sequence[Result], exit_status: int) -> str:
    """The run as one JSON object; see docs/reference/json.md."""
    sections = [
        {
            "section": result.section,
            "status": result.status,
            "error": result.error or None,
            "warnings": result.warnings,
            "position": result.position,
            "lag_seconds": result.lag_seconds,
            "new_gaps": result.new_gaps,
            "gaps": result.gap_count,
            "late_events": result.late,
            "table": result.table or None,
            "folder": result.folder,
            "files": result.files,
            "metrics": result.metrics.to_json(),
        }
        for result in results
    ]
    return dumped(exit_status=exit_status, sections=sections, total=total(results).to_json())


def as_text(results: Sequence[Result]) -> str:
    """The summary: a block a section, and one in total where there are several."""
    blocks = [
        _block(result.section, result.status, result.metrics, mask(result.error), result.warnings)
        for result in results
    ]
    if len(results) > 1:
        failed = sum(result.status == "error" for result in results)
        skipped = sum(result.status == "skipped" for result in results)
        state = f"{len(results)} sections, {failed} failed, {skipped} skipped"
        blocks.append(_block("total", state, total(results), ""))
    return "\n".join(blocks)


def _block(name: str, status: str, metrics: Metrics, error: str, warnings: Sequence[str] = ()) -> str:
    m = metrics.to_json()
    lines = [f"{name}: {status}"]
    if error:
        lines.append(f"  error          {error}")
    lines += [f"  warning        {mask(warning)}" for warning in warnings]
    extra = [
        f"{m[key]:,} {words}"
        for key, words in (
            ("late_events", "late"),
            ("adopted_after_crash", "adopted after a crash"),
            ("changed_records", "changed since they were written"),
            ("details_missing", "without detail"),
            ("records_without_time", "without time"),
            ("records_not_objects", "that are no objects"),
            ("unreadable_values", "values unreadable and kept as text"),
            ("records_kept_as_text", "kept as text too"),
            ("gaps", "new gaps"),
        )
        if m[key]
    ]
    if m["api_requests"] or m["total_logs_processed"]:
        lines.append(
            f"  logs           {m['total_logs_processed']:,}" + (f" ({', '.join(extra)})" if extra else "")
        )
        lines.append(
            f"  API            {m['api_requests']:,} requests, {m['success_rate'] or 0:g} % good, "
            f"{m['api_errors']:,} failed ({m['api_throttled']:,} throttled)"
        )
        lines.append(
            f"  response time  {_ms(m['avg_response_seconds'])} on average, {_ms(m['min_response_seconds'])} least, "
            f"{_ms(m['max_response_seconds'])} most"
        )
        lines.append(f"  throughput     {m['logs_per_second']:,} logs/s in {m['duration_seconds']:,} s")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"
