"""Tune: search the space of `problem.search` for better settings of the estimator, in parallel.

This process owns the study, a journal in `.tuning/`: it asks for settings, sends them out and records
what comes back. A worker gets data and settings and answers with metrics; it shares nothing with this
process but the installed project, and so may be a core of this machine or of another. Trials that were
begun and not answered (this process was killed, a worker was lost) are sent again.
"""

import argparse
import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .. import params, problem
from ..contract.dataset import Dataset, load_dataset
from ..core.errors import ProjectError, cli
from ..core.paths import TRAIN
from ..model.tracking import log_trial
from .train import cross_validate

STUDIES = Path(".tuning")
ATTEMPTS = 3  # in a row, at a backend that fails
RAY_NOTICES = 30  # seconds, at most, until Ray counts a lost host no more
ENDED = (TrialState.COMPLETE, TrialState.FAIL)

Settings = dict[str, Any]


class Outcome(NamedTuple):
    """What a worker (host:process) answers: metrics, or what went wrong."""

    worker: str
    metrics: dict[str, float]
    error: str = ""


def evaluate(settings: Settings, train: Dataset, options: params.Train) -> Outcome:
    """Cross-validate the estimator with these settings: this runs in a worker.

    What the estimator raises is an answer too. Whatever leaves this function is the backend's fault.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        estimator = problem.estimator(options.seed, **settings)
        with threadpool_limits(1):  # one core for each: threads would wait for their neighbours'
            by_fold = cross_validate(estimator, train, options, quiet=True)
    except Exception as error:
        return Outcome(worker, {}, f"{type(error).__name__}: {error}")
    return Outcome(worker, pd.DataFrame(by_fold).mean().to_dict())


def connect(tune: params.Tune) -> Settings:
    """Join the cluster, if there is to be one, and give options for the backend.

    Raise `ProjectError` where that cannot be.
    """
    if tune.backend == "loky" and tune.address:
        raise ProjectError("tune.address is of a cluster: set tune.backend to ray or dask, or leave it out")
    try:
        if tune.backend == "ray":
            # Else Ray has its workers start with `uv run` too, on hosts that may have no uv.
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            import_module("ray").init(address=tune.address, logging_level="ERROR", log_to_driver=False)
            joblib.register_parallel_backend("ray", ray_backend())
            return {"ray_remote_args": {"num_cpus": 1}}  # else all workers may be put on one host
        if tune.backend == "dask":
            import_module("distributed").Client(tune.address).wait_for_workers(1, timeout=30)
    except ModuleNotFoundError as error:
        raise ProjectError(f"tune.backend: {error}; run `uv sync --group {tune.backend}`") from None
    except Exception as error:  # each library raises errors of its own
        raise ProjectError(f"tune.address: no {tune.backend} at {tune.address}: {error}") from None
    return {}


def ray_backend() -> type:
    """Ray's backend for joblib, but it does not ask a lost host for workers: that would take forever."""
    base = import_module("ray.util.joblib.ray_backend").RayBackend

    class Ray(base):
        def abort_everything(self, ensure_ready: bool = True) -> None:
            """Start no workers before the host is counted as lost."""
            counted, until = self.effective_n_jobs(-1), time.monotonic() + RAY_NOTICES
            super().abort_everything(ensure_ready=False)
            while self.effective_n_jobs(-1) == counted and time.monotonic() < until:
                time.sleep(0.5)

    return Ray


def workers(tune: params.Tune) -> int:
    """How many there may be: a cluster can have lost some."""
    there = joblib.effective_n_jobs(-1)
    return min(tune.n_jobs or there, there)


def answers(batch: Callable[[], list[Any]], tune: params.Tune) -> Iterator[list[Outcome]]:
    """Send out one batch of calls after the other until it is empty; yield what they answer.

    A backend that fails, for the loss of a worker, is given the next batch: the same trials again.
    Raise `ProjectError` when it fails `ATTEMPTS` times in a row.
    """
    failures = 0
    while True:
        try:
            # Workers are kept from batch to batch: for Ray's, the libraries take seconds to import.
            with joblib.Parallel(n_jobs=workers(tune), batch_size=1) as parallel:
                while calls := batch():
                    yield parallel(calls)
                    failures = 0
            return
        except ProjectError:
            raise
        except Exception as error:
            failures += 1
            tqdm.write(f"tune: {tune.backend} failed ({failures} of {ATTEMPTS} times): {error!r}")
            if failures == ATTEMPTS:
                raise ProjectError(
                    f"tune: no answer from {tune.backend}, for the reason above. A worker that dies often "
                    "lacks memory: try fewer tune.n_jobs. Finished trials are kept."
                ) from None


def today(train: params.Train) -> tuple[Settings, Settings]:
    """Settings in `params.yaml` that the search leaves alone, and those that it varies.

    The latter are none if one is a choice that the search does not offer.
    """
    probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = problem.search(probe.ask())
    fixed = {name: value for name, value in train.estimator.items() if name not in names}
    varied = {name: value for name, value in train.estimator.items() if name in names}
    probe.enqueue_trial(varied)
    try:
        problem.search(probe.ask())
    except ValueError:
        varied = {}
    return fixed, varied


