"""The gate says no to what it should: each mutation of data, model or production, and what it meets."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import ROOT, git
from project import Project

STAGES = ("data.validate", "data.split", "training.train", "model.build", "evaluation.gate")
TAG = "production/2026-01-31-1"
TRAIN = "data/splits/train.parquet"
DOC = ROOT / "docs" / "gate.md"


@dataclass(frozen=True)
class Mutation:
    """A change to a project whose first model is in production, and what must follow from it."""

    description: str
    change: Callable[[Project], None]
    start: str  # the first stage that is run after the change
    stage: str  # the stage that answers
    verdict: str  # of the gate; "stops" for a stage before it
    reason: str

    def row(self) -> str:
        """One line of the table in docs/."""
        return f"| {self.description} | `{self.stage}` | {self.verdict} | {self.reason} |"

    def check(self, work: Project) -> None:
        """Stages before the one that answers pass; it gives the verdict, for the reason."""
        self.change(work)
        first, last = STAGES.index(self.start), STAGES.index(self.stage)
        work.stages(*STAGES[first:last])
        if self.verdict in ("stops", "block"):
            assert self.reason in work.refusal(self.stage)
        else:
            work.stages(self.stage)
        if self.verdict != "stops":
            report = work.json("reports/gate.json")
            assert report["verdict"] == self.verdict, report["reasons"]
            assert self.reason in "\n".join(report["reasons"])


def estimator(code: str) -> Callable[[Project], None]:
    """Return another estimator from problem.py."""

    def change(work: Project) -> None:
        text = work.problem.read_text()
        work.problem.write_text(text[: text.index("def estimator(")] + code)

    return change


def boosted(settings: str) -> Callable[[Project], None]:
    """Train the starter's estimator with other settings."""
    return estimator(f"""
def estimator(seed: int, **settings: float) -> BaseEstimator:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, {settings})
""")


def training(query: str) -> Callable[[Project], None]:
    """Train on other rows."""
    return lambda work: work.edit(query, TRAIN)


def raw(query: str) -> Callable[[Project], None]:
    """Bring other rows."""
    return lambda work: work.edit(query)


def parameters(text: str) -> Callable[[Project], None]:
    """Set parameters."""
    return lambda work: work.params(text)


def shuffled(column: str, where: str = "true") -> str:
    """SQL for the training rows with a column's values dealt anew among some of them."""
    return f"""
        WITH dealt AS (
            SELECT customer_id, {column} AS value, row_number() OVER (ORDER BY md5(customer_id)) AS place
            FROM raw WHERE {where}
        ), places AS (
            SELECT customer_id, row_number() OVER (ORDER BY md5(customer_id || 'again')) AS place
            FROM raw WHERE {where}
        )
        SELECT raw.* REPLACE (coalesce(value, {column}) AS {column})
        FROM raw LEFT JOIN places USING (customer_id) LEFT JOIN dealt USING (place)
    """  # noqa: S608


def in_production_was(settings: str) -> Callable[[Project], None]:
    """Put a model with other settings into production, then go back to the starter's own."""

    def change(work: Project) -> None:
        problem = work.problem.read_text()
        boosted(settings)(work)
        work.good("dvc", "repro", "--quiet")
        git("add", "--all", cwd=work.folder)
        git("commit", "--quiet", "--no-verify", "--message", "another", cwd=work.folder)
        git("tag", "--force", TAG, cwd=work.folder)
        work.problem.write_text(problem)

    return change


def wrong_conversion(work: Project) -> None:
    """Register an ONNX form of a step that does not do what the step does."""
    estimator("""
from skl2onnx import update_registered_converter
from skl2onnx.algebra.onnx_ops import OnnxIdentity
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import Normalizer

def shape(operator):
    operator.outputs[0].type = operator.inputs[0].type.__class__([None, operator.inputs[0].type.shape[1]])

def convert(scope, operator, container):
    one = OnnxIdentity(operator.inputs[0], op_version=18, output_names=operator.outputs[:1])
    one.add_to(scope, container)

update_registered_converter(Normalizer, "WrongNormalizer", shape, convert)

def estimator(seed: int, **settings: float) -> BaseEstimator:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    boosting = HistGradientBoostingClassifier(random_state=seed, max_iter=20)
    return make_pipeline(SimpleImputer(), Normalizer(), boosting)
""")(work)


