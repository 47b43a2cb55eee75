"""The contract is general: other kinds of problem run through the same stages by two files."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree
from textwrap import dedent

import pytest
from project import Json, Project
from serving import Server, free_port, started

# With twenty books, many baskets are equal by chance.
MANY_DUPLICATES = "split: {max_overlap_share: 1}"

KINDS = {path.stem: path.read_text() for path in sorted(Path(__file__).with_name("problems").glob("*.py"))}

ROWS = {
    "images": {"pixels": [0, 5.5, 16, *[8] * 61]},
    "ranking": {"basket": ["book 3", "book 4"], "age": None},
    "fraud": {"at": "2026-02-01T12:00:00", "amount": 9, "attempts": 1, "country": "FR"},
}

WRONG = [
    ("images", "pixels", [1] * 63, "a list of 64 numbers"),
    ("images", "pixels", [1] * 65, "a list of 64 numbers"),
    ("images", "pixels", [17] * 64, "a list of 64 numbers"),
    ("images", "pixels", [None] * 64, "a list of 64 numbers"),
    ("images", "pixels", [[1] * 8] * 8, "a list of 64 numbers"),
    ("images", "pixels", 1, "a list of 64 numbers"),
    ("ranking", "basket", ["book 99"], "a list of up to 5 of 'book 0'"),
    ("ranking", "basket", [f"book {at}" for at in range(6)], "a list of up to 5 of"),
    ("ranking", "basket", [None], "a list of up to 5 of"),
    ("ranking", "basket", "book 3", "a list of up to 5 of"),
    ("fraud", "at", "yesterday", "a time such as 2026-01-31T14:30:00, in UTC or with an offset"),
    ("fraud", "at", "2026-02-30T12:00:00Z", "a time such as"),
    ("fraud", "at", 1769000000, "a time such as"),
    ("fraud", "amount", 1.5, "an integer from 0 to 1000000"),
    ("fraud", "foreign", 2, "an integer from 0 to 1"),
]


def pose(project: Project, problem: str) -> Project:
    """Give a project another problem as its user does: two files, and without the former rows."""
    project.problem.write_text(problem)
    project.params(MANY_DUPLICATES if 'task="ranking"' in problem else "")
    rmtree(project.folder / "data/raw", ignore_errors=True)
    return project


@contextmanager
def served(project: Project) -> Generator[Server]:
    """Serve a project's bundle."""
    port = free_port()
    app = f"{project.package}.serving.app:create_app"
    command = [project.python, "-m", "uvicorn", "--factory", app, "--port", str(port)]
    with started(command, project.folder, project.environment(), port) as server:
        yield server


STAGES = (
    "data.ingest",
    "data.validate",
    "data.split",
    "training.train",
    "model.build",
    "evaluation.evaluate",
)


class Made:
    """Projects of other kinds and their servers, each made when it is first asked for."""

    def __init__(self, project: Project, folder: Path, open_ones: ExitStack) -> None:
        """Make projects below a folder; servers run until the stack is closed."""
        self.project, self.folder, self.open_ones = project, folder, open_ones
        self.done: dict[str, Project] = {}
        self.servers: dict[str, Server] = {}

    def __call__(self, kind: str) -> Project:
        """Run one kind of problem through all stages."""
        if kind not in self.done:
            posed = pose(self.project.copy(self.folder / kind), KINDS[kind])
            self.done[kind] = posed
            posed.stages(*STAGES)
        return self.done[kind]

    def server(self, kind: str) -> Server:
        """Serve one kind of problem."""
        if kind not in self.servers:
            self.servers[kind] = self.open_ones.enter_context(served(self(kind)))
        return self.servers[kind]


