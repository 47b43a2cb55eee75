"""Is production still what the model was made for? Asked of events that the real server wrote."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import STAND_INS
from project import Json, Project
from test_events import example, recording

A_REQUEST = 100  # rows

USUAL = "FROM 'data/splits/test.parquet'"
SHIFTED = (
    "FROM 'data/splits/*.parquet' WHERE contract = 'Month-to-month' AND internet_service = 'Fiber optic'"
)
CENTS = f"{USUAL} SELECT * REPLACE (least(100 * monthly_charges, 1000) AS monthly_charges)"
LOST = f"{USUAL} SELECT * REPLACE (NULL AS total_charges)"
STUCK = f"FROM ({USUAL} ORDER BY time LIMIT 336) SELECT * REPLACE (40::FLOAT AS temperature)"

# A window of real rows and a reference of others, over and over: equal but for chance.
SIMULATE = """
import duckdb, numpy as np, pandas as pd, scipy.stats
from pathlib import Path
from {package}.contract.tables import connect, read_features
from {package}.stats.distributions import compute_distributions, model_columns
from {package}.monitoring.drift import check_drift, flag_drift
from {package}.params import Monitor
from {package}.model.bundle import Model
from {package}.core.paths import BUNDLE, CLEAN
from {package}.stats.inference import homogeneity_p_value

for bins in (2, 3, 4, 11, 26):
    for least in (30, 90, 2000):
        table = np.random.default_rng(bins).integers(least, 2 * least, (2, bins))
        expected = scipy.stats.chi2_contingency(table, correction=False).pvalue
        assert np.isclose(homogeneity_p_value(table), expected)

model = Model(BUNDLE)
features = read_features(CLEAN, model.contract)
answers = pd.DataFrame(model.run(features.to_numpy()), columns=model.contract.labels)
everything = pd.concat([features.add_prefix("feature:"), answers.add_prefix("output:")], axis=1)
random, wrong, loud = np.random.default_rng(0), 0, 0
for _ in range({times}):
    order = random.permutation(len(everything))
    with connect() as con:
        con.sql("SET threads = 1")
        con.from_df(everything.iloc[order[:5000]]).create("before")
        con.from_df(everything.iloc[order[5000:6500]]).create("now")
        reference = compute_distributions(con, "before", model_columns(model.contract))
        found = check_drift(
            con, "now", reference, model.contract, Monitor(confidence_level=0.95, warn_distance=0)
        )
    wrong += any(drift.status != "ok" for drift in found)
    for it in found:
        it.status = "ok"
    flag_drift([drift for drift in found if drift.is_tested], Monitor())
    loud += any(drift.status != "ok" for drift in found)
print(wrong / {times}, loud / {times})
"""
# The labels of a CSV file as the server writes them, received at an hour.
RECEIVE = """
import duckdb, sys
from pathlib import Path

source, target, column, hour = sys.argv[1:]
Path(target).parent.mkdir(parents=True)
labels = f"SELECT * REPLACE (row::INTEGER AS row), TIMESTAMP '2026-01-01' + to_hours({hour}) AS {column}"
rows = f"{labels} FROM read_csv('{source}', all_varchar=true)"
duckdb.sql(rows).write_parquet(target)
"""


def ask(project: Project, slim: Path, folder: Path, query: str) -> Path:
    """Let a server answer the rows of a query; give the folder of its events."""
    events, names = folder / "events", example(project).keys()
    rows = [{name: row[name] for name in names} for row in project.rows(query)]
    with recording(project, slim, folder, events) as server:
        for place in range(0, len(rows), A_REQUEST):
            body = json.dumps(rows[place : place + A_REQUEST])
            answer = server.ask("POST", "/predict", body, **{"x-request-id": f"r{place // A_REQUEST}"})
            assert answer.status == 200, answer.body
    return events


@pytest.fixture(scope="module")
def usual(project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of the test split: rows that are as in training."""
    return ask(project, slim, tmp_path_factory.mktemp("usual"), USUAL)


