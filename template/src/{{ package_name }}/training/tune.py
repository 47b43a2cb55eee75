"""Tune: search the space of `problem.search` for better settings of the estimator, in parallel.

The study is a journal in `.tuning/`. Trials run in batches through joblib: on the cores of this machine
(loky), or on a Ray or Dask cluster, whose hosts need the installed project and nothing else. A search that
was interrupted continues: trials without a result run again.
"""

import argparse
import hashlib
import math
import os
import socket
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import msgspec
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .. import declarations, params
from ..contract.dataset import Dataset
from ..contract.expectations import Kpi
from ..core.errors import ProjectError, cli
from ..core.paths import TRAIN
from ..model import tracking
from ..stats.metrics import Estimator, Metrics
from .train import cross_validate

STUDIES = Path(".tuning")
ATTEMPTS = 3  # for a batch whose backend fails
RETRY_SECONDS = {"loky": 0, "ray": 30, "dask": 0}  # Ray counts a lost host for up to 30 s

Settings = dict[str, Any]
Search = Callable[[optuna.Trial], Settings]


class Outcome(NamedTuple):
    """Result of a trial: the worker (host:process), mean metrics over the folds, or an error."""

    worker: str
    metrics: dict[str, float]
    error: str = ""


def evaluate_trial(
    make_estimator: Callable[..., Estimator],
    settings: Settings,
    train: Dataset,
    options: params.Train,
    metrics: Metrics,
) -> Outcome:
    """Cross-validate the estimator with some settings. This runs in a worker.

    Args:
        make_estimator: `problem.estimator`.
        settings: Its keyword arguments.
        train: The training split.
        options: Number of folds and seed.
        metrics: Metrics by name.

    Returns:
        The metrics, or the estimator's exception as text: an exception raised here is the backend's.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        estimator = make_estimator(options.seed, **settings)
        with threadpool_limits(1):  # one core for each worker
            by_fold = cross_validate(estimator, train, options, metrics, quiet=True)
    except Exception as error:
        return Outcome(worker, {}, f"{type(error).__name__}: {error}")
    return Outcome(worker, pd.DataFrame(by_fold).mean().to_dict())


def connect_backend(tune: params.Tune) -> Settings:
    """Connect to the cluster that the parameters name, if any.

    Args:
        tune: Backend and address.

    Returns:
        Options of the backend for `joblib.parallel_config`.

    Raises:
        ProjectError: The cluster cannot be reached, or its library is not installed.
    """
    if tune.backend == "loky" and tune.address:
        raise ProjectError("tune.address is a cluster's: set tune.backend to ray or dask, or remove it")
    try:
        if tune.backend == "ray":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Else Ray starts its workers with `uv run` too, on hosts that may have no uv.
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            import_module("ray").init(address=tune.address, logging_level="ERROR", log_to_driver=False)
            import_module("ray.util.joblib").register_ray()
            return {"ray_remote_args": {"num_cpus": 1}}  # else all workers may be put on one host
        if tune.backend == "dask":
            import_module("distributed").Client(tune.address).wait_for_workers(1, timeout=30)
    except ModuleNotFoundError as error:
        raise ProjectError(f"tune.backend: {error}; run `uv sync --group {tune.backend}`") from None
    except Exception as error:  # each library raises errors of its own
        raise ProjectError(f"tune.address: no {tune.backend} at {tune.address}: {error}") from None
    return {}


def _count_workers(tune: params.Tune) -> int:
    """Workers to use now: a cluster may have lost some."""
    available = joblib.effective_n_jobs(-1)
    return min(tune.n_jobs or available, available)


def _run_batch(calls: list[Any], tune: params.Tune) -> list[Outcome]:
    """Run calls in parallel, again if the backend loses a worker."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return joblib.Parallel(n_jobs=_count_workers(tune), batch_size=1)(calls)
        except Exception as error:  # each backend raises errors of its own
            tqdm.write(f"tune: {tune.backend} failed ({attempt} of {ATTEMPTS} times): {error!r}")
        time.sleep(RETRY_SECONDS[tune.backend])
    raise ProjectError(
        f"tune: {tune.backend} failed, for the reason above. A worker that dies often lacks memory: try a "
        "smaller tune.n_jobs. Finished trials are kept."
    )


def split_settings(search: Search, settings: Settings) -> tuple[Settings, Settings]:
    """Split the settings of `params.yaml` into those that the search keeps and those that it varies.

    Args:
        search: `problem.search`.
        settings: `train.estimator` of `params.yaml`.

    Returns:
        The fixed settings; and the varied ones, empty if one is a choice that the search does not offer.
    """
    probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = search(probe.ask())
    fixed = {name: value for name, value in settings.items() if name not in names}
    varied = {name: value for name, value in settings.items() if name in names}
    probe.enqueue_trial(varied)
    try:
        search(probe.ask())
    except ValueError:
        varied = {}
    return fixed, varied


def study_name(problem: declarations.Declarations, train: params.Train, fixed: Settings) -> str:
    """Name a study by everything that makes scores comparable: a change begins a new study.

    Args:
        problem: Contract, estimator and primary metric.
        train: Number of folds and seed.
        fixed: Settings that the search keeps.

    Returns:
        A hash of all that, of `custom/` and of the training rows.
    """
    inputs = declarations.stage_inputs(problem), declarations.custom_code(), train.n_splits, train.seed, fixed
    digest = hashlib.sha256(msgspec.json.encode(inputs, order="sorted"))
    digest.update(TRAIN.read_bytes())
    return digest.hexdigest()[:12]


