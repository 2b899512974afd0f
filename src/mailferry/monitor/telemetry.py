"""The metrics by OpenTelemetry's protocol: the same names and numbers that Prometheus scrapes. Durations are the spans'."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mailferry import logs, tracing
from mailferry.clock import local_now
from mailferry.monitor.metrics import families
from mailferry.monitor.status import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Observation
    from prometheus_client.core import Metric

    from mailferry.config.service import Configuration

log = logs.of(__name__)
#: Seconds for which one look serves: all instruments are asked one after the other.
_FRESH = 10.0


class Telemetry:
    """Goes along with a service; what fails here is logged, and the work goes on."""

    def __init__(self) -> None:
        self._sending: Sending | None = None

    def take(self, configuration: Configuration) -> None:
        """Send what is known of this configuration from now on."""
        tracing.set_up()
        if self._sending:
            self._sending.configuration = configuration
        elif tracing.wanted("metrics"):
            try:
                self._sending = Sending(configuration)
            except ImportError:
                log.warning("metrics are not sent: the extra is missing: pip install 'mailferry[otel]'")

    def stop(self) -> None:
        """The process ends: the last spans are sent."""
        tracing.end()


class Sending:
    """Sends every minute (OTEL_METRIC_EXPORT_INTERVAL), until the process ends; the thread is the library's."""

    def __init__(self, configuration: Configuration) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        self.configuration = configuration
        self._known: dict[str, Metric] = {}
        self._at = -_FRESH
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=5))
        self._provider = MeterProvider([reader], resource=tracing.resource(), shutdown_on_exit=False)
        meter = self._provider.get_meter("mailferry")
        for family in families():
            create = {
                "counter": meter.create_observable_counter,
                "gauge": meter.create_observable_gauge,
            }.get(family.type)
            if create:
                create(family.name, [self._observer(family.name)], description=family.documentation)

    def send(self) -> None:
        """Send now."""
        self._provider.force_flush()

    def end(self) -> None:
        """Send the last time."""
        self._provider.shutdown()

    def _observer(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observed(_: CallbackOptions) -> Iterable[Observation]:
            family = self._looked().get(name)
            return [Observation(one.value, one.labels) for one in family.samples] if family else []

        return observed

    def _looked(self) -> dict[str, Metric]:
        if time.monotonic() - self._at >= _FRESH:
            self._known = {one.name: one for one in families(look(self.configuration, local_now()))}
            self._at = time.monotonic()
        return self._known
