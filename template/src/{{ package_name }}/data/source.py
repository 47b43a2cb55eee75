"""Source: remember where the rows of `data/raw.parquet` come from, and notice when that changes."""

import os
import re
from pathlib import Path

from .. import params
from ..contract.tables import Connection, literal
from ..core.errors import ProjectError
from ..core.files import dvc_hash, locked_hashes, readable_json

SAMPLE = params.Ingest()
MASKED = "sig|token|secret|password|pwd|key|credential|expires|date"  # parts of names in an address


def without_secrets(source: str) -> str:
    """A source without passwords and signatures, which may change while it stays the same."""
    no_password = re.sub(r"(://[^:/@]*):[^/@]*@", r"\1:***@", source)
    return re.sub(rf"(?i)([?&][^=&]*(?:{MASKED})[^=&]*)=[^&]*", r"\1=***", no_password)


def identity(ingest: params.Ingest) -> dict[str, str]:
    """What is remembered of a source, in the Parquet metadata of its rows."""
    return {"source": without_secrets(ingest.source), "query": ingest.query or ""}


def former_identity(con: Connection, ingest: params.Ingest, raw: Path) -> dict[str, str]:
    """What is remembered of the source of the rows in `raw`; empty if that is not known."""
    query = f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({literal(raw)})"
    remembered = {name: value for name, value in con.sql(query).fetchall() if name in identity(ingest)}
    if remembered:
        return remembered
    # Before release 0.2.1 nothing was, but DVC knows a hash of the parameters of the last run.
    last = locked_hashes("ingest", "deps").values()
    return next((identity(known) for known in (ingest, SAMPLE) if dvc_hash(readable_json(known)) in last), {})


def reason_to_replace(con: Connection, ingest: params.Ingest, raw: Path) -> str:
    """Say why fetched rows take the place of those in `raw`; empty if they are added to them.

    Raises:
        ProjectError: The source has changed, and only a person knows what is right.
    """
    mode = os.environ.get("INGEST")  # set by `make ingest`
    if not raw.exists() or mode == "keep":
        return ""
    if mode == "reset":
        return "starting anew, because of RESET"
    former, current = former_identity(con, ingest, raw), identity(ingest)
    if former == current:
        return ""
    if former == identity(SAMPLE):
        return "rows of the sample replaced by those of the source"
    names = ("another source", "this one") if not former else (former["source"], current["source"])
    if former.get("source") == current["source"]:
        names = ("another query", "this one")
    raise ProjectError(
        f"ingest: the rows in {raw} come from {names[0]}; params.yaml now names {names[1]}. Nothing was "
        "changed. `make ingest RESET=1` starts anew from the new source; `make ingest KEEP=1` adds its rows "
        "to those that are there: the same table at a new address."
    )
