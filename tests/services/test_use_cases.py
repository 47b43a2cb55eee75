"""Each use case of copier.yml, from a copy to an alert, and what must not pass its gate.

All but imaging run in the environment of the default project, which has their libraries. Imaging brings
PyTorch (5 GB): its proof is repeated when a file that it covers changes.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import Renderer, choices, commit, git, questions, until
from images import MOST_BYTES, buildah
from project import Json, Project, copied, rendered
from serving import Server, serving
from test_events import written
from test_gate import TAG, TRAIN, Mutation

from benchmarks.use_cases import SCORES

HEAVY = {"imaging"}
LIGHT = [use_case for use_case in choices(questions()["use_case"]) if use_case not in HEAVY]
COVERED = ("copier.yml", "template", "tests/services/test_use_cases.py")

# What raises an alert: an expression instead of a column of the rows.
SHIFTS = {
    "churn": "least(100 * monthly_charges, 1000) AS monthly_charges",
    "demand": "40::DOUBLE AS temperature",
    "fraud": "'online' AS channel",
    "maintenance": "list_transform(vibration, lambda x: least(2 * x, 100)) AS vibration",
    "recommendation": "[] AS liked, [] AS watched, [] AS recent",
    "imaging": "list_transform(image, lambda x: least(x + 0.3, 1)) AS image",
}
MIX = """
import duckdb, sys

order, *paths = sys.argv[1:]
((size,),) = duckdb.sql(f"SELECT count(*) FROM '{paths[0]}'").fetchall()
dealt = "row_number() OVER (ORDER BY hash(rows)) AS dealt"
duckdb.sql(f"CREATE TABLE rows AS SELECT *, {dealt} FROM read_parquet({paths}) AS rows")
for path, condition in zip(paths, (f"dealt <= {size}", f"dealt > {size}")):
    rows = f"SELECT * EXCLUDE (dealt) FROM rows WHERE {condition} ORDER BY {order}, dealt"
    duckdb.sql(rows).write_parquet(path)
"""
N_ROWS, A_REQUEST = 2_000, 250
ENOUGH = 0.5
"""Share of the way from the baseline to the best possible score that the model has proven to go."""


# ── Mutations, for any contract ──────────────────────────────────────────────────────────────────


def contract(work: Project) -> Json:
    """Read the contract of a project's bundle."""
    return work.json("models/bundle/contract.json")


def column(work: Project, name: str) -> Json:
    """Return a column of the contract."""
    return next(column for column in contract(work)["columns"] if column["name"] == name)


def segment(work: Project) -> str:
    """Return a condition for the largest segment: of a column that the model sees, if there is one."""
    columns = [column for column in contract(work)["columns"] if column.get("segment")]
    columns = [column for column in columns if column.get("known_at_prediction", True)] or columns
    name = max(columns, key=lambda column: column.get("feature", True))["name"]
    groups = f"SELECT \"{name}\"::VARCHAR AS value FROM '{TRAIN}' GROUP BY ALL"  # noqa: S608
    row = work.rows(f"{groups} ORDER BY count(*) DESC")[0]
    return f"coalesce(\"{name}\"::VARCHAR = '{row['value']}', false)"


def deal(work: Project, where: str = "true") -> str:
    """SQL for the training rows, with the targets dealt anew among some of them."""
    keys = contract(work)["key"]
    key = (
        f"concat_ws(',', {', '.join(f'raw.{name}' for name in ([keys] if isinstance(keys, str) else keys))})"
    )
    target = contract(work)["target"]
    return f"""
        WITH dealt AS (
            SELECT *, {where} AS is_dealt, row_number() OVER () AS place,
                row_number() OVER (PARTITION BY {where} ORDER BY md5({key})) AS taken,
                row_number() OVER (PARTITION BY {where} ORDER BY md5({key} || 'again')) AS given
            FROM raw
        )
        SELECT a.* EXCLUDE (is_dealt, place, taken, given)
            REPLACE (CASE WHEN a.is_dealt THEN b.{target} ELSE a.{target} END AS {target})
        FROM dealt AS a JOIN dealt AS b ON a.is_dealt = b.is_dealt AND a.taken = b.given ORDER BY a.place
    """  # noqa: S608


def shuffle_labels(work: Project) -> None:
    """Deal the targets of the training rows anew."""
    work.edit(deal(work), TRAIN)