def study_name(train: params.Train, fixed: Settings) -> str:
    """Name what makes scores comparable: training rows, problem.py, folds, seed, settings left alone.

    A change of any begins a new study, so that scores of different things are never mixed.
    """
    rest = repr((train.n_splits, train.seed, sorted(fixed.items()))).encode()
    parts = (TRAIN.read_bytes(), Path(problem.__file__).read_bytes(), rest)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def open_study(train: params.Train, fixed: Settings, first: Settings) -> optuna.Study:
    """Go on with the study, or begin it: with today's settings, so that the best is never worse."""
    STUDIES.mkdir(exist_ok=True)
    name = study_name(train, fixed)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(STUDIES / f"{name}.log"))),
        study_name=name,
        direction="maximize" if problem.KPIS[0].direction == "at least" else "minimize",
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(first)
    # Another seed for each start: the same one would suggest the same trials once more.
    study.sampler = optuna.samplers.TPESampler(seed=train.seed + len(study.trials))
    return study


def ask(study: optuna.Study, trials: int, at_once: int) -> list[optuna.Trial]:
    """The next batch: trials without an answer, then new ones, up to `trials` in all."""
    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    new = min(trials - len(ended(study)), at_once) - len(begun)
    return [optuna.Trial(study, it._trial_id) for it in begun] + [study.ask() for _ in range(new)]


def tell(study: optuna.Study, trial: optuna.Trial, settings: Settings, outcome: Outcome) -> None:
    """Record an outcome, in MLflow and then in the study: at least once, whenever this is killed."""
    metric = problem.KPIS[0].metric
    score = outcome.metrics.get(metric, math.nan)
    error = outcome.error or ("" if math.isfinite(score) else f"no {metric} among {list(outcome.metrics)}")
    for name, value in {"settings": settings, "worker": outcome.worker, "error": error}.items():
        trial.set_user_attr(name, value)
    log_trial(study.study_name, trial.number, settings, outcome.metrics)
    study.tell(trial, None if error else score, TrialState.FAIL if error else None)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were answered, well or not."""
    return study.get_trials(deepcopy=False, states=ENDED)


def run(study: optuna.Study, settings: params.Params, fixed: Settings) -> None:
    """Evaluate trials until there are `tune.n_trials` of them."""
    tune, contract = settings.tune, problem.CONTRACT
    data = load_dataset(TRAIN, contract), settings.train
    sent: list[tuple[optuna.Trial, Settings]] = []

    def batch() -> list[Any]:
        asked = ask(study, tune.n_trials, workers(tune))
        sent[:] = [(trial, fixed | problem.search(trial)) for trial in asked]
        return [joblib.delayed(evaluate)(chosen, *data) for _, chosen in sent]

    with tqdm(desc="tune", unit="trial", total=tune.n_trials, initial=len(ended(study))) as bar:
        for outcomes in answers(batch, tune):
            for (trial, chosen), outcome in zip(sent, outcomes, strict=True):
                tell(study, trial, chosen, outcome)
                bar.update()


def best(study: optuna.Study) -> FrozenTrial:
    """The best trial; raise `ProjectError` if every one failed."""
    *_, last = trials = ended(study)
    if all(it.state == TrialState.FAIL for it in trials):
        raise ProjectError(
            f"tune: all {len(trials)} trials failed, the last with {last.user_attrs['error']}. "
            "Make `search` and `estimator` in problem.py fit each other."
        )
    return study.best_trial


def write(settings: Settings, path: Path = Path("params.yaml")) -> None:
    """Make these the settings in `train.estimator`; comments and order of the file stay."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(float, plain)
    text = path.read_text(encoding="utf-8")
    document = yaml.load(text) or yaml.load(f"{text}\ntrain:\n")
    document["train"] = document.get("train") or {}
    section = document["train"].setdefault("estimator", {})
    for name in section.keys() - settings.keys():
        del section[name]
    section.update({name: Quoted(it) if isinstance(it, str) else it for name, it in settings.items()})
    yaml.dump(document, path)


def plain(dumper: Any, value: float) -> Any:
    """A number as readers of YAML 1.1 know it: to them 1e-05 is a text."""
    text = repr(value)
    return dumper.represent_scalar(
        "tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Search for better settings of the estimator.")
    parser.add_argument("--write", action="store_true", help="put the best ones into params.yaml")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for libraries that workers load later
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = params.load()
    fixed, varied = today(settings.train)
    options = connect(settings.tune)
    study = open_study(settings.train, fixed, varied)
    with joblib.parallel_config(settings.tune.backend, **options):
        run(study, settings, fixed)
    found = best(study)
    print(f"tune: best {problem.KPIS[0].metric} {found.value:.4f} of {len(ended(study))} trials, with")
    for name, value in found.user_attrs["settings"].items():
        print(f"  {name}: {value}")
    if given.write:
        write(found.user_attrs["settings"])
        print("tune: written to params.yaml; `make pipeline` trains with them")


if __name__ == "__main__":
    cli(main)