@pytest.fixture(scope="module")
def kinds(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Make projects of other kinds."""
    with ExitStack() as open_ones:
        yield Made(project, tmp_path_factory.mktemp("kinds"), open_ones)


@pytest.mark.parametrize("kind", KINDS)
def test_another_problem_needs_two_files(kinds: Made, kind: str) -> None:
    """No standard file depends on the problem; the model is much better than the baseline."""
    project = kinds(kind)
    report = project.json("reports/evaluation.json")
    better = {"images": ("accuracy", 0.9), "ranking": ("mrr", 0.8), "fraud": ("roc_auc", 0.7)}
    name, least = better[kind]
    assert report["metrics"][name] > least > report["baseline"][name]
    changed = project.good("git", "status", "--porcelain", "src", "dvc.yaml", "tests").split()
    assert changed == ["M", f"src/{project.package}/problem.py"]


@pytest.mark.parametrize("kind", KINDS)
def test_api_and_batch_serve_other_problems_alike(kinds: Made, kind: str) -> None:
    """The predictions of the API and of batch scoring are equal."""
    project, server = kinds(kind), kinds.server(kind)
    (answer,) = server.predictions(ROWS[kind])
    expected = {"images": {"label", "probabilities"}, "ranking": {"items"}}
    assert answer.keys() == expected.get(kind, expected["images"])
    names = [*ROWS[kind], *(["foreign"] if kind == "fraud" else [])]
    quoted = ", ".join(f'"{name}"' for name in names)
    rows = project.rows(f"SELECT {quoted} FROM 'data/splits/test.parquet'")  # noqa: S608
    by_api = server.predictions(rows)
    project.batch("data/splits/test.parquet", "out.parquet")
    by_file = project.rows("FROM 'out.parquet'")
    assert len(by_api) == len(by_file) > 100
    for row, prediction in zip(by_file, by_api, strict=True):
        assert row["error"] is None
        if kind == "ranking":
            assert row["items"] == [item["item"] for item in prediction["items"]]
        else:
            assert row["label"] == prediction["label"]


@pytest.mark.parametrize(("kind", "column", "value", "rule"), WRONG, ids=lambda part: repr(part)[:20])
def test_api_enforces_rules_of_list_columns(
    kinds: Made, kind: str, column: str, value: Json, rule: str
) -> None:
    """List columns have a length, and rules for their elements."""
    (error,) = kinds.server(kind).problems({**ROWS[kind], column: value})
    assert error["column"] == column
    assert rule in error["rule"]


def test_validate_rejects_invalid_lists(kinds: Made, tmp_path: Path) -> None:
    """The rules for rows of a file are those of the API."""
    project = kinds("images").copy(tmp_path / "project")
    project.edit("""
        SELECT * REPLACE (CASE scan WHEN 1 THEN pixels[:63] WHEN 2 THEN list_append(pixels, 1)
            WHEN 3 THEN [17.0] || pixels[2:] WHEN 4 THEN [NULL] || pixels[2:]
            WHEN 5 THEN NULL WHEN 6 THEN [] ELSE pixels END AS pixels) FROM raw
    """)
    project.stages("data.validate")
    rows = project.rows("SELECT scan, reasons FROM 'data/rejected.parquet' ORDER BY scan")
    assert [row["scan"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert all(row["reasons"].startswith("pixels: ") for row in rows)
    assert all(len(row["reasons"]) < 200 for row in rows)


def test_validate_rejects_invalid_baskets(kinds: Made, tmp_path: Path) -> None:
    """Too many items, unknown items and missing baskets are rejected; an empty basket is valid."""
    project = kinds("ranking").copy(tmp_path / "project")
    project.edit("""
        SELECT * REPLACE (CASE "order" WHEN 1 THEN ['book 99'] WHEN 2 THEN ['book 1', NULL]
            WHEN 3 THEN list_transform(range(6), lambda i: 'book ' || i)
            WHEN 4 THEN NULL WHEN 5 THEN [] ELSE basket END AS basket) FROM raw
    """)
    project.stages("data.validate")
    rows = project.rows("SELECT \"order\" AS n FROM 'data/rejected.parquet' ORDER BY n")
    assert [row["n"] for row in rows] == ["1", "2", "3", "4"]


def test_item_without_sales_is_ranked_last_or_rejected(work: Project) -> None:
    """A catalogue has items without a sale: positions must not shift, and no stage may crash."""
    shelf = 'Column("next", "category", categories='
    pose(work, KINDS["ranking"].replace(f"{shelf}SHELF)", f'{shelf}("never sold", *SHELF))'))
    work.stages("data.ingest")
    result = work.stage("data.validate")
    if not result.returncode:
        work.stages("data.split")
        result = work.stage("training.train")
    if result.returncode:
        assert "Traceback" not in result.stderr
        assert "never sold" in result.stderr
    else:
        work.stages("model.build", "evaluation.evaluate")
        work.batch("data/splits/test.parquet", "out.parquet")
        hits = work.rows("SELECT avg((items[1] = next)::INT) AS share FROM 'out.parquet'")
        assert hits[0]["share"] > 0.7


def test_train_accepts_an_item_that_is_in_one_fold_only(work: Project) -> None:
    """An item sold once is in one fold only: the models of the other folds do not know it."""
    once = """
    following = [SHELF[0] if name == "book 7" else name for name in following]
    following[2] = "book 7"
    return"""
    head, ranking = KINDS["ranking"].split("    return", 1)
    rare = head.rstrip() + once + ranking
    pose(work, rare)
    work.stages("data.ingest", "data.validate", "data.split")
    work.edit(
        "FROM raw UNION ALL FROM 'data/splits/test.parquet' WHERE next = 'book 7'",
        "data/splits/train.parquet",
    )
    work.stages("training.train", "model.build", "evaluation.evaluate")
    assert work.json("reports/metrics.json")["mrr"] > 0.7


def test_train_accepts_a_class_that_first_occurs_late(work: Project) -> None:
    """Fraud begins in March: the first fold has no example, so a forest knows only one class."""
    risk = "random.random(size) < risk"
    late = KINDS["fraud"].replace(risk, f"({risk}) & (np.arange(size) > 1500)")
    boosting = "HistGradientBoostingClassifier"
    forest = late.replace(
        f"{boosting}(random_state=seed, early_stopping=False, max_iter=30)", f"{boosting}(20)"
    )
    pose(work, forest.replace(boosting, "RandomForestClassifier"))
    work.stages("data.ingest", "data.validate", "data.split")
    result = work.stage("training.train")
    assert "Traceback" not in result.stderr
    if result.returncode:
        assert "train.n_splits" in result.stderr


# ── Estimators ───────────────────────────────────────────────────────────────────────────────────


def train_and_bundle(project: Project, estimator: str) -> str | None:
    """Put another estimator into the problem; give what the bundle stage refuses it with."""
    text = project.problem.read_text()
    start = text.index("def estimator(")
    body = text[:start] + dedent(estimator).lstrip()
    project.problem.write_text(body)
    project.params("train: {n_splits: 2}")
    project.stages("training.train")
    result = project.stage("model.build")
    return project.refusal("model.build") if result.returncode else None


UNCONVERTIBLE = {
    "odd (FunctionTransformer)": """
        def double(values):
            return values * 2

        def estimator(seed, **settings):
            from sklearn.linear_model import LogisticRegression
            from sklearn.impute import SimpleImputer
            from sklearn.pipeline import Pipeline
            from sklearn.preprocessing import FunctionTransformer

            return Pipeline([("fill", SimpleImputer()), ("odd", FunctionTransformer(double)),
                             ("model", LogisticRegression(max_iter=50))])
    """,
    "mine (Halve)": """
        from sklearn.base import BaseEstimator, TransformerMixin

        class Halve(TransformerMixin, BaseEstimator):
            def fit(self, features, target=None):
                return self

            def transform(self, features):
                return features / 2

        def estimator(seed, **settings):
            from sklearn.ensemble import HistGradientBoostingClassifier
            from sklearn.pipeline import Pipeline

            return Pipeline([("mine", Halve()),
                             ("model", HistGradientBoostingClassifier(max_iter=5))])
    """,
    "estimator (Constant)": """
        import numpy as np
        from sklearn.base import BaseEstimator, ClassifierMixin

        class Constant(ClassifierMixin, BaseEstimator):
            def fit(self, features, target):
                self.classes_ = np.unique(target)
                return self

            def predict_proba(self, features):
                return np.full((len(features), 2), 0.5)

        def estimator(seed, **settings):
            return Constant()
    """,
}


@pytest.mark.parametrize("step", UNCONVERTIBLE)
def test_build_names_a_step_without_onnx_form(work: Project, step: str) -> None:
    """The message names the step by its path and class, and no step that converts."""
    error = train_and_bundle(work, UNCONVERTIBLE[step])
    assert error is not None
    first = error.splitlines()[0]
    assert step in first
    assert "LogisticRegression" not in first
    assert "HistGradientBoosting" not in first
    assert "PREPARE" in error
    assert "register" in error
    assert not (work.folder / "models/bundle/model.onnx").exists()


CONVERTIBLE = {
    "one-hot by names": """
        def estimator(seed, **settings):
            from sklearn.compose import make_column_transformer
            from sklearn.impute import SimpleImputer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import OneHotEncoder, StandardScaler

            numbers = make_pipeline(SimpleImputer(), StandardScaler())
            codes = OneHotEncoder(handle_unknown="ignore")
            columns = make_column_transformer(
                (numbers, ["tenure", "monthly_charges", "total_charges"]),
                (codes, ["contract", "internet_service", "payment_method"]),
            )
            return make_pipeline(columns, LogisticRegression(max_iter=500))
    """,
    "forest": """
        def estimator(seed, **settings):
            from sklearn.ensemble import RandomForestClassifier
            from sklearn.impute import SimpleImputer
            from sklearn.pipeline import make_pipeline

            return make_pipeline(SimpleImputer(), RandomForestClassifier(20, random_state=seed))
    """,
    "search": """
        def estimator(seed, **settings):
            from sklearn.ensemble import HistGradientBoostingClassifier
            from sklearn.model_selection import GridSearchCV

            model = HistGradientBoostingClassifier(max_iter=10, early_stopping=False)
            return GridSearchCV(model, {"max_depth": [2, 3]}, cv=2)
    """,
    "calibrated": """
        def estimator(seed, **settings):
            from sklearn.calibration import CalibratedClassifierCV
            from sklearn.impute import SimpleImputer
            from sklearn.naive_bayes import GaussianNB
            from sklearn.pipeline import make_pipeline

            return make_pipeline(SimpleImputer(), CalibratedClassifierCV(GaussianNB(), cv=2))
    """,
}


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_build_bundles_other_estimators(work: Project, name: str) -> None:
    """The stage proves parity; the API then predicts what the estimator predicts."""
    assert train_and_bundle(work, CONVERTIBLE[name]) is None
    work.stages("evaluation.evaluate")
    assert work.json("reports/metrics.json")["roc_auc"] > 0.75


def test_build_fails_without_parity(work: Project) -> None:
    """One number of the ONNX model is changed: the test split reveals it."""
    work.problem.write_text(
        work.problem.read_text()
        + dedent("""

        from .model import onnx as conversion

        def spoiled(*args, _convert=conversion.convert_sklearn, **settings):
            from onnx import numpy_helper

            model = _convert(*args, **settings)
            for node in model.graph.node:
                for attribute in node.attribute:
                    if attribute.name in ("nodes_values", "nodes_splits"):
                        if attribute.floats:
                            attribute.floats[0] += 5
                        else:
                            values = numpy_helper.to_array(attribute.t).copy()
                            values[0] += 5
                            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
            return model

        conversion.convert_sklearn = spoiled
        """)
    )
    error = work.refusal("model.build")
    assert "bundle.parity_tolerance" in error
    assert not (work.folder / "models/bundle").exists()


def test_bundle_contains_no_pickle(work: Project) -> None:
    """A bundle is three documents and a model; none of them executes code when it is loaded."""
    names = {path.name for path in (work.folder / "models/bundle").iterdir()}
    assert {"model.onnx", "contract.json", "reference.json", "metadata.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".joblib", ".pickle", ".npy"))]