def swap_segment(work: Project) -> None:
    """Train one segment to predict the other label, the mirrored value, or the item of another row."""
    target, where = column(work, contract(work)["target"]), segment(work)
    name, labels = target["name"], target.get("categories", ())
    other = {
        "boolean": f"NOT {name}",
        "number": f"2 * avg({name}) OVER () - {name}",
        "integer": f"2 * (avg({name}) OVER ())::BIGINT - {name}",
        "category": f"CASE {name} WHEN '{labels[0]}' THEN '{labels[-1]}' ELSE '{labels[0]}' END"
        if labels
        else "",
    }[target["kind"]]
    swapped = f"SELECT * REPLACE (CASE WHEN {where} THEN {other} ELSE {name} END AS {name}) FROM raw"  # noqa: S608
    work.edit(deal(work, where) if len(labels) > 2 else swapped, TRAIN)


def leak_target(work: Project) -> None:
    """Add a column that is known with the target only, and equals it."""
    added = """

        import msgspec

        LEAK = msgspec.structs.replace(CONTRACT.column(CONTRACT.target), name="leak", segment=False)
        CONTRACT = msgspec.structs.replace(CONTRACT, columns=(*CONTRACT.columns, LEAK))
        PREPARE = f"SELECT *, {CONTRACT.target} AS leak FROM (\\n{PREPARE}\\n)"
    """
    work.problem.write_text(work.problem.read_text() + dedent(added))


def split_groups(work: Project) -> None:
    """Split by the key, although the contract has a group."""
    split = work.folder / "src" / work.package / "data/split.py"
    work.replace("if contract.group else key_text(contract)", "if False else key_text(contract)", split)


FIXED = '''

from sklearn.base import BaseEstimator


class Fixed(BaseEstimator):
    """Predicts the same for every row, or what the baseline's column says."""

    def __init__(self, is_baseline):
        self.is_baseline = is_baseline

    def fit(self, features, target, sample_weight=None):
        import numpy as np

        self.column_ = [*features.columns].index(BASELINE) if self.is_baseline and BASELINE else None
        if CONTRACT.task == "regression":
            value = np.median(target) if self.is_baseline else np.mean(target)
            self.values_ = np.array([value], np.float32)  # as ONNX has it
            return self
        self.classes_ = np.arange(len(CONTRACT.labels))
        shares = np.bincount(target, minlength=len(self.classes_)) / len(target)
        self.values_ = shares if self.is_baseline else np.full(len(shares), 1 / len(shares))
        return self

    def predict_proba(self, features):
        import numpy as np

        return np.tile(self.values_, (len(features), 1))

    def predict(self, features):
        if self.column_ is None:
            return self.predict_proba(features)[:, 0]
        return features.iloc[:, self.column_].to_numpy(float)

    def to_onnx(self, feature_names):
        from onnx import parser

        # As many rows as the input has, also if a feature is missing.
        values = ", ".join(map(str, self.values_))
        same = f"""
            values = Constant <value = float[1, {len(self.values_)}] {{{values}}}> ()
            row = Constant <value = int64[1] {{0}}> ()
            width = Constant <value = int64[1] {{{len(self.values_)}}}> ()
            shape = Shape (features)
            height = Gather <axis = 0> (shape, row)
            size = Concat <axis = 0> (height, width)
            outputs = Expand (values, size)
        """
        column = f"""
            column = Constant <value = int64[1] {{{self.column_}}}> ()
            outputs = Gather <axis = 1> (features, column)
        """
        shapes = f"(float[n, {len(feature_names)}] features) => (float[n, {len(self.values_)}] outputs)"
        body = same if self.column_ is None else column
        return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> fixed {shapes} {{{body}}}')


def estimator(seed, **settings):
    return Fixed(IS_BASELINE)
'''


def predict_fixed(is_baseline: bool) -> Callable[[Project], None]:
    """Predict as the baseline, or the same number for every row and label."""

    def change(work: Project) -> None:
        work.problem.write_text(work.problem.read_text() + FIXED.replace("IS_BASELINE", str(is_baseline)))

    return change


