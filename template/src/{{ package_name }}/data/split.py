"""Split: train and test, by time if the contract has one, else by a hash of the key.

The hash keeps a row where it is when others are added; so metrics stay comparable as data grows.
"""

import msgspec

from .. import params, problem
from ..contract import Contract
from ..contract.tables import Connection, connect, literal, one, quote
from ..stage import CLEAN, SPLIT_REPORT, TEST, TRAIN, ProjectError, write_json


class Overlap(msgspec.Struct):
    """Rows in each split, and what of the test split training has seen."""

    train: int
    test: int
    shared_keys: int
    twins: float  # share of test rows that equal a training row in every feature and the target


def is_test(con: Connection, contract: Contract, share: float) -> str:
    """SQL for whether a row belongs to the test split."""
    if contract.time is None:
        drawn = f"md5_number_lower({quote(contract.key)}::VARCHAR) % 1000000"
        return f"{drawn} < {round(share * 1_000_000)}"
    time = quote(contract.time)
    (start,) = one(con, f"SELECT quantile_disc({time}, {1 - share}) FROM {literal(CLEAN)}")
    return f"{time} > {literal(str(start))}"


def split(con: Connection, contract: Contract, share: float) -> None:
    """Write the clean rows to the two splits."""
    test = is_test(con, contract, share)
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE NOT ({test})) TO {literal(TRAIN)}")
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE {test}) TO {literal(TEST)}")


def measure_overlap(con: Connection, contract: Contract) -> Overlap:
    """Compare the splits by key, and by all else."""
    key = quote(contract.key)
    names = [column.name for column in contract.features] + [contract.target]
    # The time of a time series is different in each row; twins are about all the rest.
    content = ", ".join(quote(name) for name in names if name not in (contract.key, contract.time))
    for name, path in (("train", TRAIN), ("test", TEST)):
        hashed = f"SELECT {key} AS key, hash({content}) AS content FROM {literal(path)}"
        con.sql(f"CREATE TABLE {name} AS {hashed}")
    found = one(
        con,
        """
        SELECT (SELECT count(*) FROM train), (SELECT count(*) FROM test),
            (SELECT count(*) FROM test SEMI JOIN train USING (key)),
            (SELECT avg((content IN (SELECT content FROM train))::INTEGER) FROM test)
    """,
    )
    return Overlap(*(value or 0 for value in found))


def problems(overlap: Overlap, settings: params.Split) -> list[str]:
    """Say why the splits would flatter a model."""
    found = []
    if not overlap.train or not overlap.test:
        found.append(f"{overlap.train} rows to train, {overlap.test} to test: see split.test_share")
    if overlap.shared_keys:
        found.append(f"{overlap.shared_keys} test rows have their key in training too")
    if overlap.twins > settings.max_overlap_share:
        found.append(
            f"{overlap.twins:.1%} of the test rows equal a training row in all but the key, over "
            f"split.max_overlap_share ({settings.max_overlap_share:.1%}). Remove copies at the source; "
            "raise it only if rows are so simple that chance explains it."
        )
    return found


def main() -> None:
    settings = params.load()
    TRAIN.parent.mkdir(parents=True, exist_ok=True)
    with connect(settings.memory_gb) as con:
        split(con, problem.CONTRACT, settings.split.test_share)
        overlap = measure_overlap(con, problem.CONTRACT)
    write_json(SPLIT_REPORT, overlap)
    print(f"split: {overlap.train:,} rows to train on, {overlap.test:,} to test on")
    if found := problems(overlap, settings.split):
        raise ProjectError("training and test are not apart\n- " + "\n- ".join(found))


if __name__ == "__main__":
    main()
