"""Status: which model is in production, which one is here, and what is missing. Reads only."""

from pathlib import Path

from ..core.errors import ProjectError, cli
from ..core.files import locked_outputs, read_json
from ..core.git import changes
from ..core.paths import BUNDLE_REPORT, GATE_REPORT, MONITORING_REPORT, RESULTS
from ..model import registry
from ..monitoring.report import Monitoring


def _production() -> str:
    """The model in production."""
    tag = registry.find_production_tag()
    return f"{registry.read_report(BUNDLE_REPORT, tag)['version']} ({tag})" if tag else "none yet"


def _model() -> str:
    """The model of the last run, and whether git has its results."""
    if not BUNDLE_REPORT.exists():
        return "none yet: make pipeline"
    state = "results not committed" if changes(RESULTS) else "results committed"
    return f"{read_json(BUNDLE_REPORT)['version']} ({state})"


def _verdict() -> str:
    """The gate's verdict on that model."""
    if not GATE_REPORT.exists():
        return "none yet: make gate"
    gate, version = read_json(GATE_REPORT), read_json(BUNDLE_REPORT)["version"]
    if gate["model_version"] != version:
        return f"none yet: make gate ({GATE_REPORT} judges model {gate['model_version']})"
    return f"{gate['verdict']} ({GATE_REPORT.with_suffix('.md')})"


def _data() -> str:
    """Whether data and bundle are here."""
    missing = [path for path in locked_outputs() if not Path(path).exists()]
    return f"{', '.join(missing)} missing: make pull" if missing else "here"


def _monitoring() -> str:
    """What the last look at production has found."""
    if not MONITORING_REPORT.exists():
        return "no report here: make monitor"
    report = read_json(MONITORING_REPORT, Monitoring)
    drifted = ", ".join(reason.subject for reason in report.reasons if reason.check == "drift") or "none"
    time = f"{report.created_at:%Y-%m-%d %H:%M} UTC"
    return f"{report.status} at {time}, model {report.model_version}, drift: {drifted}"


LINES = {
    "in production": _production,
    "model here": _model,
    "verdict": _verdict,
    "data and bundle": _data,
    "monitoring": _monitoring,
}


def main() -> None:
    """Print a line for each."""
    for name, describe in LINES.items():
        try:
            text = describe()
        except ProjectError as error:
            text = f"cannot tell: {error}"
        print(f"{name + ':':17}{text}")


if __name__ == "__main__":
    cli(main)