TRAINED = ("training.train", "evaluation.gate", "block")
MUTATIONS = [
    Mutation("labels shuffled", shuffle_labels, *TRAINED, "kpi, "),
    Mutation("the baseline as the model", predict_fixed(is_baseline=True), *TRAINED, "baseline, "),
    Mutation("a constant model", predict_fixed(is_baseline=False), *TRAINED, "baseline, "),
    Mutation("answers for one segment swapped", swap_segment, *TRAINED, "segment, "),
    Mutation(
        "a leaked column", leak_target, "data.validate", "data.validate", "stops", "target leakage: leak"
    ),
    Mutation(
        "groups split apart",
        split_groups,
        "data.split",
        "data.split",
        "stops",
        "groups of the test split have rows",
    ),
]


# ── The whole way ────────────────────────────────────────────────────────────────────────────────


def sample(project: Project, change: str = "") -> list[dict[str, Json]]:
    """Draw rows that the model was trained on, of the features and the target; `change` replaces some."""
    features = project.json("models/bundle/example.json")
    names = ", ".join(f'"{name}"' for name in (*features, contract(project)["target"]))
    replaced = f"* REPLACE ({change})" if change else "*"
    drawn = f"FROM '{TRAIN}' USING SAMPLE reservoir({N_ROWS} ROWS) REPEATABLE (0)"
    return project.rows(f"SELECT {names} FROM (SELECT {replaced} {drawn})")  # noqa: S608


def stop_time(work: Project) -> None:
    """Deal the rows of both splits anew and train again: else what time changes would be a drift."""
    if time := contract(work).get("time"):
        work.script(MIX, time, TRAIN, "data/splits/test.parquet")
        work.stages("training.train", "model.build")


def ask(server: Server, rows: list[dict[str, Json]], target: str) -> list[Json]:
    """Ask for predictions of rows, then tell the server what came true."""
    predictions: list[Json] = []
    for start in range(0, len(rows), A_REQUEST):
        part = rows[start : start + A_REQUEST]
        body = [{name: value for name, value in row.items() if name != target} for row in part]
        answer = server.predict(body)
        assert answer.status == 200, answer.body[:2000]
        predictions += answer.json["predictions"]
        request = answer.headers["x-request-id"]
        labels = [{"id": request, "row": place, target: row[target]} for place, row in enumerate(part)]
        feedback = server.ask("POST", "/feedback", json.dumps(labels))
        assert (feedback.status, feedback.json) == (202, {"rows": len(part)}), feedback.body[:2000]
    until(lambda: written(server))
    return predictions


def check_way(project: Project, slim: Path, folder: Path, use_case: str) -> None:
    """From the verdict to the alert: its own tests and hooks, serve, feed back, score a file, monitor."""
    assert project.json("reports/gate.json")["verdict"] == "promote"
    project.good("pytest", "tests/test_problem.py")
    project.make("check")
    stop_time(project)
    target, version = contract(project)["target"], project.json("models/bundle/metadata.json")["version"]
    rows, shifted = sample(project), sample(project, SHIFTS[use_case])
    for name, asked in (("usual", rows), ("shifted", shifted)):
        (folder / name).mkdir()
        with serving(project, slim, folder / name, EVENTS=str(folder / name / "events")) as server:
            assert server.get("/ready").json["version"] == version
            predictions = ask(server, asked, target)
        if name == "usual":
            check_batch(project, folder, rows, predictions)
    output = project.good("make", "monitor", f"EVENTS={folder}/usual/events")
    report = project.json("reports/monitoring.json")
    assert report["status"] == "ok", output
    assert report["labelled_rows"] == len(rows)
    error = project.refusal("monitoring.monitor", "--since", "1d", "--events", folder / "shifted/events")
    assert "ALERT drift, " in error


def check_batch(project: Project, folder: Path, rows: list[dict[str, Json]], predictions: list[Json]) -> None:
    """A file of the same rows has the same predictions."""
    (folder / "asked.json").write_text(json.dumps(rows))
    write = "import duckdb, sys; duckdb.sql(f\"FROM '{sys.argv[1]}'\").write_parquet(sys.argv[2])"
    project.script(write, folder / "asked.json", folder / "asked.parquet")
    project.batch(folder / "asked.parquet", folder / "answered.parquet")
    answered = project.rows(f"FROM '{folder}/answered.parquet'")
    assert [row["error"] for row in answered] == [None] * len(rows)
    for row, prediction in zip(answered, predictions, strict=True):
        if "items" in prediction:
            assert row["items"] == [item["item"] for item in prediction["items"]]
        elif "label" in prediction:
            assert row["label"] == prediction["label"]
        else:
            assert row["value"] == pytest.approx(prediction["value"])


