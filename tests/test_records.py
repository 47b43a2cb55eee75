"""What git and the remote record of a model: only what is so, and whole."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import commit, git
from project import Project


def clone(work: Project, folder: Path) -> Project:
    """Clone a project as a colleague would, who reaches the same remote."""
    git("clone", "--quiet", work.folder, folder, cwd=work.folder.parent)
    return Project(folder, work.package, installed=False).using(work)


@pytest.fixture
def colleague(work: Project, tmp_path: Path) -> Project:
    """Push the first model, and clone it."""
    work.good("dvc", "push")
    return clone(work, tmp_path / "clone")


def test_tag_production_rejects_model_missing_in_the_remote(work: Project, tmp_path: Path) -> None:
    """Nobody else could compare a model with it. Where the remote cannot be asked, that is said."""
    assert "the remote lacks models/bundle" in work.refusal("model.registry")
    assert git("tag", cwd=work.folder) == ""
    work.good("dvc", "push")
    other = clone(work, tmp_path / "clone")
    assert " as production/" in other.stages("model.registry")
    remote = tmp_path / "customer-churn-remote"
    for folder in (work.folder / ".dvc/cache", other.folder / ".dvc/cache"):
        shutil.rmtree(folder, ignore_errors=True)
    remote.rename(tmp_path / "away")
    output = other.stages("model.registry")
    assert "warning: cannot check that the remote has the model: there is no folder" in output


def test_gate_rejects_bundle_that_differs_from_the_tag(colleague: Project) -> None:
    """Who exchanges a whole bundle, its metadata included, is found out."""
    tag = colleague.stages("model.registry").split()[-1]
    colleague.good("dvc", "pull")
    colleague.stages("declarations", "evaluation.gate")
    (fetched,) = colleague.folder.glob(".production/*")
    reference = fetched / "reference.json"
    reference.write_text(reference.read_text() + "\n")
    code = (
        "import json, sys; from pathlib import Path; from {0}.model.bundle import content_hash as v;"
        "f = Path(sys.argv[1]); m = json.loads((f / 'metadata.json').read_text());"
        "(f / 'metadata.json').write_text(json.dumps(m | {{'version': v(f)[:12], 'sha256': v(f)}}))"
    )
    colleague.script(code.format(colleague.package), fetched)
    assert f"the model in production ({tag}) is " in colleague.refusal("evaluation.gate")


def objects(work: Project) -> list[Path]:
    """What the project's remote holds."""
    return [path for path in (work.folder.parent / "customer-churn-remote").rglob("*") if path.is_file()]


def rewritten(work: Project) -> None:
    """Turn a blocked model's report into one that promotes it, with cards that match."""
    report = work.folder / "reports/gate.json"
    content = json.loads(report.read_text())
    for check in content["checks"]:
        check["status"] = check["status"].replace("fail", "pass").replace("warn", "pass")
    report.write_text(json.dumps(content | {"verdict": "promote"}))
    work.stages("evaluation.cards")


def test_verdict_written_by_hand_is_found_before_an_image_is_built(work: Project) -> None:
    """All files agree, so no hook can tell; the gate can. It passes an honest commit, also once deployed."""
    assert "has the verdict that HEAD says" in work.make("verify")
    git("tag", "production/2026-01-01-1", cwd=work.folder)
    assert "has the verdict that HEAD says" in work.make("verify")
    git("tag", "--delete", "production/2026-01-01-1", cwd=work.folder)
    work.params("gate: {min_test_rows: 5000}\n")
    work.good("dvc", "repro", "--quiet")
    work.run("make", "gate")
    rewritten(work)
    commit(work.folder, "promote it anyway")
    assert work.stage("evaluation.cards", "--check").returncode == 0
    before = git("status", "--porcelain", cwd=work.folder)
    assert "says promote, the gate says block: " in work.refusal("evaluation.gate", "--verify")
    assert git("status", "--porcelain", cwd=work.folder) == before


def test_model_of_other_code_is_found(work: Project) -> None:
    """Train on the test rows too, put the code back, commit: by the hook, and before an image is built."""
    train = work.problem.parent / "training/train.py"
    code = train.read_text()
    train.write_text(code + "# it also fits the test rows\n")
    work.good("dvc", "repro", "--quiet")
    work.run("make", "gate")
    train.write_text(code)
    fault = "is not what stage train has run with"
    for _ in range(2):  # before the commit and after it
        assert fault in work.refusal("evaluation.cards", "--check")
        commit(work.folder, "a better model", "--allow-empty")
    assert fault in work.refusal("evaluation.gate", "--verify")


def test_model_of_other_parameters_is_found(work: Project) -> None:
    """As with code; limits of the gate, which no stage needs, may change with `make gate` alone."""
    params = (work.folder / "params.yaml").read_text()
    work.replace("gate:\n", "gate:\n  min_test_rows: 400\n", work.folder / "params.yaml")
    work.make("gate")
    assert work.stage("evaluation.cards", "--check").returncode == 0
    (work.folder / "params.yaml").write_text(params)
    work.replace("max_iter: 80", "max_iter: 70", work.folder / "params.yaml")
    work.good("dvc", "repro", "--quiet")
    work.run("make", "gate")
    (work.folder / "params.yaml").write_text(params)
    fault = ".params/train.json is not what stage train has run with"
    assert fault in work.refusal("evaluation.cards", "--check")
    commit(work.folder, "more trees")
    assert fault in work.refusal("evaluation.cards", "--check")
    assert fault in work.refusal("evaluation.gate", "--verify")


