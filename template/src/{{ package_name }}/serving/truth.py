"""Truth that is told to the server: what a prediction should have been, by the id and row of its request."""

from time import time
from typing import Any, NamedTuple

from arro3.core import Array, DataType, Table

from ..contract import Column, Contract
from ..contract.rows import MAX_ROWS, RowReader
from .writer import Writer


class Told(NamedTuple):
    """What one request told: the target's value, by id and row."""

    time: float
    values: dict[tuple[str, int], Any]

    @property
    def rows(self) -> int:
        """Rows of the truth."""
        return len(self.values)


class Truths(Writer):
    """What one server is told."""

    def __init__(self, contract: Contract, address: str) -> None:
        """Values of the contract's target, for the store at `address`."""
        super().__init__(address)
        target = contract.column(contract.target)
        self._target, self._type = target.name, DataType.utf8() if target.categories else DataType.float64()
        request = Column("id", "text", description="The x-request-id of the prediction.")
        place = Column(
            "row", "integer", min=0, max=MAX_ROWS - 1, nullable=True, description="0, if not given."
        )
        self.reader = RowReader((request, place, target), "Truth")

    def tell(self, body: bytes) -> int:
        """Record what a body tells; give the number of its rows. Of what is told twice, the later counts."""
        told = {(request, int(row or 0)): value for request, row, value in self.reader.read(body)}
        with self._lock:
            self._waiting.append(Told(time(), told))
            self._count(len(told))
        return len(told)

    def table(self, kept: list[Told]) -> Table:
        """One row for each value."""
        told = [(*key, it.time * 1e6, value) for it in kept for key, value in it.values.items()]
        ids, rows, times, values = zip(*told, strict=True)
        at = Array([*map(int, times)], type=DataType.int64()).cast(DataType.timestamp("us"))
        return Table.from_pydict(
            {
                "id": Array(ids, type=DataType.utf8()),
                "row": Array(rows, type=DataType.int32()),
                "told_at": at,
                self._target: Array(values, type=self._type),
            }
        )
