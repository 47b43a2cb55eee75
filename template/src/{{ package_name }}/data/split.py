"""Split: training and test rows, by time if the contract has one, else by a hash of the group or the key.

A hash keeps each row in its split when rows are added; so metrics stay comparable as data grows.
"""

import math
from datetime import datetime
from pathlib import Path

import msgspec

from .. import declarations, params
from ..contract import Contract
from ..contract.tables import Connection, connect, fetch_one, key_text, literal, quote
from ..core.errors import ProjectError, cli
from ..core.files import read_json, write_json
from ..core.paths import CLEAN, SPLIT_REPORT, TEST, TRAIN

DUPLICATES = ("duplicate_share", "expected_duplicate_share", "excess_duplicate_share")
RENAMED = dict(zip(("twins", "chance", "copies"), DUPLICATES, strict=True))  # fields of 0.2


class SplitReport(msgspec.Struct):
    """The content of `split.json`: the size of both splits, and test rows that training has too.

    A test row is a duplicate if a training row has the same features, target and time. Rows of few distinct
    values are duplicates by chance; only the excess is a sign of copied rows.
    """

    train: int
    test: int
    shared_keys: int
    duplicate_share: float
    expected_duplicate_share: float = 0.0  # if the columns were independent
    excess_duplicate_share: float = 0.0  # beyond the expected share and twice its standard error
    shared_groups: int = 0  # test groups with training rows; not counted if the rows are split by time
    test_groups: int | None = None  # number of groups in the test split; None without a group
    in_gap: int = 0  # rows in neither split: their target was not yet known when the test rows begin
    train_times: list[str] = []  # first and last time; empty without a time
    test_times: list[str] = []
    equal_rows: int = 0  # rows that equal another row of the same split in all but the key


def load_split_report(path: Path) -> SplitReport:
    """Read `split.json`, also as written by 0.2 and before.

    Args:
        path: Path of the file.

    Returns:
        The report.

    Raises:
        ProjectError: The file is missing or broken.
    """
    content = read_json(path)
    fields = {RENAMED.get(name, name): value for name, value in content.items()}
    return msgspec.convert({"excess_duplicate_share": fields["duplicate_share"]} | fields, SplitReport)


def _conditions(con: Connection, contract: Contract, test_size: float) -> tuple[str, str]:
    """Build SQL for whether a row belongs to the training split, and to the test split."""
    if contract.time is None:
        unit = f"{quote(contract.group)}::VARCHAR" if contract.group else key_text(contract)
        is_test = f"md5_number_lower({unit}) % 1000000 < {round(test_size * 1_000_000)}"
        return f"NOT ({is_test})", is_test
    time = quote(contract.time)
    (end,) = fetch_one(con, f"SELECT quantile_disc({time}, {1 - test_size}) FROM {literal(CLEAN)}")
    is_test = f"{time} > {_moment(end)}"
    # The target of a training row must be known when the first test row is predicted.
    (start,) = fetch_one(con, f"SELECT min({time}) FROM {literal(CLEAN)} WHERE {is_test}")
    if start is None or not contract.gap:
        return f"NOT ({is_test})", is_test
    return f"{time} <= {_moment(start - contract.gap)}", is_test


def _moment(value: datetime | float | None) -> str:
    """Build SQL for a time or number."""
    return literal(str(value)) if isinstance(value, datetime) else f"{value or 0!r}"


def split(con: Connection, contract: Contract, test_size: float) -> None:
    """Write the clean rows to `data/splits/train.parquet` and `data/splits/test.parquet`.

    Args:
        con: Any connection.
        contract: Its time, group or key decides which rows are the test split.
        test_size: Share of the rows in the test split, between 0 and 1: the newest, if there is a time.
    """
    is_train, is_test = _conditions(con, contract, test_size)
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE {is_train}) TO {literal(TRAIN)}")
    con.sql(f"COPY (FROM {literal(CLEAN)} WHERE {is_test}) TO {literal(TEST)}")


def _content_columns(contract: Contract) -> list[str]:
    """List features, target, time and group, without a key that only identifies rows."""
    features = [column.name for column in contract.features if column.name != contract.key]
    roles = filter(None, [contract.target, contract.time, contract.group])
    return [*dict.fromkeys([*features, *roles])]


