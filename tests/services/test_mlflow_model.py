"""The registered model, served by MLflow alone: the predictions and the refusals of the project's server."""

import json
import os
import subprocess
from pathlib import Path

from project import Project
from serving import free_port, serving, started
from test_tracking import logged_project
from test_tracking_server import QUIET

__all__ = ["logged_project"]  # a fixture

ADDRESS = "models:/customer-churn@challenger"
DOWNLOAD = """
    import sys, mlflow
    mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
    mlflow.artifacts.download_artifacts(sys.argv[1], dst_path=sys.argv[2])
"""
CHANGES = ({"tenure": -1}, {"tenure": 4.5}, {"contract": "Ten years"}, {"monthly_charges": None})


def environment(requirements: Path, folder: Path) -> Path:
    """Install what the model lists, and nothing of the project."""
    subprocess.run(["uv", "venv", "--quiet", folder], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", folder / "bin/python", "--requirement"]
    subprocess.run([*install, requirements], check=True)
    return folder / "bin"


def test_mlflow_serves_the_model(logged_project: Project, slim: Path, tmp_path: Path) -> None:
    """From the registry, in an environment of the model's own requirements."""
    logged_project.script(DOWNLOAD, ADDRESS, tmp_path / "model")
    programs = environment(tmp_path / "model/requirements.txt", tmp_path / "venv")
    example = logged_project.json("models/bundle/example.json")
    table = logged_project.rows("SELECT * FROM 'data/splits/test.parquet' LIMIT 200")
    rows = [{name: row[name] for name in example} for row in table]
    port = free_port()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET
    variables |= {"PATH": f"{programs}{os.pathsep}{variables['PATH']}"}
    store = f"sqlite:///{logged_project.folder}/mlruns/mlflow.db"
    command: list[str | Path] = [programs / "mlflow", "models", "serve", "--model-uri", ADDRESS]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    served = started(command, tmp_path, variables | {"MLFLOW_TRACKING_URI": store}, port)
    json_type = {"Content-Type": "application/json"}
    with served as mlflow, serving(logged_project, slim, tmp_path) as server:

        def ask(*asked: object) -> tuple[int, str]:
            body = json.dumps({"dataframe_records": asked})
            answer = mlflow.ask("POST", "/invocations", body, **json_type)
            return answer.status, answer.body.decode()

        status, body = ask(*rows)
        assert (status, json.loads(body)["predictions"]) == (200, server.predictions(rows))
        sent = (tmp_path / "model/serving_input_example.json").read_text()
        answer = mlflow.ask("POST", "/invocations", sent, **json_type)
        assert answer.json["predictions"] == server.predictions([example])
        for change in CHANGES:
            (problem,) = server.problems([example, example | change])
            status, body = ask(example, example | change)
            assert status == 400
            assert json.dumps(problem["rule"])[1:-1] in json.loads(body)["message"]