def rename_a_column(work: Project) -> None:
    """Give a column that the model in production needs another name."""
    work.replace('Column("partner", "integer", 0, 1)', 'Column("has_partner", "integer", 0, 1)')
    work.replace('BehaviouralTest("partner"', 'BehaviouralTest("has_partner"')
    work.replace(
        'PREPARE = "SELECT * FROM raw"', 'PREPARE = "SELECT * RENAME (partner AS has_partner) FROM raw"'
    )


def lose_production(work: Project) -> None:
    """Lose the bundle of the model in production: nothing in the cache, and nothing pushed."""
    shutil.rmtree(work.folder / ".dvc/cache")


def break_production(work: Project) -> None:
    """Change a part of the production bundle after it was fetched."""
    work.stage("evaluation.gate")
    (contract,) = work.folder.glob(".production/*/contract.json")
    contract.write_text(contract.read_text().replace("600", "601"))


def forget_the_verdict(work: Project) -> None:
    """Lose the report from before the model was in production, which would stay as it is."""
    (work.folder / "reports/gate.json").unlink()


MUTATIONS = [
    Mutation(
        "labels shuffled in training",
        training(shuffled("churn")),
        "training.train",
        "evaluation.gate",
        "block",
        "kpi, roc_auc",
    ),
    Mutation(
        "a constant model",
        boosted("max_iter=1, learning_rate=1e-9"),
        "training.train",
        "evaluation.gate",
        "block",
        "baseline, roc_auc improvement",
    ),
    Mutation(
        "trained on a tenth of the rows",
        training("FROM raw ORDER BY md5(customer_id) LIMIT (SELECT count(*) // 10 FROM raw)"),
        "training.train",
        "evaluation.gate",
        "block",
        "production, roc_auc improvement",
    ),
    Mutation(
        "worse in one segment only",
        training(shuffled("churn", "internet_service = 'DSL'")),
        "training.train",
        "evaluation.gate",
        "block",
        "segment, internet_service = DSL",
    ),
    Mutation(
        "unfair to one group",
        training("SELECT * REPLACE (if(senior_citizen = 1, 'Yes', churn) AS churn) FROM raw"),
        "training.train",
        "evaluation.gate",
        "block",
        "fairness, senior_citizen: selection rate",
    ),
    Mutation(
        "the same model again",
        forget_the_verdict,
        "training.train",
        "evaluation.gate",
        "keep",
        "this is the model in production",
    ),
    Mutation(
        "a model neither better nor worse",
        boosted("learning_rate=0.06, max_iter=85, max_leaf_nodes=15"),
        "training.train",
        "evaluation.gate",
        "keep",
        "production, roc_auc improvement",
    ),
    Mutation(
        "a truly better model",
        in_production_was("max_iter=1, max_leaf_nodes=4"),
        "training.train",
        "evaluation.gate",
        "promote",
        "production, roc_auc improvement",
    ),
    Mutation(
        "a miscalibrated model",
        boosted("class_weight='balanced'"),
        "training.train",
        "evaluation.gate",
        "block",
        "calibration, Yes",
    ),
    Mutation(
        "a leaking feature",
        raw("SELECT * REPLACE (if(churn = 'Yes', 7000, 0) AS total_charges) FROM raw"),
        "data.validate",
        "data.validate",
        "stops",
        "target leakage: total_charges",
    ),
    Mutation(
        "test rows in the training set",
        raw("FROM raw UNION ALL SELECT * REPLACE ('copy' || customer_id AS customer_id) FROM raw"),
        "data.validate",
        "data.split",
        "stops",
        "of the test rows equal a training row",
    ),
    Mutation(
        "an empty test split",
        parameters("split: {test_size: 0}"),
        "data.split",
        "data.split",
        "stops",
        "change split.test_size",
    ),
    Mutation(
        "a tiny test split",
        parameters("split: {test_size: 0.02, max_overlap_share: 0.1}"),
        "data.split",
        "evaluation.gate",
        "block",
        "data, test rows",
    ),
    Mutation(
        "one class missing",
        raw("FROM raw WHERE churn = 'No'"),
        "data.validate",
        "data.validate",
        "stops",
        "class size: churn = Yes: 0 rows",
    ),
    Mutation(
        "preprocessing in the bundle that differs from the estimator's",
        wrong_conversion,
        "training.train",
        "model.build",
        "stops",
        "ONNX and estimator differ",
    ),
    Mutation(
        "another contract in production",
        rename_a_column,
        "data.validate",
        "evaluation.gate",
        "block",
        "it needs partner",
    ),
    Mutation(
        "a model in production that cannot be downloaded",
        lose_production,
        "evaluation.gate",
        "evaluation.gate",
        "stops",
        "cannot be downloaded",
    ),
    Mutation(
        "a model in production that is broken",
        break_production,
        "evaluation.gate",
        "evaluation.gate",
        "stops",
        "is broken",
    ),
]


