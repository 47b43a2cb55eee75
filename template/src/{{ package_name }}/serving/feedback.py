"""Feedback: ground-truth labels of earlier predictions, by request id and row."""

from time import time
from typing import Any

from arro3.core import Array, DataType, Table

from ..contract import Column, Contract
from ..contract.events import LABEL_TIME
from ..contract.rows import MAX_ROWS, RowReader
from .writer import MAX_STORE_GB, Record, Writer

MAX_ID_LENGTH = 64  # characters of a request id
LABEL_BYTES = 512  # upper bound of a label's size in memory: id, row, value and Python's overhead

_ID = Column("id", "text", description="The x-request-id of the prediction.")
_ROW = Column("row", "integer", 0, MAX_ROWS - 1, nullable=True, description="Its row, 0 if absent.")


class Labels(Record, kw_only=True):
    """The labels of one request.

    Attributes:
        values: Request id, row and label of each.
    """

    values: list[tuple[str, int, Any]]


class LabelWriter(Writer[Labels]):
    """Writes the labels that a server receives."""

    def __init__(self, contract: Contract, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Prepare a writer for labels.

        Args:
            contract: The contract of the model, whose target is the label.
            address: Folder or address of the store.
            max_gb: Largest size of the store in GB, if it is a folder.
        """
        super().__init__(address, max_gb)
        target = contract.column(contract.target)
        self._target, self._type = target.name, DataType.utf8() if target.categories else DataType.float64()
        self.reader = RowReader((_ID, _ROW, target), "Feedback", {"id": MAX_ID_LENGTH})

    def record(self, body: bytes) -> int:
        """Record the labels of a request.

        Args:
            body: One label or a list of labels, as JSON.

        Returns:
            The number of labels, repeated ones counted once. If labels of one row differ, monitoring uses the
            first and reports the others.

        Raises:
            RowError: The body breaks a rule of the contract.
        """
        labels = dict.fromkeys((name, int(row or 0), value) for name, row, value in self.reader.read(body))
        self.add(Labels(time(), len(labels), LABEL_BYTES * len(labels), values=[*labels]))
        return len(labels)

    def table(self, records: list[Labels]) -> Table:
        """Convert labels to rows.

        Args:
            records: The records, at least one, oldest first.

        Returns:
            One row per label: `id`, `row`, `received_at` and the target's column.
        """
        rows = [(*value, int(record.time * 1e6)) for record in records for value in record.values]
        ids, positions, values, times = zip(*rows, strict=True)
        received_at = Array(times, type=DataType.int64()).cast(DataType.timestamp("us"))
        return Table.from_pydict(
            {
                "id": Array(ids, type=DataType.utf8()),
                "row": Array(positions, type=DataType.int32()),
                LABEL_TIME: received_at,
                self._target: Array(values, type=self._type),
            }
        )
