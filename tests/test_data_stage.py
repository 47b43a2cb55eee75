"""Each check of the data stage is broken once in the data, and seen to stop or to reject."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers import files
from project import Project

# Which customer is broken how: SQL for the value, and the reason that must stand beside the row.
# A column that gets a text becomes a column of texts, as in a CSV file.
BROKEN = {
    "wrong type": (11, "tenure", "'a while'", "tenure: must be an integer from 0 to 600"),
    "below the range": (12, "tenure", "'-1'", "tenure: must be an integer from 0 to 600"),
    "above the range": (13, "tenure", "'601'", "tenure: must be an integer from 0 to 600"),
    "fraction": (14, "tenure", "'3.5'", "tenure: must be an integer from 0 to 600"),
    "almost whole": (15, "tenure", "'3.0000001'", "tenure: must be an integer from 0 to 600"),
    "number below": (16, "monthly_charges", "-0.01", "must be a number from 0 to 1000"),
    "number above": (17, "monthly_charges", "1000.01", "must be a number from 0 to 1000"),
    "not a number": (18, "monthly_charges", "'nan'::DOUBLE", "must be a number from 0 to 1000"),
    "infinite": (19, "total_charges", "'inf'::DOUBLE", "must be a number of at least 0"),
    "unknown category": (20, "contract", "'Weekly'", "contract: must be one of 'Month-to-month'"),
    "case of a category": (21, "contract", "'one year'", "contract: must be one of"),
    "space after a category": (22, "contract", "'One year '", "contract: must be one of"),
    "category with signs": (23, "contract", "'a; b, got c'", "contract: must be one of"),
    "unknown label": (24, "churn", "'Maybe'", "churn: must be one of 'No', 'Yes'"),
    "missing number": (25, "tenure", "NULL", "tenure: missing; must be an integer from 0 to 600"),
    "missing category": (26, "contract", "NULL", "contract: missing; must be one of"),
    "missing label": (27, "churn", "NULL", "churn: missing; must be one of 'No', 'Yes'"),
    "no time": (40, "seen", "'sometime'", "seen: must be a time such as 2026-01-31T14:30:00"),
    "no such day": (41, "seen", "'2014-02-30 00:00:00'", "seen: must be a time such as"),
    "no end of times": (42, "seen", "'infinity'", "seen: must be a time such as"),
    "time by its nickname": (43, "seen", "'epoch'", "seen: must be a time such as"),
    "time with an offset": (44, "seen", "'2014-03-01 00:00:00+05'", "seen: must be a time such as"),
    "time in no zone": (45, "seen", "'2014-03-01T00:00:00Z'", "seen: must be a time such as"),
    "missing key": (28, "customer_id", "NULL", "customer_id: missing; must be a text"),
}

# Values that look odd and are right: they must stay.
ODD = {
    "another way to write a time": (46, "seen", "'2014-03-01 00:00:00'"),
    "whole number with a fraction of zero": (31, "tenure", "'34.0'"),
    "lowest": (32, "tenure", "'0'"),
    "highest": (33, "tenure", "'600'"),
    "missing where allowed": (34, "total_charges", "NULL"),
}

PERSONAL = {
    "mail": ("'who' || customer_id || '@example.com'", "e-mail addresses"),
    "phone": ("'+49 30 ' || (9000000 + customer_id)", "phone numbers"),
    "us_phone": ("'(212) 555-' || (1000 + customer_id)", "phone numbers"),
    "card": ("'4111 1111 1111 1111'", "card numbers"),
    "plain_card": ("'paid with 5500005555555559.'", "card numbers"),
    "ssn": ("'123-45-' || (1000 + customer_id)", "social security numbers"),
    "iban": ("'GB82 WEST 1234 5698 7654 32'", "bank account numbers"),
    "plain_iban": ("'DE89370400440532013000'", "bank account numbers"),
    "note": ("if(customer_id = 4321, 'ask jo@example.org', 'fine')", "e-mail addresses"),
}

HARMLESS = {
    "no_card": "'4111 1111 1111 1112'",  # its check digit is wrong
    "order_number": "'ORD-' || lpad(customer_id::VARCHAR, 6, '0')",
    "zero_padded": "lpad(customer_id::VARCHAR, 10, '0')",
    "moment": "'2026-01-31T14:30:00'",
    "price": "'1234.50'",
    "version": "'1.22.333'",
    "address": "'10.20.30.40'",
    "hash": "md5(customer_id::VARCHAR)",
    "uuid": "'a3bb189e-8bf9-3888-9912-ace4e6543002'",
}


def broken(column: str, of: dict[str, tuple[Any, ...]]) -> str:
    """SQL for a column in which single customers' values are replaced."""
    cases = [f"WHEN {key} THEN {value}" for key, name, value, *_ in of.values() if name == column]
    kind = "DOUBLE" if column.endswith("charges") else "VARCHAR"
    return f"CASE customer_id {' '.join(cases)} ELSE {column}::{kind} END AS {column}"