def _repair_journal(journal: Path) -> None:
    """Cut off an incomplete end: the process was killed, or the disk full, while it was written."""
    content = journal.read_bytes() if journal.exists() else b""
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError:
            break
        end += len(line) if line.endswith(b"\n") else 0
    if end < len(content):
        journal.write_bytes(content[:end])
        print(f"tune: the end of {journal} was cut off: trials without a result there run again")


def open_study(name: str, kpi: Kpi, seed: int, first: Settings) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        name: As returned by `study_name`.
        kpi: The primary metric.
        seed: Seed of the sampler.
        first: Settings of the first trial: today's, so that the best are never worse.

    Returns:
        The study. Trials that an earlier process began and did not finish are queued again.
    """
    STUDIES.mkdir(exist_ok=True)
    # Absolute, because Optuna does not release the stale lock (of a killed process) of a relative path.
    path = str(STUDIES.resolve() / f"{name}.log")
    lock = JournalFileSymlinkLock(path, grace_period=5)
    lock.acquire()
    try:
        _repair_journal(Path(path))
    finally:
        lock.release()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(path, lock)),
        study_name=name,
        direction="maximize" if kpi.sign > 0 else "minimize",
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(first)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    # Another seed for each start: with the same seed it would suggest the same trials again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """List the trials with a result.

    Args:
        study: The study.

    Returns:
        Trials that are complete, or failed by an error of the estimator; not those that were interrupted.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return [trial for trial in trials if trial.state == TrialState.COMPLETE or trial.user_attrs.get("error")]


def _record(
    study: optuna.Study, trial: optuna.Trial, settings: Settings, outcome: Outcome, metric: str
) -> None:
    """Record an outcome, for MLflow first: whenever this process is killed, both get it at least once."""
    score = outcome.metrics.get(metric, math.nan)
    error = outcome.error or ("" if math.isfinite(score) else f"no {metric} among {list(outcome.metrics)}")
    for name, value in {"settings": settings, "worker": outcome.worker, "error": error}.items():
        trial.set_user_attr(name, value)
    tracking.queue_trial(study.study_name, trial.number, settings, outcome.metrics)
    study.tell(trial, None if error else score, TrialState.FAIL if error else None)


def run_search(
    study: optuna.Study, search: Search, evaluate: Callable[[Settings], Any], metric: str, tune: params.Tune
) -> None:
    """Run trials until the study has `tune.n_trials` results.

    Args:
        study: The study.
        search: Suggests the settings of a trial.
        evaluate: Makes a joblib call of `evaluate_trial` for these settings.
        metric: The primary metric.
        tune: Number of trials and workers.

    Raises:
        ProjectError: The backend fails again and again.
    """
    is_online = True
    n_finished = len(finished_trials(study))
    with tqdm(desc="tune", unit="trial", total=tune.n_trials, initial=n_finished) as bar:
        while (left := tune.n_trials - len(finished_trials(study))) > 0:
            trials = [study.ask() for _ in range(min(left, _count_workers(tune)))]
            settings = [search(trial) for trial in trials]
            outcomes = _run_batch([evaluate(chosen) for chosen in settings], tune)
            for trial, chosen, outcome in zip(trials, settings, outcomes, strict=True):
                _record(study, trial, chosen, outcome, metric)
                bar.update()
            is_online = is_online and tracking.upload_pending()


def best_trial(study: optuna.Study) -> FrozenTrial:
    """Return the best trial.

    Args:
        study: A study with at least one result.

    Returns:
        The trial with the best primary metric.

    Raises:
        ProjectError: All trials failed.
    """
    *_, last = trials = finished_trials(study)
    if all(trial.state == TrialState.FAIL for trial in trials):
        raise ProjectError(
            f"tune: all {len(trials)} trials failed, the last with {last.user_attrs['error']}. "
            "Make `search` and `estimator` in problem.py fit each other."
        )
    return study.best_trial


def write_settings(settings: Settings, path: Path = Path("params.yaml")) -> None:
    """Replace `train.estimator` in `params.yaml`; comments and order of the file stay.

    Args:
        settings: The new settings.
        path: The file.
    """
    params.update({"train": {"estimator": settings}}, path)


def main() -> None:
    """Search, print the best settings, and write them with --write."""
    parser = argparse.ArgumentParser(description="Search for better settings of the estimator.")
    parser.add_argument("--write", action="store_true", help="write the best settings to params.yaml")
    write = parser.parse_args().write
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for libraries that workers load later
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings, problem = params.load(), declarations.load()
    kpi, make_estimator = problem.primary_kpi, problem.estimator
    fixed, varied = split_settings(problem.search, settings.train.estimator)
    options = connect_backend(settings.tune)
    study = open_study(study_name(problem, settings.train, fixed), kpi, settings.train.seed, varied)
    train = problem.read_split(TRAIN)
    metrics = problem.make_metrics(train.contract)
    with joblib.parallel_config(settings.tune.backend, **options):
        run_search(
            study,
            lambda trial: fixed | problem.search(trial),
            lambda chosen: joblib.delayed(evaluate_trial)(
                make_estimator, chosen, train, settings.train, metrics
            ),
            kpi.metric,
            settings.tune,
        )
    best = best_trial(study)
    print(f"tune: best {kpi.metric} {best.value:.4f} of {len(finished_trials(study))} trials, with")
    for name, value in best.user_attrs["settings"].items():
        print(f"  {name}: {value}")
    if write:
        write_settings(best.user_attrs["settings"])
        print("tune: written to params.yaml; `make pipeline` trains with them")


if __name__ == "__main__":
    cli(main)
