"""Propose `problem.py` from a table; --write puts it and the source into the project."""

import argparse
import hashlib
import os
import shlex
import tempfile
from pathlib import Path

from ... import params
from ...contract import Column, Contract
from ...contract.tables import Connection, connect
from ...core import git
from ...core.errors import ProjectError, cli
from ...core.files import write
from ...core.secrets import mask_secrets
from ..ingest import expand, fetch_tables, hide_secrets, reason_to_replace
from ..interval import choose_interval
from ..merge import merge
from .declare import Proposal, Request, propose
from .problem_file import choose_model, write_problem, write_tests

PACKAGE = Path(__file__).parents[2]
PROBLEM = PACKAGE / "problem.py"
TESTS = Path("tests/test_problem.py")
# Hashes of both as they are rendered, for each use case: unchanged, they may be overwritten.
STARTERS = (
    "e9f459dd363fc137a97b4d08b0d707476759ffc1",  # churn
    "052bfb525e3ee4de9040d5bf46d58be9df863ab3",  # demand
    "79fd918f500e3cebab7334482a5e84afd927c247",  # fraud
    "87dbe3da3726db623f42cf53474b61dcc7754c2e",  # maintenance
    "2146f35855892f1278f0c98c205d87a2a31cb79d",  # recommendation
    "3c330b7a2df73f90dbd8321da69a55c3aaf5e704",  # imaging
)
WRITTEN = Path("data/proposal.sha1")  # the same as `make contract` wrote them
NO_COLUMNS = (Column("\ue000", "text"), Column("\ue001", "number"), Column("\ue002", "number"))
NO_CONTRACT = Contract("regression", "\ue000", "\ue001", NO_COLUMNS)  # `merge` then goes by the types alone
OPTIONS = {  # as `make contract` spells them
    "source": "path, glob or address of CSV or Parquet files, or a SQLAlchemy address with a query; "
    "default: ingest.source of params.yaml",
    "target": "the column to predict",
    "query": "SQL query at the database of the source",
    "key": "the columns that identify a row, separated by commas; default: by the values",
    "group": "the column that says which rows belong together: customer, patient, machine",
    "time": "the column that orders the rows: the newest become the test split",
    "task": "classification or regression; default: by the values of the target",
}


def _read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make contract", description=__doc__)
    for name, meaning in OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"{name.upper()}=…: {meaning}", default="")
    parser.add_argument("--write", action="store_true", help="WRITE=1: write problem.py and params.yaml")
    options = parser.parse_args()
    if not options.target:
        raise ProjectError("TARGET=… is missing: name the column to predict")
    if options.task not in ("", "classification", "regression"):
        raise ProjectError(f"TASK={options.task}: it must be classification or regression")
    return options


def _choose_source(options: argparse.Namespace, ingest: params.Ingest) -> params.Ingest:
    """The source that the user names, or else that of params.yaml."""
    if options.source:
        ingest = params.Ingest(options.source, options.query or None, csv=ingest.csv)
    if ingest.source == "sample":
        raise ProjectError(
            "SOURCE=… is missing: a path, glob or address of CSV or Parquet files, or a SQLAlchemy address "
            "with QUERY=… ('sample' is the data of problem.py itself)"
        )
    return ingest


def _load(con: Connection, ingest: params.Ingest, folder: Path) -> None:
    """Create the table `raw`, as `ingest` would write it."""
    with hide_secrets(ingest):
        fetched = fetch_tables(con, expand(ingest, choose_interval(ingest, ())), folder)
        con.execute(f"CREATE TABLE raw AS {merge(con, fetched, NO_CONTRACT)}")


def _digest() -> str:
    """Hash of problem.py and its tests as they are, but for the name of the package."""
    content = "".join(path.read_text(encoding="utf-8") for path in (PROBLEM, TESTS) if path.exists())
    content = content.replace(f"{PACKAGE.name}.", "package.").replace(
        f"from {PACKAGE.name} ", "from package "
    )
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


def _check_unedited() -> None:
    """Stop if problem.py or its tests hold work that git does not keep."""
    written = WRITTEN.read_text(encoding="utf-8") if WRITTEN.exists() else ""
    if _digest() in (*STARTERS, written):
        return
    try:
        changes = git.changes([PROBLEM, TESTS])
    except ProjectError:
        changes = "without git"
    if changes:
        raise ProjectError(
            f"{os.path.relpath(PROBLEM)} or {TESTS} has changes that are not committed, and WRITE=1 replaces "
            "both files. Commit them first: git add --all && git commit. Nothing was written."
        )


def _write(proposal: Proposal, problem: str, ingest: params.Ingest) -> None:
    """Write problem.py, its tests and the parameters that go with them."""
    settings = choose_model(proposal).settings
    write(PROBLEM, problem.encode())
    write(TESTS, write_tests(PACKAGE.name).encode())
    params.update(
        {"ingest": {"source": ingest.source, "query": ingest.query}, "train": {"estimator": settings}}
    )
    WRITTEN.parent.mkdir(exist_ok=True)
    write(WRITTEN, _digest().encode())


def _summarize(proposal: Proposal, source: str) -> str:
    """What was found, and what to look at."""
    contract, rows = proposal.contract, proposal.n_clean + proposal.n_rejected
    names = [" ".join(column.name.split()) for column in contract.features]
    shown = ", ".join(names[:12]) + f", … ({len(names)})" * (len(names) > 12)
    facts = {
        "source": f"{source}: {rows:,} rows",
        "task": f"{contract.task} of {contract.target}",
        "key": ", ".join(contract.keys) + " (made by PREPARE)" * bool(proposal.row_id),
        "time": contract.time or "none",
        "group": contract.group or "none",
        "features": shown,
    }
    notes = [*proposal.notes, *(f"perhaps {candidate}" for candidate in proposal.candidates)]
    if proposal.n_rejected:
        notes.append(f"{proposal.n_rejected:,} rows break the contract and would be rejected")
    lines = [f"  {name:9} {fact}" for name, fact in facts.items()]
    return "\n".join(["contract:", *lines, *(f"- {note}" for note in notes)])


def _next_command(con: Connection, ingest: params.Ingest) -> str:
    """The command that trains on the source."""
    try:
        reason_to_replace(con, ingest)
    except ProjectError:  # the rows ingested so far come from another source
        return "make ingest RESET=1 pipeline"
    return "make pipeline"


def main() -> None:
    """Print a proposal, or write it."""
    options, settings = _read_options(), params.load()
    if options.write:
        _check_unedited()
    ingest = _choose_source(options, settings.ingest)
    request = Request(options.target, options.key, options.time, options.group, options.task or None)
    with tempfile.TemporaryDirectory() as folder, connect(settings.memory_gb, Path(folder, "raw.db")) as con:
        _load(con, ingest, Path(folder))
        proposal = propose(con, request, settings.validate)
        following = _next_command(con, ingest)
    source = mask_secrets(ingest.source)
    problem = write_problem(proposal, source)
    if options.write:
        _write(proposal, problem, ingest)
        print(f"{_summarize(proposal, source)}\n\nWritten: {os.path.relpath(PROBLEM)}, {TESTS}, params.yaml.")
        print(f"Read problem.py, then run: {following}")
        print("CI trains on the rows of `sample`, which it lacks: README.md, Bring your own data, step 7.")
    else:
        options_text = [f"{name.upper()}={value}" for name in OPTIONS if (value := getattr(options, name))]
        print(f"{problem}\n{_summarize(proposal, source)}\n")
        print(f"Nothing was written. To write it: make contract {shlex.join(options_text)} WRITE=1")


if __name__ == "__main__":
    cli(main)
