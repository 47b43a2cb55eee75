"""What `/metrics` exports to Prometheus.

Values are plain numbers, each changed by one thread only: the counters of prometheus_client use locks, which
would take a good part of the time of a one-row request.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ..contract.rows import Problem
from .writer import Writer

STATUSES = (200, 401, 403, 404, 405, 408, 413, 415, 422, 500, 503)
OTHER = "other"  # the row as a whole, or a column that is not in the contract: its name may be any text
DURATION_EDGES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]  # seconds


class Histogram:
    """Counts values up to each edge, and above the last one.

    Attributes:
        edges: Upper bounds of the bins, ascending.
        counts: Number of values per bin: one more than edges.
        sum: Sum of the values.
    """

    def __init__(self, edges: list[float]) -> None:
        self.edges, self.counts, self.sum = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one finite value.

        Args:
            value: The value.
        """
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def add_all(self, values: NDArray[np.float32]) -> None:
        """Count many values. Those that are not finite are left out, because they would spoil the sum.

        Args:
            values: The values, of shape `(n_values,)`.
        """
        values = values[np.isfinite(values)]
        added = np.bincount(np.searchsorted(self.edges, values), minlength=len(self.counts))
        self.counts = (added + self.counts).tolist()
        self.sum += float(values.sum(dtype=float))

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The bins as Prometheus expects them.

        Returns:
            Upper bound and cumulative count of each bin.
        """
        return list(zip([*map(str, self.edges), "+Inf"], accumulate(self.counts), strict=True))


class Metrics(Collector):
    """The metrics of one server.

    Attributes:
        predicted_rows: Rows that have been answered with a prediction.
    """

    def __init__(
        self,
        columns: list[str],
        version: str,
        price: float,
        outputs: dict[str, Histogram],
        writers: dict[str, Writer],
    ) -> None:
        """Register the metrics.

        Args:
            columns: The columns of a row.
            version: Version of the model.
            price: What the server costs per hour.
            outputs: Histogram of each output of the model, by its label.
            writers: Writers by the prefix of their metrics.
        """
        self.predicted_rows = 0
        self._requests, self._durations = dict.fromkeys(STATUSES, 0), Histogram(DURATION_EDGES)
        self._rejected_rows = dict.fromkeys([*columns, OTHER], 0)
        self._version, self._price, self._outputs, self._writers = version, price, outputs, writers
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count_request(self, status: int, seconds: float) -> None:
        """Count a request to `/predict`.

        Args:
            status: Its HTTP status, one of `STATUSES`.
            seconds: From its headers to its answer.
        """
        self._requests[status] += 1
        self._durations.add(seconds)

    def count_rejected_rows(self, problems: list[Problem]) -> str:
        """Count the rows of a rejected request that break a rule, by their first broken column.

        Args:
            problems: The broken rules, at least one.

        Returns:
            The first broken column of the request, or `OTHER`.
        """
        columns = {problem.row: problem.column for problem in reversed(problems)}
        counted = [column if column in self._rejected_rows else OTHER for column in columns.values()]
        for column in counted:
            self._rejected_rows[column] += 1
        return counted[-1]

    def text(self) -> bytes:
        """Render the page that Prometheus scrapes.

        Returns:
            The metrics in the text format.
        """
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics except those of the process.

        Yields:
            One metric family after the other.
        """
        requests = CounterMetricFamily("predict_requests", "Requests by HTTP status", labels=["status"])
        for status, number in self._requests.items():
            requests.add_metric([str(status)], number)
        yield requests
        yield CounterMetricFamily("predict_rows", "Predicted rows", self.predicted_rows)
        text = "Rows of rejected requests that break a rule, by first broken column"
        rejected = CounterMetricFamily("rejected_rows", text, labels=["column"])
        for column, number in self._rejected_rows.items():
            rejected.add_metric([column], number)
        yield rejected
        buckets, total = self._durations.buckets, self._durations.sum
        yield HistogramMetricFamily("predict_duration_seconds", "Duration of a request", buckets, total)
        outputs = HistogramMetricFamily("predict_output", "Outputs of the model", labels=["output"])
        for label, histogram in self._outputs.items():
            outputs.add_metric([label], histogram.buckets, histogram.sum)
        yield outputs
        model = GaugeMetricFamily("model_info", "Version of the model", labels=["version"])
        model.add_metric([self._version], 1)
        yield model
        yield GaugeMetricFamily("server_price_per_hour", "PRICE_PER_HOUR of the server", self._price)
        for name, writer in self._writers.items():
            yield GaugeMetricFamily(f"{name}_buffered_rows", "Rows not written yet", writer.buffered_rows)
            yield CounterMetricFamily(
                f"{name}_dropped_rows", "Rows that will never be written", writer.dropped_rows
            )
            text = "Size of the oldest files, deleted because the folder was full"
            yield CounterMetricFamily(f"{name}_deleted_bytes", text, writer.deleted_bytes)
            yield CounterMetricFamily(f"{name}_write_failures", "Failed attempts to write", writer.failures)
