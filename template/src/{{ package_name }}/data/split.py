"""Split: train and test, by time if the contract has one, else by a hash of the key.

The hash keeps a row where it is when others are added; so metrics stay comparable as data grows.
"""

import math

import msgspec

from .. import declarations, params
from ..contract import Contract
from ..contract.tables import Connection, connect, fetch_one, literal, quote
from ..core.errors import ProjectError, cli
from ..core.files import write_json
from ..core.paths import CLEAN, SPLIT_REPORT, TEST, TRAIN


class Overlap(msgspec.Struct):
    """Rows in each split, and what of the test split training has seen."""

    train: int
    test: int
    shared_keys: int
    twins: float  # share of test rows that equal a training row in every feature, the target and the time
    chance: float = 0.0  # share that would if columns were independent: simple rows have twins
    copies: float = 0.0  # share beyond chance and its standard error, twice


def is_test(con: Connection, contract: Contract, share: float) -> str:
    """SQL for whether a row belongs to the test split."""
    if contract.time is None:
        drawn = f"md5_number_lower({quote(contract.key)}::VARCHAR) % 1000000"
        return f"{drawn} < {round(share * 1_000_000)}"
    time = quote(contract.time)
    (start,) = fetch_one(con, f"SELECT quantile_disc({time}, {1 - share}) FROM {literal(CLEAN)}")
    return f"{time} > {literal(str(start))}"


def split(con: Connection, contract: Contract, share: float) -> None:
    """Write the clean rows to the two splits."""
    test = is_test(con, contract, share)
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE NOT ({test})) TO {literal(TRAIN)}")
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE {test}) TO {literal(TEST)}")


def content_columns(contract: Contract) -> list[str]:
    """What makes two rows equal: features, target and time, but not a key that only identifies."""
    names = [column.name for column in contract.features] + [contract.target]
    if contract.time and contract.time not in names:
        names.append(contract.time)
    return [name for name in names if name != contract.key or name == contract.time]


def measure_overlap(con: Connection, contract: Contract) -> Overlap:
    """Compare the splits by key, and by all else."""
    key, names = quote(contract.key), content_columns(contract)
    content = f"hash({', '.join(map(quote, names))})"
    for name, path in (("train", TRAIN), ("test", TEST)):
        con.sql(f"CREATE TABLE {name} AS SELECT {key} AS key, {content} AS content FROM {literal(path)}")
    train, test, shared, twins = fetch_one(
        con,
        """
        SELECT (SELECT count(*) FROM train), (SELECT count(*) FROM test),
            (SELECT count(*) FROM test SEMI JOIN train USING (key)),
            (SELECT avg((content IN (SELECT content FROM train))::INTEGER) FROM test)
    """,
    )
    chance = chance_of_twins(con, names, content, train) if twins else 0.0
    error = math.sqrt(chance * (1 - chance) / max(test, 1))
    return Overlap(train, test, shared, twins or 0.0, chance, max(0.0, (twins or 0.0) - chance - 2 * error))


def chance_of_twins(con: Connection, names: list[str], content: str, train: int) -> float:
    """The share of test rows that would have a twin in training if the columns were independent.

    For each test row, the frequencies of its values among the training rows *of other content* are
    multiplied: copies cannot explain themselves.
    """
    con.sql(f"""
        CREATE TABLE rows AS SELECT file_row_number AS row, coalesce(same, 0) AS same, 1.0::DOUBLE AS equal
        FROM (SELECT file_row_number, {content} AS content
              FROM read_parquet({literal(TEST)}, file_row_number = true))
        LEFT JOIN (SELECT content, count(*) AS same FROM train GROUP BY content) USING (content)
    """)
    for name in names:
        value = f"hash({quote(name)}) AS value"
        con.sql(f"""
            CREATE OR REPLACE TABLE rows AS
            SELECT row, same, equal * coalesce((n - same) / nullif({train} - same, 0), 0) AS equal FROM rows
            JOIN (SELECT file_row_number AS row, {value}
                  FROM read_parquet({literal(TEST)}, file_row_number = true)) USING (row)
            LEFT JOIN (SELECT {value}, count(*) AS n FROM {literal(TRAIN)} GROUP BY value) USING (value)
        """)
    return fetch_one(con, f"SELECT avg(1 - pow(1 - equal, {train} - same)) FROM rows")[0]


def problems(overlap: Overlap, settings: params.Split) -> list[str]:
    """Say why the splits would flatter a model."""
    found = []
    if not overlap.train or not overlap.test:
        found.append(f"{overlap.train} rows to train, {overlap.test} to test: see split.test_size")
    if overlap.shared_keys:
        found.append(f"{overlap.shared_keys} test rows have their key in training too")
    if overlap.copies > settings.max_overlap_share:
        found.append(
            f"{overlap.twins:.1%} of the test rows equal a training row in every feature, the target and the "
            f"time if there is one; chance explains {overlap.chance:.1%}, and the rest is over "
            f"split.max_overlap_share ({settings.max_overlap_share:.1%}). Remove copies at the source; "
            "raise the limit only if columns that depend on each other make equal rows natural."
        )
    return found


def main() -> None:
    settings, contract = params.load(), declarations.load().contract
    TRAIN.parent.mkdir(parents=True, exist_ok=True)
    with connect(settings.memory_gb) as con:
        split(con, contract, settings.split.test_size)
        overlap = measure_overlap(con, contract)
    write_json(SPLIT_REPORT, overlap)
    print(f"split: {overlap.train:,} rows to train on, {overlap.test:,} to test on")
    if found := problems(overlap, settings.split):
        raise ProjectError("training and test are not apart\n- " + "\n- ".join(found))


if __name__ == "__main__":
    cli(main)