def check_score(project: Project) -> str:
    """The model has learned at least half of what can be known, or more than the baseline; return figures."""
    scores = json.loads(project.script(SCORES, project.package))
    metric, value, low, high = (scores[name] for name in ("metric", "value", "low", "high"))
    text = f"{metric} {value:.3f} ({low:.3f} to {high:.3f})"
    best, baseline = scores["best"], scores["baseline"] or 0.0
    if best is None:  # the gate knows which side is the better one
        assert not low <= baseline <= high, scores
        return text
    worst = low if best > baseline else high
    assert (worst - baseline) / (best - baseline) >= ENOUGH, scores
    return f"{text}, baseline {baseline:.3f}, best possible {best:.3f}"


def check_image(project: Project, podman: dict[str, str]) -> str:
    """The image builds and is as small as any; return its size."""
    project.good("uv", "lock", "--quiet")  # where the environment is shared, the lock is another project's
    size = buildah(podman, project.package, project)
    assert size <= MOST_BYTES
    return f"image {size / 1e6:.0f} MB"


def mutable(project: Project, folder: Path) -> Project:
    """Copy a project, with its model in production."""
    work = project.copy(folder)
    git("tag", TAG, cwd=work.folder)
    return work


def applies(mutation: Mutation, project: Project) -> bool:
    """Groups can only be split apart where there are groups and no time."""
    has_groups = "group" in contract(project) and "time" not in contract(project)
    return has_groups or mutation.change is not split_groups


# ── Light use cases ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=LIGHT)
def case(
    request: pytest.FixtureRequest,
    render: Renderer,
    project: Project,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """Take each use case from a copy to a verdict."""
    use_case = request.param
    if use_case == "churn":
        return project
    if use_case == "demand":
        return request.getfixturevalue("demand_project")

    def start(folder: Path) -> Project:
        return replace(rendered(render, folder, use_case=use_case), installed=False).using(project)

    return copied(tmp_path_factory, use_case, start)


def test_use_case_goes_the_whole_way(
    case: Project, slim: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is promoted, serves, and is monitored: quiet as long as its rows are those of training."""
    check_way(case.copy(tmp_path / "project"), slim, tmp_path, request.node.callspec.params["case"])


@pytest.mark.proof(
    "The first model of each use case is promoted, and learns at least half of what can be known"
)
def test_use_case_learns_what_can_be_known(
    case: Project, record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> None:
    """Its generator knows the true probability of each row; real data have none."""
    record_property("found", f"{request.node.callspec.params['case']}: {check_score(case)}")


@pytest.mark.proof("The image of each use case builds without a daemon, and is small")
def test_use_case_has_a_small_image(
    case: Project,
    podman: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    """No library of training is in it."""
    record_property(
        "found",
        f"{request.node.callspec.params['case']}: {check_image(case.copy(tmp_path / 'project'), podman)}",
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.description)
def test_mutation_of_a_use_case_is_stopped(case: Project, mutation: Mutation, tmp_path: Path) -> None:
    """Whatever the contract is."""
    if not applies(mutation, case):
        pytest.skip("the contract has no group, or a time, by which it splits")
    mutation.check(mutable(case, tmp_path / "project"))


# ── Imaging ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.proof(
    "Imaging goes the whole way with PyTorch, and its gate stops each mutation", covers=COVERED
)
def test_imaging_goes_the_whole_way(
    render: Renderer,
    slim: Path,
    podman: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The same as for the others, in an environment of its own."""
    fresh = rendered(render, tmp_path / "fresh", use_case="imaging")
    fresh.make("setup", "pipeline")
    commit(fresh.folder, "first model")
    check_way(fresh.copy(tmp_path / "project"), slim, tmp_path, "imaging")
    record_property("found", f"{check_score(fresh)}, {check_image(fresh, podman)}")
    for index, mutation in enumerate(MUTATIONS):
        if applies(mutation, fresh):
            mutation.check(mutable(fresh, tmp_path / f"mutation-{index}"))