def test_bundle_that_is_not_the_committed_one_is_found(work: Project) -> None:
    """By its content, not by its name."""
    code = (
        "import json; from pathlib import Path; from {0}.model.bundle import content_hash as v;"
        "f = Path('models/bundle'); r = f / 'reference.json'; r.write_text(r.read_text() + ' ');"
        "m = json.loads((f / 'metadata.json').read_text());"
        "(f / 'metadata.json').write_text(json.dumps(m | {{'version': v(f)[:12], 'sha256': v(f)}}))"
    )
    work.script(code.format(work.package))
    assert "models/bundle is model " in work.refusal("evaluation.gate", "--verify")


def read_model(work: Project) -> tuple[int, str]:
    """Run the step of deploy.yml that reads a commit's report: exit code, and the outputs that it sets."""
    workflow = yaml.safe_load((work.folder / ".github/workflows/deploy.yml").read_text())
    (step,) = (step for step in workflow["jobs"]["model"]["steps"] if step.get("id") == "read")
    files = {name: work.folder.parent / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    variables = "".join(f"export {name}={path}; : > {path}; " for name, path in files.items())
    script = f"{variables}export REGISTRY=ghcr.io GITHUB_REPOSITORY=Owner/Name\n{step['run']}"
    result = work.run("bash", "-eo", "pipefail", "-c", script)
    return result.returncode, files["GITHUB_OUTPUT"].read_text()


def test_report_sets_no_other_output_of_a_workflow(work: Project) -> None:
    """A report is a text: what stands in it is checked before it reaches a workflow."""
    code, outputs = read_model(work)
    version = work.json("reports/gate.json")["model_version"]
    sha256 = work.json("reports/bundle.json")["sha256"]
    expected = ["verdict=promote", f"version={version}", f"bundle={sha256}"]
    assert (code, outputs.splitlines()[2:]) == (0, expected)
    for name, value in (
        ("model_version", f"{version}\nimage=evil.example/x"),
        ("model_version", "latest"),
        ("model_version", 7),
        ("verdict", "promote\nimage=evil.example/x"),
        ("verdict", None),
    ):
        report = work.folder / "reports/gate.json"
        content = report.read_text()
        report.write_text(json.dumps(json.loads(content) | {name: value}))
        code, outputs = read_model(work)
        report.write_text(content)
        assert code != 0
        assert "evil" not in outputs


def test_make_pull_replaces_files_that_were_cut_off(colleague: Project) -> None:
    """DVC trusts the names of its objects: neither `dvc pull` nor `dvc repro` looks at their content."""
    colleague.make("pull")
    model = colleague.folder / "models/bundle/model.onnx"
    content = model.read_bytes()
    (cached,) = (
        path
        for path in (colleague.folder / ".dvc/cache").rglob("*")
        if path.is_file() and path.read_bytes() == content
    )
    for path in (model, cached):
        path.chmod(0o644)
        path.write_bytes(content[:100])
        path.chmod(0o444)
    assert "`make pull` downloads it" in colleague.refusal("evaluation.gate")
    assert "models/bundle/model.onnx was broken and is replaced" in colleague.make("pull")
    assert model.read_bytes() == content
    assert "Everything is up to date" in colleague.make("pull")
    colleague.make("gate")


def test_status_says_which_model_is_where_and_writes_nothing(colleague: Project) -> None:
    """A clone without data, then with it, then with a model in production."""
    before = sorted(colleague.folder.rglob("*"))
    version = colleague.json("reports/bundle.json")["version"]
    output = colleague.make("status")
    for line in (
        "in production:   none yet",
        f"model here:      {version} (results committed)",
        "verdict:         promote",
        "missing: make pull",
        "monitoring:      no report here",
    ):
        assert line in output
    assert [path for path in sorted(colleague.folder.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]
    colleague.make("pull")
    tag = colleague.stages("model.registry").split()[-1]
    output = colleague.make("status")
    assert f"in production:   {version} ({tag})" in output
    assert "data and bundle: here" in output


def test_dvc_push_uploads_no_pickle(work: Project, colleague: Project) -> None:
    """Loaded, it runs code: who can write to the remote would run it in `train`."""
    estimator = (work.folder / "models/estimator.joblib").read_bytes()
    assert estimator not in [path.read_bytes() for path in objects(work)]
    assert "in sync" in work.good("dvc", "status", "--cloud")
    assert "WARNING" not in colleague.good("dvc", "pull")
    assert not (colleague.folder / "models/estimator.joblib").exists()


@pytest.mark.parametrize("index", [0, -1], ids=["smallest", "largest"])
def test_dvc_pull_rejects_objects_changed_in_the_remote(
    work: Project, colleague: Project, index: int
) -> None:
    """Also where a file cannot be written, which DVC takes for a sign that nobody did."""
    files = [path for path in objects(work) if path.suffix != ".dir"]
    victim = sorted(files, key=lambda path: path.stat().st_size)[index]
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    victim.chmod(0o444)
    assert colleague.run("dvc", "pull").returncode != 0


def test_clone_rebuilds_the_bundle_after_a_code_change(colleague: Project) -> None:
    """The estimator is trained again for it, to the same bundle; one of another branch is not taken."""
    colleague.good("dvc", "pull")
    bundle = colleague.problem.parent / "model/build.py"
    bundle.write_text(bundle.read_text() + "# another word\n")
    output = colleague.make("stages")
    assert "Running stage 'train'" in output
    assert "Running stage 'bundle'" in output
    commit(colleague.folder, "another word")
    estimator = colleague.folder / "models/estimator.joblib"
    estimator.write_bytes(estimator.read_bytes() + b"of another branch")
    assert "Running stage" not in colleague.make("stages").replace("Running stage 'params'", "")
    assert not estimator.exists()
    assert git("status", "--porcelain", cwd=colleague.folder) == ""
