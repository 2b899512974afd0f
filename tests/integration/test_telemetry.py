"""Traces and metrics by OpenTelemetry's protocol, as a receiver of the test's own gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support_alerts import web_server
from support_load import Site

from mailferry import tracing
from mailferry.config import service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support_alerts import Web

    from mailferry.config.database import DatabaseSettings


@pytest.fixture
def receiver() -> Iterator[Web]:
    with web_server() as found:
        yield found


def spans(receiver: Web) -> list[Any]:
    found = []
    for body in receiver.bodies("/v1/traces"):
        request = ExportTraceServiceRequest.FromString(body)
        found += [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]
    return found


def test_a_load_is_a_poll_and_a_job_with_its_parts_without_what_senders_wrote(
    tmp_path: Path, database_settings: DatabaseSettings, receiver: Web
) -> None:
    site = Site(tmp_path, database_settings)
    site.send(files=2)
    assert site.load(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url(""))[0] == 0
    found = spans(receiver)
    assert sorted(span.name for span in found) == ["job", "part", "part", "poll"]
    (job,) = [span for span in found if span.name == "job"]
    assert all(span.parent_span_id == job.span_id for span in found if span.name == "part")
    assert {one.key: one.value.int_value for one in job.attributes}["mailferry.job"] == 1
    assert not [
        body for body in receiver.bodies("/v1/traces") if b"Track and Trace" in body or b"example.com" in body
    ]


def test_a_receiver_that_refuses_or_hangs_does_not_fail_the_work(
    tmp_path: Path, database_settings: DatabaseSettings, receiver: Web
) -> None:
    site = Site(tmp_path, database_settings)
    site.send()
    receiver.status = 400
    assert site.load(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url(""))[0] == 0


def test_a_service_sends_the_metrics_that_prometheus_scrapes(
    tmp_path: Path, database_settings: DatabaseSettings, receiver: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailferry.monitor.telemetry import Sending

    site = Site(tmp_path, database_settings)
    site.send()
    assert site.load()[0] == 0
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url(""))
    sending = Sending(service.read([site.folder / "config.env"], {}))
    sending.end()
    (body,) = receiver.bodies("/v1/metrics")
    request = ExportMetricsServiceRequest.FromString(body)
    (scope,) = request.resource_metrics[0].scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}
    states = {
        point.attributes[0].value.string_value: point.as_double or point.as_int
        for point in metrics["mailferry_jobs"].gauge.data_points
    }
    assert states["completed"] == 1
    rows = metrics["mailferry_rows"].sum
    assert rows.is_monotonic
    assert {point.attributes[0].value.string_value for point in rows.data_points} >= {"read", "rejected"}


@pytest.mark.parametrize(
    ("environ", "kinds"),
    [
        ({}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, {"traces", "metrics"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, {"traces"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, set()),
    ],
)
def test_it_goes_by_the_usual_variables(environ: dict[str, str], kinds: set[str]) -> None:
    assert {kind for kind in ("traces", "metrics") if tracing.wanted(kind, environ)} == kinds
