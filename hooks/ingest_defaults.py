"""Keep what a project stores: up to 0.4, `ingest` stored all columns as the source has them.

    ingest_defaults.py params.yaml

This runs in the project, as a migration after an update to 0.5.0. It adds both settings to the section
`ingest`, as lines of their own where it can, and says so; if it cannot read the file, it says what to set.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH, which hooks/fleet.py sets, leaves it out
from moved import RECORD, is_unaware

SETTINGS = {"keep_undeclared": True, "personal": "keep"}
ADVICE = (
    "Delete keep_undeclared to store only columns that the contract or PREPARE names, and personal to mask "
    "personal columns; then fetch all rows again: make ingest RESET=1."
)


def write_settings(settings: Mapping[str, object]) -> list[str]:
    """Return settings as YAML."""
    return [f"{name}: {json.dumps(value) if value is True else value}" for name, value in settings.items()]


def add_settings(text: str, settings: Mapping[str, object]) -> str:
    """Return params.yaml with settings at the start of `ingest`, as the section is written."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    index = next((number for number, line in enumerate(lines) if re.match(r"ingest\s*:", line)), None)
    if index is None:
        newline = "" if not text or text.endswith("\n") else end
        return text + newline + end.join(["ingest:", *(f"  {line}" for line in write_settings(settings)), ""])
    if flow := re.match(r"(ingest\s*:\s*\{)(.*)", lines[index], re.DOTALL):
        lines[index] = f"{flow[1]}{', '.join(write_settings(settings))}, {flow[2]}"
        return "".join(lines)
    if not lines[index].endswith("\n"):
        lines[index] += end
    child = next((line for line in lines[index + 1 :] if re.match(r"\s*[^#\s]", line)), "")
    indent = child[: len(child) - len(child.lstrip(" "))] or "  "
    written = [f"{indent}{line}{end}" for line in write_settings(settings)]
    return "".join([*lines[: index + 1], *written, *lines[index + 1 :]])


def read_sections(text: str) -> dict[str, Any] | None:
    """Return the content of params.yaml; None if it is none."""
    try:
        sections = yaml.safe_load(text) or {}
        return sections | {"ingest": sections.get("ingest") or {}}
    except (yaml.YAMLError, TypeError, AttributeError):
        return None


def record(path: Path, before: str, after: str) -> bool:
    """Tell `make update` of a line that was changed, which is not lost; False if it would not know."""
    changed = [line for line in before.splitlines() if line not in after.splitlines()]
    if RECORD in os.environ:
        with Path(os.environ[RECORD]).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([str(path), line]) + "\n" for line in changed)
    return not changed or RECORD in os.environ or not is_unaware()


def migrate(path: Path) -> str:
    """Keep the columns that a project stores.

    Args:
        path: params.yaml.

    Returns:
        What was done, or what to set; empty if nothing changes for the project.
    """
    text = path.read_bytes().decode()
    sections = read_sections(text)
    present = sections["ingest"] if sections and isinstance(sections["ingest"], dict) else None
    settings = {name: value for name, value in SETTINGS.items() if name not in (present or ())}
    if not settings:
        return ""
    names = " and ".join(write_settings(settings))
    if sections is not None and present is not None:
        changed = add_settings(text, settings)
        is_right = read_sections(changed) == sections | {"ingest": present | settings}
        if is_right and record(path, text, changed):
            path.write_bytes(changed.encode())
            return f"{path}: {names} in `ingest` keep what this project stores. {ADVICE}"
    return (
        f"{path} could not be changed. To keep what this project stores, set {names} in `ingest`. Otherwise "
        "columns that neither contract nor PREPARE names are no longer stored, and personal ones are masked."
    )


def main() -> None:
    """Migrate the params.yaml that the command line names, if the project has it."""
    path = Path(sys.argv[1])
    if path.is_file() and (message := migrate(path)):
        print(f"ingest_defaults: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
