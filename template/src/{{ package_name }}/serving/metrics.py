"""What a server counts, for Prometheus.

Kept as plain numbers, each written by one thread alone: prometheus_client's own would take a good part of
the time that one row needs.
"""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from .writer import AT_ONCE, Writer

STATUSES = (200, 405, 408, 413, 422, 500, 503)
SECONDS = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]


class Bins:
    """A histogram: how many values there are up to each edge, and above the last."""

    def __init__(self, edges: list[float]) -> None:
        self.edges, self.counts, self.sum = edges, [0] * (len(edges) + 1), 0.0

    def add(self, values: NDArray) -> None:
        """Count values; what is not finite has no place in a sum."""
        values = values[np.isfinite(values)]
        found = np.bincount(np.searchsorted(self.edges, values), minlength=len(self.counts))
        self.counts = (found + self.counts).tolist()
        self.sum += float(values.sum(dtype=float))

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: each holds those before it."""
        return list(zip([*map(str, self.edges), "+Inf"], accumulate(self.counts), strict=True))


class Metrics(Collector):
    """All that one server tells."""

    def __init__(
        self, version: str, price: float, outputs: dict[str, Bins], writers: dict[str, Writer]
    ) -> None:
        """Of a model version at a price per hour, whose outputs are counted elsewhere, as writers do."""
        self.requests, self.rows, self.seconds = dict.fromkeys(STATUSES, 0), 0, Bins(SECONDS)
        self._fresh: list[tuple[int, float]] = []
        self._version, self._price, self._outputs, self._writers = version, price, outputs, writers
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, status: int, seconds: float) -> None:
        """A request was answered."""
        self._fresh.append((status, seconds))
        if len(self._fresh) >= AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        """Add up what is fresh."""
        for status, _ in self._fresh:
            self.requests[status] += 1
        self.seconds.add(np.array([seconds for _, seconds in self._fresh]))
        self._fresh.clear()

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything but the process's own."""
        self._settle()
        said = "Prediction requests by HTTP status"
        requests = CounterMetricFamily("predict_requests", said, labels=["status"])
        for status, number in self.requests.items():
            requests.add_metric([str(status)], number)
        yield requests
        yield CounterMetricFamily("predict_rows", "Rows answered", self.rows)
        said, seconds = "Time to answer a prediction request", self.seconds
        yield HistogramMetricFamily("predict_seconds", said, seconds.buckets, seconds.sum)
        said = "Outputs of the model, in the bins of its reference"
        outputs = HistogramMetricFamily("predict_output", said, labels=["output"])
        for label, bins in self._outputs.items():
            outputs.add_metric([label], bins.buckets, bins.sum)
        yield outputs
        model = GaugeMetricFamily("model_info", "The model that answers", labels=["version"])
        model.add_metric([self._version], 1)
        yield model
        yield GaugeMetricFamily("server_price_per_hour", "What the server costs", self._price)
        for name, writer in self._writers.items():
            said = "Rows that are not written yet"
            yield GaugeMetricFamily(f"{name}_waiting_rows", said, writer.waiting_rows)
            said = "Rows that were given up, because the store took none"
            yield CounterMetricFamily(f"{name}_dropped_rows", said, writer.dropped_rows)
            said = "Attempts to write that failed"
            yield CounterMetricFamily(f"{name}_write_failures", said, writer.failures)