@pytest.fixture(scope="module")
def shifted(project: Project, slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of one kind of customer."""
    return ask(project, slim, tmp_path_factory.mktemp("shifted"), SHIFTED)


def monitor(work: Project, events: Path, *args: str | Path) -> Json:
    """Run the monitor, which must be content or warn; give its report."""
    result = work.stage("monitoring.monitor", "--events", events, *args)
    assert result.returncode == 0, result.stderr
    return report(work)


def report(work: Project) -> Json:
    """Read the newest report."""
    return work.json("reports/monitoring.json")


def accused(work: Project, verdict: str = "alert") -> set[str]:
    """Name the columns that the newest report accuses."""
    return {column["name"] for column in report(work)["drift"] if column["status"] == verdict}


def truth(work: Project, path: Path, label: str) -> Path:
    """Write labels of the test split, from a column or an expression, for the requests of `ask`."""
    numbered = f"{USUAL} SELECT *, row_number() OVER () - 1 AS place"
    id_row = f"'r' || place // {A_REQUEST} AS id, place % {A_REQUEST} AS row"
    write = "import duckdb, sys; duckdb.sql(sys.argv[1]).write_csv(sys.argv[2])"
    work.script(write, f"FROM ({numbered}) SELECT {id_row}, {label} AS churn", path)
    return path


def test_monitor_finds_no_drift_in_rows_as_in_training(work: Project, usual: Path) -> None:
    """The verdict, the counts and the reports are written, and `make monitor` prints the same."""
    output = work.make("monitor", f"EVENTS={usual}")
    results = report(work)
    assert results["status"] == "ok", results["reasons"]
    assert f"monitor: ok, {results['rows']:,} rows" in output
    (traffic,) = results["traffic"]
    assert (traffic["rows"], traffic["requests"]) == (results["rows"], -(-results["rows"] // A_REQUEST))
    names = {*example(work), "prediction: No", "prediction: Yes"}
    assert {column["name"] for column in results["drift"]} == names
    page = (work.folder / "reports/monitoring.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert not work.run("git", "status", "--porcelain", "reports").stdout


@pytest.mark.proof("Drift raises an alert that names the drifted columns")
def test_monitor_alerts_on_another_kind_of_customer(work: Project, shifted: Path) -> None:
    """Real rows of one kind only: the columns that distinguish them are listed, the largest drift first."""
    error = work.refusal("monitoring.monitor", "--events", shifted)
    assert {"contract", "internet_service", "monthly_charges", "prediction: Yes"} <= accused(work)
    assert "partner" not in accused(work) | accused(work, "warn")
    assert error.index("drift, internet_service") < error.index("drift, tenure")
    assert "largest change: Month-to-month, 54.7% in the reference, 100.0% now" in error
    assert "make ingest pipeline" in error
    assert "# Monitoring of customer_churn: alert" in (work.folder / "reports/monitoring.md").read_text()


@pytest.mark.parametrize(
    ("query", "column", "most"),
    [
        (CENTS, "monthly_charges", "above 118.75, 0.0% in the reference"),
        (LOST, "total_charges", "missing, 0.1% in the reference"),
    ],
    ids=["another unit", "nothing there"],
)
def test_monitor_alerts_on_a_bug_upstream(
    work: Project, slim: Path, tmp_path: Path, query: str, column: str, most: str
) -> None:
    """The broken column is listed, and no other input."""
    error = work.refusal("monitoring.monitor", "--events", ask(work, slim, tmp_path, query))
    assert accused(work) - {"prediction: Yes"} == {column}
    assert f"ALERT drift, {column}: distance 100%; limit 20% (monitor.max_distance); " in error
    assert f"largest change: {most}, 100.0% now" in error


def test_monitor_alerts_on_a_sensor_stuck_for_a_week(
    demand_work: Project, slim: Path, tmp_path: Path
) -> None:
    """Half-hours of a day are correlated: seven days count as seven rows, which is enough here."""
    error = demand_work.refusal("monitoring.monitor", "--events", ask(demand_work, slim, tmp_path, STUCK))
    assert {"temperature"} <= accused(demand_work) <= {"temperature", "prediction: demand"}
    assert "ALERT drift, temperature: distance 90%;" in error


def test_monitor_defers_too_few_rows(work: Project, slim: Path, usual: Path, tmp_path: Path) -> None:
    """They raise no alert; the next run checks them with the later rows, and no row twice."""
    events = ask(work, slim, tmp_path, f"{SHIFTED} LIMIT 40")
    results = monitor(work, events)
    assert (results["status"], results["drift"]) == ("warn", [])
    (reason,) = results["reasons"]
    assert (reason["check"], reason["value"], reason["limit"]) == ("traffic", "40", "500 (monitor.min_rows)")
    shutil.copytree(usual, events, dirs_exist_ok=True)
    results = monitor(work, events)
    assert results["status"] == "ok"
    assert results["rows"] == 40 + work.json("reports/evaluation.json")["rows"]
    assert "since" in work.refusal("monitoring.monitor", "--events", events)
    assert monitor(work, events, "--since", "1d")["rows"] == results["rows"]


def test_monitor_computes_kpis_from_labels(work: Project, usual: Path, tmp_path: Path) -> None:
    """KPIs are reported, also by segment; inverted labels raise an alert."""
    labels = truth(work, tmp_path / "truth.csv", "churn")
    results = monitor(work, usual, "--truth", labels)
    whole = {kpi["metric"]: kpi for kpi in results["performance"] if not kpi["segment"]}
    evaluation = work.json("reports/evaluation.json")
    assert results["labelled_rows"] == evaluation["rows"]
    assert whole["roc_auc"]["estimate"]["value"] == pytest.approx(evaluation["metrics"]["roc_auc"])
    by_segment = {
        kpi["segment"]: kpi["estimate"]["value"]
        for kpi in results["performance"]
        if kpi["metric"] == "roc_auc"
    }
    for column, values in evaluation["segments"].items():
        for value, metrics in values.items():
            assert by_segment[f"{column} = {value}"] == pytest.approx(metrics["roc_auc"])
    turned = truth(work, tmp_path / "turned.csv", "CASE churn WHEN 'No' THEN 'Yes' ELSE 'No' END")
    message = work.refusal("monitoring.monitor", "--events", usual, "--since", "1d", "--truth", turned)
    assert "kpi, roc_auc: 0.1" in message
    assert "limit at least 0.8" in message
    strange = truth(work, tmp_path / "strange.csv", "'Perhaps'")
    results = monitor(work, usual, "--since", "1d", "--truth", strange)
    message = "1,407 labels violate the contract and are left out"
    assert results["reasons"] == [
        {"status": "warn", "check": "labels", "subject": "invalid", "message": message}
    ]
    assert (results["labelled_rows"], results["performance"]) == (0, [])


@pytest.mark.proof("Conflicting later labels do not change a KPI, and are reported")
def test_monitor_uses_the_first_of_two_labels(work: Project, usual: Path, tmp_path: Path) -> None:
    """Correct labels from a server of 0.2, then inverted ones: the first count, conflicts are reported."""
    events = shutil.copytree(usual, tmp_path / "events")
    inverted = "CASE churn WHEN 'No' THEN 'Yes' ELSE 'No' END"
    versions = [("churn", "truth/2026-01-02", "told_at"), (inverted, "labels/2026-01-01", "received_at")]
    for hour, (label, folder, column) in enumerate(versions):
        path = truth(work, tmp_path / "labels.csv", label)
        work.script(RECEIVE, path, events / folder / "0.parquet", column, str(hour))
    results = monitor(work, events)
    message = f"{results['rows']:,} rows have a later label that differs: the first counts"
    assert results["reasons"] == [
        {"status": "warn", "check": "labels", "subject": "conflicts", "message": message}
    ]
    assert (results["status"], results["labelled_rows"]) == ("warn", results["rows"])
    assert results["performance"][0]["estimate"]["value"] > 0.8


@pytest.mark.parametrize(("status", "name"), [(422, "rejected"), (500, "errors")])
def test_monitor_alerts_on_too_many_errors(
    work: Project, usual: Path, tmp_path: Path, status: int, name: str
) -> None:
    """Their share must be above the limit significantly; their rows, which have no features, are left out."""
    events = shutil.copytree(usual, tmp_path / "events")
    (file,) = events.glob("*/*.parquet")
    spoil = f"SELECT * REPLACE ('x' || id AS id, {status}::SMALLINT AS status) FROM raw WHERE row = 0"  # noqa: S608
    for number in range(4):
        copy = str(shutil.copy(file, file.with_name(f"{number}.parquet")))
        work.edit(spoil if number else f"{spoil} LIMIT 1", copy)
        if number == 0:
            assert monitor(work, events, "--since", "1d")["traffic"][0][name] == 1
    error = work.refusal("monitoring.monitor", "--events", events, "--since", "1d")
    assert f"{name}, requests: 75.4%; limit " in error
    assert "46 of 61 requests" in error
    assert len(report(work)["reasons"]) == 1


def test_monitor_explains_what_it_cannot_check(work: Project, usual: Path, tmp_path: Path) -> None:
    """No events; events of another model only; events of two models."""
    message = work.refusal("monitoring.monitor", "--events", tmp_path / "none")
    assert "no events in" in message
    assert "EVENTS" in message
    mixed = tmp_path / "mixed"
    (file,) = usual.glob("*/*.parquet")
    (mixed / file.parent.name).mkdir(parents=True)
    foreign = shutil.copy(file, mixed / file.parent.name / "foreign.parquet")
    work.edit("SELECT * REPLACE ('0123456789ab' AS model_version) FROM raw", str(foreign))
    message = work.refusal("monitoring.monitor", "--events", mixed)
    assert "the events are of model 0123456789ab, the bundle here is" in message
    shutil.copy(file, mixed / file.parent.name)
    results = monitor(work, mixed)
    assert results["status"] == "ok"
    assert [model["rows"] for model in results["traffic"]] == [results["rows"]] * 2
    message = (work.folder / "reports/monitoring.md").read_text()
    assert f"{results['rows']:,} rows of other models are counted below, but not checked." in message


@pytest.mark.proof("A monitor run that is killed and repeated gives the same result")
def test_killed_monitor_can_be_run_again(work: Project, usual: Path, tmp_path: Path) -> None:
    """Killed in the middle, it leaves no partial file; the next run reports the same result."""
    command = (work.python, "-m", f"{work.package}.monitoring.monitor", "--events", usual)
    (tmp_path / "scratch").mkdir()
    environment = work.environment() | {"TMPDIR": str(tmp_path / "scratch")}
    process = subprocess.Popen(command, cwd=work.folder, env=environment)
    while not any((tmp_path / "scratch").glob("*/monitor.duckdb")):
        assert process.poll() is None, "the monitor ended before it was killed"
    process.kill()  # at once: the file is there for some tenths of a second only
    assert process.wait() == -signal.SIGKILL
    assert not [*(work.folder / "reports").glob("monitoring.*")]
    results = monitor(work, usual)
    assert (results["status"], results["since"]) == ("ok", None)
    assert results["rows"] == work.json("reports/evaluation.json")["rows"]


def test_monitor_warns_about_old_events(work: Project, usual: Path, tmp_path: Path) -> None:
    """Rows as in training, but the newest is two days old."""
    (file,) = usual.glob("*/*.parquet")
    (tmp_path / "events" / file.parent.name).mkdir(parents=True)
    old = str(shutil.copy(file, tmp_path / "events" / file.parent.name))
    work.edit("SELECT * REPLACE (time - INTERVAL 2 DAY AS time) FROM raw", old)
    results = monitor(work, tmp_path / "events")
    assert results["status"] == "warn"
    (reason,) = results["reasons"]
    assert (reason["subject"], reason["value"]) == ("events", "48 hours")
    assert reason["limit"] == "24 hours (monitor.max_age_hours)"


@pytest.fixture
def gh_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder where the stand-in for GitHub keeps what it is told."""
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_STAND_IN", str(tmp_path))
    return tmp_path


def test_alert_opens_updates_and_closes_one_issue(
    work: Project, usual: Path, shifted: Path, gh_calls: Path
) -> None:
    """Training is triggered unless a model is waiting to be merged."""
    assert "reports/monitoring.json is missing; run make monitor first" in work.refusal("automation.alert")
    owners = work.folder / ".github/CODEOWNERS"
    work.replace("/src/*/data/ @your-org/ml-team", "/src/*/data/ @acme/data @acme/lake", owners)
    work.refusal("monitoring.monitor", "--events", shifted)
    output = work.make("alert")
    assert "alert: train is started: drift, internet_service; drift, " in output
    issue, event = (gh_calls / "issue").read_text(), (gh_calls / "dispatch").read_text()
    assert issue.startswith("create\n--label\nmonitoring\n--title\n")
    assert "@acme/data @acme/lake for drift: please look. Reported by a run by hand." in issue
    assert re.search(r"^\| ALERT +\| drift +\| internet_service ", issue, re.M)
    assert "\nevent_type=train\n--raw-field\nclient_payload[reason]=drift, internet_service; " in event
    (gh_calls / "dispatch").unlink()
    (gh_calls / "open").write_text("https://github.com/acme/churn/pull/1\n")
    assert "is waiting for review: https://github.com/acme/churn/pull/1" in work.stages("automation.alert")
    assert (gh_calls / "issue").read_text().startswith("edit\n7\n")
    assert not (gh_calls / "dispatch").exists()
    monitor(work, usual, "--since", "1d")
    assert "alert: issue 7 is closed" in work.stages("automation.alert")
    assert (gh_calls / "issue").read_text().startswith("close\n7\n--comment\nProduction is ok: 1,4")
    assert "alert: none, production is ok" in work.stages("automation.alert")


def test_alert_that_training_cannot_fix_triggers_no_training(
    work: Project, shifted: Path, gh_calls: Path
) -> None:
    """Its owner is notified; a warning leaves the issue as it is."""
    owners, path = work.folder / ".github/CODEOWNERS", work.folder / "reports/monitoring.json"
    work.replace("/deploy/ @your-org/ml-team", "/deploy/ @acme/platform", owners)
    work.refusal("monitoring.monitor", "--events", shifted)
    path.write_text(path.read_text().replace('"check": "drift"', '"check": "errors"'))
    work.stages("automation.alert")
    assert "@acme/platform for errors: please look." in (gh_calls / "issue").read_text()
    assert not (gh_calls / "dispatch").exists()
    path.write_text(path.read_text().replace('"alert"', '"warn"'))
    assert "alert: none, production is warn" in work.stages("automation.alert")
    assert (gh_calls / "open-issue").exists()


@pytest.mark.proof("Without drift, the false alarm rate is at most the stated one")
def test_monitor_false_alert_rate_is_at_most_the_stated_one(
    project: Project, record_property: Callable[[str, object], None]
) -> None:
    """Windows that are equal to their reference but for chance are accused at most at the stated rate.

    200 windows of 1,500 real rows against 5,000 others, 20 columns. By the test alone, whatever the size, at
    confidence level 0.95: stated rate 0.05, allowed 0.096 (three standard errors of 200 draws above it).
    With the default limits: none. The test is that of SciPy.
    """
    output = project.script(SIMULATE.format(package=project.package, times=200))
    by_doubt, by_default = map(float, output.split())
    record_property("found", f"{by_doubt:.3f} of 200 windows, 0.05 stated; {by_default:g} by default")
    assert by_doubt <= 0.096
    assert by_default == 0
