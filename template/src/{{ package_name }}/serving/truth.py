"""Truth that is told to the server: what a prediction should have been, by the id and row of its request."""

from time import time
from typing import Any, NamedTuple

from arro3.core import Array, DataType, Table

from ..contract import Column, Contract
from ..contract.rows import MAX_ROWS, RowReader
from .writer import MAX_STORE_GB, Writer

MAX_ID_LENGTH = 64  # characters of a request's id, wherever it stands: a longer one is refused
ROW_BYTES = 512  # that a label takes while it waits, at most: id, row and value, and what Python adds


class Told(NamedTuple):
    """What one request told: id, row and the target's value."""

    time: float
    values: list[tuple[str, int, Any]]

    @property
    def rows(self) -> int:
        """Rows of the truth."""
        return len(self.values)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return ROW_BYTES * len(self.values)


class Truths(Writer):
    """What one server is told."""

    def __init__(self, contract: Contract, address: str, max_gb: float = MAX_STORE_GB) -> None:
        """Values of the contract's target, for the store at `address`: at most so much, if it is a folder."""
        super().__init__(address, max_gb)
        target = contract.column(contract.target)
        self._target, self._type = target.name, DataType.utf8() if target.categories else DataType.float64()
        request = Column("id", "text", description="The x-request-id of the prediction.")
        place = Column(
            "row", "integer", min=0, max=MAX_ROWS - 1, nullable=True, description="0, if not given."
        )
        self.reader = RowReader((request, place, target), "Truth", {"id": MAX_ID_LENGTH})

    def tell(self, body: bytes) -> int:
        """Record what a body tells; give the number of its rows, without those that repeat others.

        Whoever reads them counts the first label of a prediction, and reports others.
        """
        rows = self.reader.read(body)
        told = [*dict.fromkeys((request, int(row or 0), value) for request, row, value in rows)]
        with self._lock:
            self._waiting.append(Told(time(), told))
            self._count(self._waiting[-1])
        return len(told)

    def table(self, kept: list[Told]) -> Table:
        """One row for each value."""
        told = [(*row, it.time * 1e6) for it in kept for row in it.values]
        ids, rows, values, times = zip(*told, strict=True)
        at = Array([*map(int, times)], type=DataType.int64()).cast(DataType.timestamp("us"))
        return Table.from_pydict(
            {
                "id": Array(ids, type=DataType.utf8()),
                "row": Array(rows, type=DataType.int32()),
                "told_at": at,
                self._target: Array(values, type=self._type),
            }
        )
