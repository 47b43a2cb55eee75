"""One row, asked again and again: the project's server against others, each on the same one core."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .demo import ROOT, answers, free_port, python, run, serving
from .lab import Lab
from .table import Row, Target

CONNECTIONS, ROUNDS, SECONDS = 16, 5, 2.0
MLFLOW = "mlflow==3.17.2"
OURS = "ours"
TARGETS = {
    "ours without events, metrics and contract": Target("≥", 0.9, "x"),
    "an empty FastAPI handler": Target("≥", 1, "x"),
    "an empty ASGI application": None,
    "FastAPI + scikit-learn": None,
    "mlflow models serve": Target("≥", 50, "x"),
}

# How the estimator reads a row, and with which libraries.
READING = """
import json
from importlib.metadata import version
from {package}.problem import CONTRACT

codes = {{c.name: {{v: i for i, v in enumerate(c.categories)}} for c in CONTRACT.features if c.categories}}
libraries = [f"{{name}}=={{version(name)}}" for name in ("scikit-learn", "numpy")]
print(json.dumps([codes, CONTRACT.feature_names, libraries]))
"""
# The estimator as an MLflow model that takes the same row, with a signature to check it by.
SAVE_MODEL = """
import json, sys
import joblib, mlflow, pandas

codes, names, row = map(json.loads, sys.argv[3:])
row = pandas.DataFrame([row])

class Model(mlflow.pyfunc.PythonModel):
    estimator = joblib.load(sys.argv[1])

    def predict(self, context, model_input, params=None):
        coded = {name: model_input[name].map(code) for name, code in codes.items()}
        return self.estimator.predict_proba(model_input.assign(**coded)[names].astype("float32"))

mlflow.pyfunc.save_model(
    sys.argv[2], python_model=Model(), signature=mlflow.models.infer_signature(row),
    pip_requirements=["scikit-learn"],
)
"""


@dataclass
class Server:
    """One way to answer, and how fast it was in each round."""

    command: list[str]
    port: int
    body: bytes
    path: str = "/predict"
    ready: str = "/docs"
    rates: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)


def rows(lab: Lab) -> Iterator[Row]:
    """Start all servers, ask them in turns, and compare ours with each."""
    with lab.steps.step("make mlflow's environment"):
        servers = {**pythonic(lab), "mlflow models serve": mlflow(lab)}
    with ExitStack() as stack, lab.steps.step(f"ask {len(servers)} servers, {ROUNDS} times"):
        with on_core(0):
            for server in servers.values():
                address = f"http://127.0.0.1:{server.port}{server.ready}"
                stack.enter_context(serving(server.command, lab.journey.project, address))
        with on_core(-1):
            for _ in range(ROUNDS):
                for server in servers.values():
                    ask(server)
    rate = {name: statistics.median(server.rates) for name, server in servers.items()}
    p99 = {name: statistics.median(server.p99s) for name, server in servers.items()}
    for peer, target in TARGETS.items():
        yield Row("one-row requests, one core", rate[OURS], "/s", peer, rate[peer], target)
    for peer in TARGETS:
        yield Row(f"their p99, {CONNECTIONS} connections", p99[OURS], "ms", peer, p99[peer])


def pythonic(lab: Lab) -> dict[str, Server]:
    """Ours, and others in the same environment and under the same flags."""
    project, body = lab.journey.project, json.dumps(lab.journey.row).encode()
    names = {
        OURS: "",
        "ours without events, metrics and contract": "peers:bare",
        "an empty FastAPI handler": "peers:empty_fastapi",
        "an empty ASGI application": "peers:empty_asgi",
        "FastAPI + scikit-learn": "peers:fastapi_sklearn",
    }
    return {
        name: Server(command(project, port, application), port, body)
        for name, application in names.items()
        for port in [free_port()]
    }


def command(project: Path, port: int, application: str) -> list[str]:
    """What `make serve` does, for another application if one is named."""
    shown = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "serve", f"PORT={port}"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = shlex.split(shown.splitlines()[-1])
    package = answers(project)["package_name"]
    if not application:
        return words
    words = [application if ":create_app" in word else word for word in words]
    return ["env", f"PACKAGE={package}", *words, "--app-dir", str(ROOT / "benchmarks")]


def mlflow(lab: Lab) -> Server:
    """MLflow's server with the same estimator, in an environment of its own."""
    folder, port = lab.folder / "mlflow", free_port()
    save_model(lab, folder)
    serve = ["mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--model-uri", str(folder / "model")]
    path = f"PATH={folder / 'bin'}:{os.environ['PATH']}"
    body = json.dumps({"dataframe_records": [lab.journey.row]}).encode()
    return Server(["env", path, *serve, *address], port, body, "/invocations", "/ping")


def save_model(lab: Lab, folder: Path) -> None:
    """Make MLflow's environment in a folder, and in it the model."""
    project, row = lab.journey.project, json.dumps(lab.journey.row)
    script = READING.format(package=answers(project)["package_name"])
    codes, names, libraries = json.loads(python(project, "-c", script))
    interpreter = str(folder / "bin/python")
    run(["uv", "venv", "--quiet", "--python", str(project / ".venv/bin/python"), str(folder)], project)
    run(["uv", "pip", "install", "--python", interpreter, MLFLOW, *libraries], project)
    arguments = ["models/estimator.joblib", str(folder / "model"), json.dumps(codes), json.dumps(names), row]
    run([interpreter, "-c", SAVE_MODEL, *arguments], project)


def ask(server: Server) -> None:
    """One round of load on a server."""
    arguments = [server.port, server.path, CONNECTIONS, SECONDS]
    load = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *map(str, arguments)],
        cwd=ROOT,
        input=server.body,
        stdout=subprocess.PIPE,
        check=True,
    )
    counted = json.loads(load.stdout)
    server.rates.append(counted["rate"])
    server.p99s.append(counted["p99"])


@contextmanager
def on_core(index: int) -> Generator[None]:
    """Keep this process, and what it starts meanwhile, on one of its cores, where that can be had."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