@pytest.fixture
def deployed(work: Project) -> Project:
    """Put the first model into production."""
    git("tag", TAG, cwd=work.folder)
    return work


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.description)
def test_gate_gives_the_verdict_of_each_mutation(deployed: Project, mutation: Mutation) -> None:
    """Each check stops what it is for; the table in docs/gate.md is this list."""
    mutation.check(deployed)


def test_gate_table_in_docs_matches_the_mutations() -> None:
    """`UPDATE_DOCS=1 make test` writes it anew."""
    head, _, _ = DOC.read_text().partition("| mutation |")
    lines = ["| mutation | who answers | verdict | reason |", "| --- | --- | --- | --- |"]
    table = "\n".join([*lines, *(mutation.row() for mutation in MUTATIONS)]) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        DOC.write_text(head + table)
    assert DOC.read_text() == head + table


def test_gate_fails_in_a_shallow_clone(work: Project, tmp_path: Path) -> None:
    """Where tags may be missing, no tag does not mean that nothing is in production."""
    address = f"file://{work.folder}"
    git("clone", "--quiet", "--depth", "1", address, tmp_path / "clone", cwd=tmp_path)
    shutil.copytree(work.folder / "models", tmp_path / "clone/models")
    shutil.copytree(work.folder / "data", tmp_path / "clone/data", dirs_exist_ok=True)
    git("commit", "--quiet", "--allow-empty", "--message", "two", cwd=work.folder)
    git("fetch", "--quiet", "--depth", "1", cwd=tmp_path / "clone")
    clone = Project(tmp_path / "clone", work.package, installed=False)
    (clone.folder / ".venv").symlink_to((work.folder / ".venv").resolve())
    assert "shallow" in clone.refusal("evaluation.gate")


def test_comparison_reset_applies_to_one_tag_only(deployed: Project) -> None:
    """A model that cannot be compared is passed over by its tag, not for good."""
    rename_a_column(deployed)
    deployed.params(f"gate: {{comparison_reset_tag: {TAG}}}")
    deployed.stages(*STAGES)
    assert deployed.json("reports/gate.json")["production"] is None
    git("tag", "production/2026-01-31-2", cwd=deployed.folder)
    assert "it needs partner" in deployed.refusal("evaluation.gate")


def test_newest_production_tag_has_the_highest_number(deployed: Project) -> None:
    """Ten comes after nine."""
    for number in (9, 10):
        git("tag", f"production/2026-01-31-{number}", cwd=deployed.folder)
    assert "production/2026-01-31-10" in deployed.stages("evaluation.gate")


def test_gate_promotes_both_starters(either: Project) -> None:
    """The first model of a fresh project passes, by its own merit."""
    report = either.json("reports/gate.json")
    assert (report["verdict"], report["production"]) == ("promote", None)
    assert {"kpi", "baseline", "segment", "calibration", "behaviour", "data", "bundle"} <= {
        check["check"] for check in report["checks"]
    }
    assert (either.folder / "reports/gate.png").stat().st_size > 10_000


def checked(work: Project) -> str:
    """What the hook says that a commit runs; nothing when all is well."""
    result = work.run(work.python, "-m", f"{work.package}.evaluation.cards", "--check")
    assert (result.returncode == 0) == (result.stderr == "")
    return result.stderr


