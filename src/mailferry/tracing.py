"""Spans of what is done, by OpenTelemetry; nothing where that is not asked for, and nothing is imported then.

It is asked for by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, or one for traces or metrics alone, see
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. They say where, and with which headers, too.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from mailferry import __version__, logs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Tracer

log = logs.of(__name__)
#: Milliseconds that the last spans get when a process ends.
_LAST = 2000
_tracer: Tracer | None = None
_provider: Any = None


def wanted(kind: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether "traces" or "metrics" are to be sent."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or environ.get(f"OTEL_EXPORTER_OTLP_{kind.upper()}_ENDPOINT")
    )


def set_up() -> None:
    """Send spans from now on, if that is asked for."""
    global _tracer, _provider
    if _provider is not None or not wanted("traces"):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra is missing: pip install 'mailferry[otel]'"
        )
        return
    provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    _provider, _tracer = provider, provider.get_tracer("mailferry", __version__)


def resource() -> Any:
    """Who sends; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say more, or other things."""
    from opentelemetry.sdk.resources import Resource

    named = "OTEL_SERVICE_NAME" in os.environ
    return Resource.create(
        {"service.version": __version__, **({} if named else {"service.name": "mailferry"})}
    )


def end() -> None:
    """Send the last spans, in two seconds at most."""
    if _provider is not None:
        _provider.force_flush(_LAST)


@contextlib.contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """What is done within, as a part of the span around it; an error that leaves it is noted."""
    if _tracer is None:
        yield
        return
    named = {f"mailferry.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, attributes=named):
        yield