@pytest.fixture(scope="module")
def mixed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Break many rows in as many ways at once, and validate: reasons must not mix."""
    work = project.copy(tmp_path_factory.mktemp("mixed") / "project")
    together = {**BROKEN, **ODD}
    work.declare('Column("seen", "time", feature=False)')
    work.edit("SELECT *, '2026-01-31T14:30:00' AS seen FROM raw")
    columns = sorted({case[1] for case in together.values()})
    work.edit(f"SELECT * REPLACE ({', '.join(broken(c, together) for c in columns)}) FROM raw")  # noqa: S608
    work.stages("data.validate")
    return work


def reasons(project: Project, where: str = "true") -> list[str]:
    """Read why rows were rejected."""
    query = f"SELECT reasons FROM 'data/rejected.parquet' WHERE {where}"  # noqa: S608
    return [row["reasons"] for row in project.rows(query)]


def clean_keys(project: Project) -> list[str]:
    """List the customers that go on."""
    rows = project.rows("SELECT customer_id FROM 'data/clean.parquet'")
    return [row["customer_id"] for row in rows]


def test_validate_passes_untouched_data(either: Project) -> None:
    """Every check below would be worthless if it stopped good data too."""
    report = either.json("reports/data/data.json")
    assert report["failures"] == []
    assert report["rejected"] == 0
    assert report["rows"] > 7000


@pytest.mark.parametrize("case", BROKEN)
def test_validate_rejects_broken_row_with_its_reason(mixed: Project, case: str) -> None:
    """One reason, the column and the rule in it, and the row nowhere but among the rejected."""
    key, column, value, reason = BROKEN[case]
    where = "customer_id IS NULL" if column == "customer_id" else f"customer_id = '{key}'"
    (full_reason,) = reasons(mixed, where)
    assert full_reason.startswith(reason if ":" in reason else column)
    assert reason in full_reason
    assert full_reason.count(": m") == 1
    assert str(key) not in clean_keys(mixed)
    if value.startswith("'") and value.endswith("'"):
        assert f"got {value[1:-1]}" in full_reason


@pytest.mark.parametrize("case", ODD)
def test_validate_keeps_odd_row(mixed: Project, case: str) -> None:
    """Rules must not reject what the contract allows."""
    assert str(ODD[case][0]) in clean_keys(mixed)


def test_data_report_counts_rules_not_values(mixed: Project) -> None:
    """One line for a rule, however many values broke it: signs in a value must not split it."""
    report = mixed.json("reports/data/data.json")
    assert report["reasons"]["tenure: must be an integer from 0 to 600"] == 5
    assert [rule for rule in report["reasons"] if not re.match(r"\w+: m", rule)] == []
    assert sum(report["reasons"].values()) == report["rejected"] >= 18


def test_data_report_is_readable_markdown(mixed: Project) -> None:
    """Markdown with the rules broken, and a picture of each column's distribution."""
    text = (mixed.folder / "reports/data/data.md").read_text()
    assert re.search(r"\| tenure: must be an integer from 0 to 600 +\| +5 \|", text)
    assert "Fit for training" in text
    picture = mixed.folder / "reports/data" / re.findall(r"!\[.*\]\((.+)\)", text)[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


@pytest.fixture(scope="module")
def repeated(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Repeat customer 7 as it is, customer 8 with another bill, and customer 9 both ways."""
    work = project.copy(tmp_path_factory.mktemp("repeated") / "project")
    work.edit(
        "FROM raw "
        "UNION ALL FROM raw WHERE customer_id IN (7, 9) UNION ALL FROM raw WHERE customer_id = 7 "
        "UNION ALL SELECT * REPLACE (1.5 AS monthly_charges) FROM raw WHERE customer_id IN (8, 9)"
    )
    work.stages("data.validate")
    return work


def test_validate_keeps_one_of_equal_rows(repeated: Project) -> None:
    """A row that was delivered three times is still right."""
    assert clean_keys(repeated).count("7") == 1
    assert reasons(repeated, "customer_id = '7'") == ["duplicate: the same row came before"] * 2


@pytest.mark.parametrize("key", ["8", "9"])
def test_validate_rejects_all_different_rows_with_one_key(repeated: Project, key: str) -> None:
    """Nobody knows which is right."""
    assert key not in clean_keys(repeated)
    rejected = reasons(repeated, f"customer_id = '{key}'")
    assert "customer_id: not unique; several different rows have it" in rejected
    assert len(rejected) == (2 if key == "8" else 3)


def test_validate_fails_above_max_rejected_share(work: Project) -> None:
    """A few bad rows are life, many are a broken source. Those aside still say what is wrong."""
    work.edit("SELECT * REPLACE (if(customer_id <= 50, 999, tenure) AS tenure) FROM raw")
    work.params("validate: {max_rejected_share: 0.005}")
    error = work.refusal("data.validate")
    assert "rejected rows: 50 of 7,043 (0.7%)" in error
    assert "validate.max_rejected_share (0.5%)" in error
    assert "data/rejected.parquet" in error
    assert reasons(work) == ["tenure: must be an integer from 0 to 600, got 999"] * 50
    assert "Not fit for training" in (work.folder / "reports/data/data.md").read_text()


@pytest.mark.parametrize("query", ["SELECT * REPLACE (999 AS demand) FROM raw", "FROM raw LIMIT 0"])
def test_validate_fails_without_valid_rows(demand_work: Project, query: str) -> None:
    """The emptiest table gets the same clear answer, not a traceback from a library."""
    demand_work.edit(query)
    error = demand_work.refusal("data.validate")
    assert "rejected rows" in error
    assert "validate.max_rejected_share" in error


@pytest.mark.parametrize("rows", [0, 1])
def test_validate_explains_too_few_rows(work: Project, rows: int) -> None:
    """The first file that somebody tries is often tiny."""
    work.edit(f"FROM raw LIMIT {rows}")
    assert "validate." in work.refusal("data.validate")


@pytest.mark.parametrize("rows", [0, 20])
def test_validate_fails_when_a_class_has_too_few_rows(work: Project, rows: int) -> None:
    """Twenty examples teach nothing, and one class alone leaves nothing to tell apart."""
    few = f"(FROM raw WHERE churn = 'Yes' LIMIT {rows})"
    work.edit(f"FROM raw WHERE churn = 'No' AND customer_id < 900 UNION ALL {few}")
    error = work.refusal("data.validate")
    assert f"label: churn is 'Yes' in {rows} rows" in error
    assert "validate.min_class_rows (30)" in error
    assert "'No'" not in error


def test_validate_fails_when_the_target_is_constant(demand_work: Project) -> None:
    """A regression's way of having one class only."""
    demand_work.edit("SELECT * REPLACE (4.2 AS demand) FROM raw")
    error = demand_work.refusal("data.validate")
    assert "label: demand" in error
    assert "4.2 in every row" in error


def test_validate_fails_on_leakage(work: Project) -> None:
    """Features written down after the fact; two, harmless alone; not one that says so itself."""
    work.declare(
        'Column("refund", "number")',
        'Column("state", "category", categories=("gone", "here", "new"))',
        'Column("exit_score", "number", nullable=True)',
        'Column("before", "number")',
        'Column("after", "number")',
        'Column("reason_left", "integer", known_at_prediction=False)',
        'Column("left_on", "integer", known_at_prediction=False, feature=False)',
    )
    work.edit("""
        SELECT *, if(churn = 'Yes', 100, 0) + hash(customer_id) % 7 AS refund,
               if(churn = 'Yes', 'gone', 'here') AS state,
               if(churn = 'Yes', hash(customer_id) % 10, NULL) AS exit_score,
               (hash(customer_id, 1) % 1000)::DOUBLE AS before,
               before + if(churn = 'Yes', -1, 1) * (1 + hash(customer_id, 2) % 5) AS after,
               if(churn = 'Yes', 1, 0) AS reason_left, 0 AS left_on
        FROM raw
    """)
    leaks = re.findall(r"target leakage: ([\w ]+)", work.refusal("data.validate"))
    assert {" ".join(sorted(leak.split(" all ")[0].split(" with "))) for leak in leaks} == {
        "refund",
        "state",
        "exit_score",
        "after before",
    }
    assert len(leaks) == 4


def test_validate_fails_on_leakage_in_a_regression(demand_work: Project) -> None:
    """There it is a share of variance: here a sum of two parts, neither of which tells much."""
    demand_work.declare('Column("homes", "number")', 'Column("industry", "number")')
    part = "hash(time) % 10000 / 1000 - 5"
    demand_work.edit(f"SELECT *, {part} AS homes, demand - homes AS industry FROM raw")  # noqa: S608
    error = demand_work.refusal("data.validate")
    assert re.search("(homes with industry|industry with homes) all but determines demand", error)
    assert error.count("all but determines") == 1


def test_validate_fails_on_undeclared_personal_data(work: Project) -> None:
    """Each kind by its name, one address among thousands; look-alikes are left alone."""
    work.declare(*(f'Column("{name}", "text")' for name in (*PERSONAL, *HARMLESS)))
    work.declare('Column("shop", "text", personal=False)')  # only its owner knows that it is fine
    values = {name: sql for name, (sql, _) in PERSONAL.items()} | HARMLESS
    values["shop"] = "'shop' || customer_id || '@example.com'"
    added = ", ".join(f"{sql} AS {name}" for name, sql in values.items())
    work.edit(f"SELECT *, {added} FROM raw")  # noqa: S608
    pattern = r"personal data: (\w+) holds what looks like ([\w -]+?) \("
    kinds = dict(re.findall(pattern, work.refusal("data.validate")))
    assert kinds == {name: kind for name, (_, kind) in PERSONAL.items()}


def holding(paths: Iterable[Path], value: str) -> list[Path]:
    """List files that hold a value in their bytes."""
    return [path for path in paths if value.encode() in path.read_bytes()]


def made_from(project: Project) -> list[Path]:
    """List all files that the pipeline makes from the raw table."""
    folders = ("data", "models", "reports", ".params")
    paths = [path for folder in folders for path in files(project.folder / folder)]
    return [path for path in paths if path.name != "raw.parquet"]


def test_personal_data_stays_in_the_raw_table(work: Project) -> None:
    """Not into clean, rejected or split rows, not into bundle, report or message."""
    secret, age = "Zaphod Beeblebrox", "987654321"
    work.declare(
        'Column("name", "text", nullable=True, personal=True)',
        'Column("age", "integer", 0, 120, personal=True)',
    )
    work.bring(f"""
        SELECT * REPLACE (if(customer_id <= 50, 999, tenure) AS tenure),
               '{secret}' AS name, if(customer_id < 70, {age}, 40) AS age FROM raw
        UNION ALL SELECT *, 'Another' AS name, 40 AS age FROM raw WHERE customer_id = 99
    """)  # noqa: S608
    output = work.make("pipeline")
    assert secret not in output
    assert holding([work.folder / "data/raw.parquet"], secret)
    assert len(made_from(work)) > 10
    for value in (secret, age):
        assert holding(made_from(work), value) == []
    for path in ("clean", "rejected", "splits/train", "splits/test"):
        columns = work.rows(f"DESCRIBE FROM 'data/{path}.parquet'")
        assert not {"name", "age"} & {column["column_name"] for column in columns}
    # Rules hold for what is dropped, and what is dropped does not make two rows of one.
    assert "age: must be an integer from 0 to 120" in reasons(work)
    assert reasons(work, "customer_id = '99'") == ["duplicate: the same row came before"]


def test_validate_names_missing_column(work: Project) -> None:
    """With what is there instead, and what to do."""
    work.edit("SELECT * EXCLUDE (tenure, contract), tenure AS months FROM raw")
    error = work.refusal("data.validate")
    assert "tenure, contract" in error
    assert "months" in error
    assert "problem.PREPARE" in error


def rekey(project: Project, which: str) -> None:
    """Add copies of clean rows under keys of their own."""
    copies = f"SELECT * REPLACE ('copy of ' || customer_id AS customer_id) FROM raw WHERE {which}"  # noqa: S608
    project.edit(f"FROM raw UNION ALL {copies}", "data/clean.parquet")


def test_split_fails_when_test_rows_are_in_training(work: Project) -> None:
    """The test would ask what training has told."""
    rekey(work, "customer_id IN (SELECT customer_id FROM 'data/splits/test.parquet')")
    error = work.refusal("data.split")
    assert "training and test are not apart" in error
    assert "test rows equal a training row in every feature" in error


def test_split_fails_when_a_table_repeats_under_other_keys(work: Project) -> None:
    """Then training is as full of twins as the test split: that must not excuse it."""
    rekey(work, "true")
    assert "training and test are not apart" in work.refusal("data.split")


def test_split_fails_without_test_rows(work: Project) -> None:
    """A share of nothing is a mistake in the parameters."""
    work.params("split: {test_size: 0}")
    assert "split.test_size" in work.refusal("data.split")


def test_split_keeps_rows_in_place_when_rows_are_added(work: Project) -> None:
    """Metrics are comparable only on the same rows."""
    query = "SELECT list(customer_id ORDER BY customer_id) AS keys FROM 'data/splits/test.parquet'"
    (before,) = work.rows(query)
    work.edit(
        "FROM (FROM raw UNION ALL SELECT * REPLACE ('new ' || customer_id AS customer_id, "
        "tenure + 1 AS tenure) FROM raw WHERE tenure % 7 = 0) ORDER BY hash(customer_id)",
        "data/clean.parquet",
    )
    work.stages("data.split")
    (after,) = work.rows(query)
    assert [key for key in after["keys"] if not key.startswith("new ")] == before["keys"]
    assert len(after["keys"]) > len(before["keys"])


def test_split_by_time_puts_the_newest_rows_into_test(demand_project: Project) -> None:
    """The newest fifth is the test: to forecast the past would be easy."""
    (counts,) = demand_project.rows("""
        SELECT (SELECT max(time) FROM 'data/splits/train.parquet')
             < (SELECT min(time) FROM 'data/splits/test.parquet') AS apart,
               (SELECT count(*) FROM 'data/splits/test.parquet')
             / (SELECT count(*) FROM 'data/clean.parquet') AS share
    """)
    assert counts["apart"]
    assert counts["share"] == pytest.approx(0.2, abs=0.001)


def test_validate_rejects_invalid_time_before_lag_lookup(demand_work: Project) -> None:
    """What PREPARE computes from a row must neither fail on a bad one nor lose it in silence."""
    demand_work.edit("SELECT * REPLACE (if(time = '2014-03-01', 'sometime', time::VARCHAR) AS time) FROM raw")
    demand_work.stages("data.validate")
    assert any("sometime" in reason for reason in reasons(demand_work))


def test_validate_accepts_gaps_in_time(demand_work: Project) -> None:
    """A gap takes away the rows that look back at it, and nothing else."""
    demand_work.edit("FROM raw WHERE time <> '2014-06-18 12:00:00'")
    demand_work.stages("data.validate")
    report = demand_work.json("reports/data/data.json")
    assert report["rows"] - report["rejected"] == 17520 - 7 * 48 - 3


def test_pipeline_accepts_any_column_name(work: Project) -> None:
    """Names come from sources: quotes, spaces, other alphabets, and the words the stages use."""
    names = ['say "hi"', "l'été", "客户", "reasons", "features", "select", "a.b", "x = 1 -- y", "100%"]
    work.declare(*(f"Column({name!r}, 'number')" for name in names))
    quoted = [name.replace('"', '""') for name in names]
    added = [f'customer_id % {at + 2} AS "{name}"' for at, name in enumerate(quoted)]
    work.bring(f"SELECT *, {', '.join(added)} FROM raw")  # noqa: S608
    assert "evaluate" in work.make("pipeline")