def test_cards_contain_the_recorded_results(either: Project) -> None:
    """Every part that a reader looks for, and figures that stand in the reports too."""
    model = (either.folder / "docs/model-card.md").read_text()
    for part in (
        "**Intended use.**",
        "**Limitations.**",
        "**Owner.**",
        "Licence:",
        "## Verdict: promote",
        "make reproduce",
    ):
        assert part in model
    bundle = either.json("reports/bundle.json")
    assert bundle["version"] in model
    assert bundle["data"] in model
    data = (either.folder / "docs/data-card.md").read_text()
    assert f"{either.json('reports/data/data.json')['rows']:,}" in data
    assert checked(either) == ""


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (
            "docs/model-card.md",
            "Verdict: promote",
            "Verdict: superb",
            "model-card.md does not match the reports",
        ),
        ("docs/data-card.md", "Data card", "Data", "docs/data-card.md does not match the reports"),
        (
            "reports/gate.json",
            '{\n "verdict": "promote"',
            '{\n "verdict": "keep"',
            "model-card.md does not match the reports",
        ),
        ("reports/bundle.json", '"seed": 0', '"seed": 1', "bundle.json is not what its stage has written"),
    ],
)
def test_check_fails_on_stale_card(work: Project, path: str, old: str, new: str, message: str) -> None:
    """Whatever was changed by hand: card, verdict or report."""
    work.replace(old, new, work.folder / path)
    assert message in checked(work)


def test_blocked_model_can_be_committed_without_cards(work: Project) -> None:
    """By the hooks, as everybody's first models; with a card of the model before, it is refused."""
    before = git("rev-parse", "HEAD", cwd=work.folder)
    work.replace("gate:\n", "gate:\n  min_test_rows: 5000\n", work.folder / "params.yaml")
    assert "The cards were deleted" in work.run("make", "gate").stderr
    work.good("pre-commit", "install")
    git("add", "--all", cwd=work.folder)
    git("reset", "--quiet", "--", "docs", cwd=work.folder)
    command = ("git", "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-m", "blocked")
    result = work.run(*command)
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "the gate blocks this model, so it has none" in output
    assert "docs/model-card.md exists, but model" in output
    assert git("rev-parse", "HEAD", cwd=work.folder) == before
    work.good(*command, "--all")
    assert "card.md" not in git("ls-files", "docs", cwd=work.folder)
    assert git("status", "--porcelain", cwd=work.folder) == ""
    work.run("make", "gate")
    assert git("status", "--porcelain", cwd=work.folder) == ""


def test_check_distinguishes_a_stopped_pipeline_from_a_stale_card(work: Project) -> None:
    """`make pipeline` does not help where it cannot get to its end."""
    (work.folder / "reports/bundle.json").unlink()
    assert "bundle.json is missing, because the pipeline stopped before it" in checked(work)
    for path in (work.folder / "docs").glob("*-card.md"):
        path.unlink()
    assert checked(work) == ""


def test_cards_are_stale_after_dvc_repro_alone(work: Project) -> None:
    """The gate was not asked about it."""
    boosted("max_iter=1, learning_rate=1e-9")(work)
    work.good("dvc", "repro", "--quiet")
    assert "`make pipeline` renews them" in checked(work)


def test_gate_keeps_reports_of_the_model_in_production(deployed: Project) -> None:
    """Byte for byte: held against itself, a model would lose how it compared with the one before it."""
    for _ in range(2):
        output = deployed.make("gate")
        assert "gate: keep model" in output
        assert "already describe this model" in output
        assert git("status", "--porcelain", cwd=deployed.folder) == ""
    params = deployed.folder / "params.yaml"
    deployed.replace("gate:\n", "gate:\n  min_test_rows: 400\n", params)
    assert "gate: unchanged" not in deployed.make("gate")
    assert deployed.json("reports/gate.json")["verdict"] == "keep"
    deployed.replace("min_test_rows: 400\n", "min_test_rows: 4000\n", params)
    assert "the gate blocks model" in deployed.run("make", "gate").stderr
    deployed.replace("min_test_rows: 4000\n", "min_test_rows: 400\n", params)
    assert "gate: unchanged" not in deployed.make("gate")
    assert checked(deployed) == ""
