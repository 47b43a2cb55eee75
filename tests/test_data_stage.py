"""Data stages on the starters' own rows: good data passes, unfit data stops as a command should.

Each rule and check is broken in the project's own tests: test_validate.py, test_quality.py, test_split.py.
"""

from project import Project


def reasons(project: Project, where: str = "true") -> list[str]:
    """Read why rows were rejected."""
    query = f"SELECT reasons FROM 'data/rejected.parquet' WHERE {where}"  # noqa: S608
    return [row["reasons"] for row in project.rows(query)]


def test_validate_passes_untouched_data(either: Project) -> None:
    """No check stops the data of a starter."""
    report = either.json("reports/data/data.json")
    assert {check["status"] for check in report["checks"]} == {"pass"}
    assert report["rejected"] == 0
    assert report["rows"] > 7000


def test_validate_fails_above_max_rejected_share(work: Project) -> None:
    """The stage exits with a message, after it has written the rejected rows and the report."""
    work.edit("SELECT * REPLACE (if(customer_id <= 50, 999, tenure) AS tenure) FROM raw")
    work.params("validate: {max_rejected_share: 0.005}")
    error = work.refusal("data.validate")
    assert "rejected rows: table: 50 of 7,043 rows break the contract" in error
    assert "must be ≤ 0.005: validate.max_rejected_share" in error
    assert "data/rejected.parquet" in error
    assert reasons(work) == ["tenure: must be an integer from 0 to 600, got 999"] * 50
    assert "Not fit for training" in (work.folder / "reports/data/data.md").read_text()


def rekey(project: Project, which: str) -> None:
    """Add copies of clean rows under keys of their own."""
    copies = f"SELECT * REPLACE ('copy of ' || customer_id AS customer_id) FROM raw WHERE {which}"  # noqa: S608
    project.edit(f"FROM raw UNION ALL {copies}", "data/clean.parquet")


def test_split_fails_when_test_rows_are_in_training(work: Project) -> None:
    """Copies of test rows under other keys would make the metrics too good."""
    rekey(work, "customer_id IN (SELECT customer_id FROM 'data/splits/test.parquet')")
    error = work.refusal("data.split")
    assert "training and test split overlap or are empty" in error
    assert "of the test rows equal a training row" in error


def test_validate_rejects_invalid_time_before_lag_lookup(demand_work: Project) -> None:
    """PREPARE of the demand starter neither fails on a bad row nor drops it."""
    demand_work.edit("SELECT * REPLACE (if(time = '2014-03-01', 'sometime', time::VARCHAR) AS time) FROM raw")
    demand_work.stages("data.validate")
    assert any("sometime" in reason for reason in reasons(demand_work))


def test_validate_accepts_gaps_in_time(demand_work: Project) -> None:
    """A gap rejects only the rows whose lag columns need it."""
    demand_work.edit("FROM raw WHERE time <> '2014-06-18 12:00:00'")
    demand_work.stages("data.validate")
    report = demand_work.json("reports/data/data.json")
    assert report["rows"] - report["rejected"] == 17520 - 7 * 48 - 3