def measure_overlap(con: Connection, contract: Contract) -> SplitReport:
    """Compare the test split with the training split, by key and by content.

    Args:
        con: A connection that nothing else uses.
        contract: The contract of the rows.

    Returns:
        The report.
    """
    hashes = ", ".join(f"hash({quote(name)})" for name in _content_columns(contract))
    for name, path in (("train", TRAIN), ("test", TEST)):
        group = quote(contract.group) if contract.group else "NULL"
        columns = (
            f"{key_text(contract)} AS key, {group} AS unit, [{hashes}] AS hashes, hash(hashes) AS content"
        )
        con.sql(f"CREATE VIEW {name} AS SELECT {columns} FROM {literal(path)}")
    query = """
        SELECT (SELECT count(*) FROM train), (SELECT count(*) FROM test),
            (SELECT count(*) FROM test SEMI JOIN train USING (key)),
            (SELECT count(*) FROM test SEMI JOIN train USING (content)),
            (SELECT count(DISTINCT unit) FROM test SEMI JOIN train USING (unit)),
            (SELECT count(DISTINCT unit) FROM test),
            (SELECT count(*) - count(DISTINCT content) FROM train)
            + (SELECT count(*) - count(DISTINCT content) FROM test)
    """
    train_rows, test_rows, shared_keys, duplicates, shared, groups, copies = fetch_one(con, query)
    (rows,) = fetch_one(con, f"SELECT count(*) FROM {literal(CLEAN)}")
    share = duplicates / max(test_rows, 1)
    expected = _expected_duplicate_share(con) if duplicates else 0.0
    uncertain = max(share * (1 - share), expected * (1 - expected))  # two of 30 rows are no evidence
    error = math.sqrt(uncertain / max(test_rows, 1))
    excess = max(0.0, share - expected - 2 * error)
    return SplitReport(
        train=train_rows,
        test=test_rows,
        shared_keys=shared_keys,
        duplicate_share=share,
        expected_duplicate_share=expected,
        excess_duplicate_share=excess,
        shared_groups=0 if contract.time else shared,
        test_groups=groups if contract.group else None,
        in_gap=rows - train_rows - test_rows,
        train_times=_time_range(con, contract, TRAIN),
        test_times=_time_range(con, contract, TEST),
        equal_rows=copies,
    )


def _time_range(con: Connection, contract: Contract, path: Path) -> list[str]:
    """The first and the last time of a split, as text; empty without a time, or for an empty split."""
    if contract.time is None:
        return []
    time = quote(contract.time)
    limits = fetch_one(con, f"SELECT min({time})::VARCHAR, max({time})::VARCHAR FROM {literal(path)}")
    return [text for text in limits if text is not None]


def _expected_duplicate_share(con: Connection) -> float:
    """Estimate the share of test rows with a duplicate in training if the columns were independent.

    For each test row, the frequencies of its values among the training rows *of other content* are
    multiplied: copies must not count as evidence that they are likely.
    """
    query = """
        WITH total AS (SELECT count(*) AS n_total FROM train),
            equal AS (SELECT content, count(*) AS n_equal FROM train GROUP BY content),
            tested AS (
                SELECT any_value(hashes) AS hashes, count(*) AS n, coalesce(any_value(n_equal), 0) AS n_equal,
                    any_value(n_total) - coalesce(any_value(n_equal), 0) AS n_other
                FROM test LEFT JOIN equal USING (content), total GROUP BY content),
            frequencies AS (
                SELECT position, value, count(*) AS n_value
                FROM (SELECT unnest(range(len(hashes))) AS position, unnest(hashes) AS value FROM train)
                GROUP BY ALL),
            likelihoods AS (
                SELECT n, n_other,
                    product(coalesce((n_value - n_equal) / nullif(n_other, 0), 0)) AS likelihood
                FROM (SELECT *, unnest(range(len(hashes))) AS position, unnest(hashes) AS value FROM tested)
                LEFT JOIN frequencies USING (position, value)
                GROUP BY hashes, n, n_other)
        SELECT sum(n * (1 - pow(1 - likelihood, n_other))) / sum(n) FROM likelihoods
    """
    return round(fetch_one(con, query)[0], 9)  # the last digits depend on the number of threads


def problems(report: SplitReport, settings: params.Split) -> list[str]:
    """List why the test split cannot be trusted.

    Args:
        report: Sizes and overlap of the splits.
        settings: The limits.

    Returns:
        A message for each problem.
    """
    messages = []
    if not report.train or not report.test:
        sizes = f"{report.train} training rows and {report.test} test rows"
        reason = f", and {report.in_gap:,} rows lie within the horizon between them" if report.in_gap else ""
        messages.append(f"{sizes}{reason}: change split.test_size, which is {settings.test_size}")
    if report.shared_keys:
        messages.append(f"{report.shared_keys} test rows have a key that is in training too")
    if report.shared_groups:
        messages.append(f"{report.shared_groups} groups of the test split have rows in training too")
    if report.excess_duplicate_share > settings.max_overlap_share:
        messages.append(
            f"{report.duplicate_share:.1%} of the test rows equal a training row in features, target and "
            f"time, {report.expected_duplicate_share:.1%} are expected by chance: the excess is over "
            f"split.max_overlap_share ({settings.max_overlap_share:.1%}). Remove copies at the source; raise "
            "the limit only if dependent columns make equal rows natural"
        )
    return messages


def main() -> None:
    """Run the stage."""
    settings, contract = params.load(), declarations.load().contract
    TRAIN.parent.mkdir(parents=True, exist_ok=True)
    with connect(settings.memory_gb) as con:
        split(con, contract, settings.split.test_size)
        report = measure_overlap(con, contract)
    write_json(SPLIT_REPORT, report)
    groups = f" of {report.test_groups:,} groups" if report.test_groups is not None else ""
    gap = f", {report.in_gap:,} rows between them left out (horizon)" if report.in_gap else ""
    print(f"split: {report.train:,} training rows, {report.test:,} test rows{groups}{gap}")
    if report.test_times:
        ranges = " to ".join(report.train_times), " to ".join(report.test_times)
        print("split: training {}, test {}".format(*ranges))
    if report.equal_rows:
        print(f"split: {report.equal_rows:,} rows equal another row of their split in all but the key")
    if messages := problems(report, settings.split):
        raise ProjectError("training and test split overlap or are empty\n- " + "\n- ".join(messages))


if __name__ == "__main__":
    cli(main)
