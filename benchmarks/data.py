"""Ingestion, validation and split of many rows, against a bare read of the same file."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from .demo import answers, python
from .lab import Cost, Lab, cost
from .table import Row, Target

STAGES = ("ingest", "validate", "split")
MEMORY = Target("≤", 4, "GiB")
NEW_ROWS = 1_000
GROWTH = Target("≤", 2, "x")
"""What ingesting new rows onto many may cost, against ingesting them onto nothing."""
LINEAR = 1.2
"""Time may grow by so much more than rows do: one run of each size, on a machine with other work."""

# The sample's rows again and again, each with a key of its own and charges a little different.
MANY_ROWS = """
import sys
import duckdb

sample, count, target, prefix = sys.argv[1:]
con = duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": "false"})
con.sql(f"CREATE TABLE sample AS SELECT *, row_number() OVER () - 1 AS i FROM '{sample}'")
((rows,),) = con.sql("SELECT count(*) FROM sample").fetchall()
con.sql(f'''
    COPY (
        SELECT * EXCLUDE (i) REPLACE (
            'C' || hash(range) || '{prefix}' AS customer_id,
            round(monthly_charges + random() * 5, 2) AS monthly_charges,
            round(total_charges + random() * 500, 2) AS total_charges)
        FROM range({count}) JOIN sample ON range % {rows} = i
    ) TO '{target}'
''')
"""
BARE_READ = "import pandas, sys; pandas.read_parquet(sys.argv[1])"


def rows(lab: Lab) -> Iterator[Row]:
    """Measure each size, and how time grows from the first to the last."""
    totals = []
    for count in lab.row_counts:
        source = many_rows(lab, count)
        with lab.steps.step(f"{count:,} rows: bare read"):
            read = cost([interpreter(lab), "-c", BARE_READ, source], lab.folder)
        costs = {name: stage(lab, name, count, source) for name in STAGES}
        yield from figures(f"{count:,} rows", costs, read)
        yield from new_rows(lab, count, source)
        totals.append(sum(each.seconds for each in costs.values()))
        source.unlink()
    if len(totals) > 1:
        yield growth(lab.row_counts[0], totals[0], lab.row_counts[-1], totals[-1])


def new_rows(lab: Lab, count: int, source: Path) -> Iterator[Row]:
    """Ingest new rows onto nothing and onto the many; DVC's cache grows by those rows."""
    few = many_rows(lab, NEW_ROWS, "new")
    onto_nothing = [stage(lab, "ingest", NEW_ROWS, few) for _ in fresh(few, 3)]
    tracked(lab, source.parent)
    before = cache_size(source.parent)
    onto_many = []
    for round_ in range(3):
        # Among the stored keys in order, or the statistics of the file alone would rule them all out.
        write_rows(lab, NEW_ROWS, source, f"{round_}N")
        onto_many.append(stage(lab, "ingest", count, source))
    tracked(lab, source.parent)
    name = f"{NEW_ROWS:,} new rows onto {count:,}"
    seconds, peer = (statistics.median(c.seconds for c in costs) for costs in (onto_many, onto_nothing))
    yield Row(f"{name}: ingest", seconds, "s", "onto nothing", peer, GROWTH)
    grown = (cache_size(source.parent) - before) / len(onto_many)
    alone = sum(path.stat().st_size for path in (few.parent / "data/raw").iterdir())
    yield Row(f"{name}: growth of the cache", grown / 1e6, "MB", "the rows alone", alone / 1e6, GROWTH)
    shutil.rmtree(few.parent)


def fresh(source: Path, rounds: int) -> Iterator[None]:
    """Remove what was ingested before each round."""
    for _ in range(rounds):
        shutil.rmtree(source.parent / "data", ignore_errors=True)
        yield


def tracked(lab: Lab, folder: Path) -> None:
    """Put the ingested rows into DVC's cache, as the pipeline does."""
    with lab.steps.step("dvc add"):
        if not (folder / ".dvc").exists():
            cost([interpreter(lab), "-m", "dvc", "init", "--no-scm", "--quiet"], folder)
        cost([interpreter(lab), "-m", "dvc", "add", "--quiet", "data/raw"], folder)


def cache_size(folder: Path) -> int:
    """Bytes in DVC's cache."""
    return sum(path.stat().st_size for path in (folder / ".dvc/cache").rglob("*") if path.is_file())


def many_rows(lab: Lab, count: int, name: str = "rows") -> Path:
    """Write a table of so many customers, and parameters that name it as the source."""
    folder = lab.folder / f"{name}-{count}"
    folder.mkdir()
    source = folder / "source.parquet"
    write_rows(lab, count, source, "")
    (folder / "params.yaml").write_text(json.dumps({"ingest": {"source": str(source)}}))
    return source


def write_rows(lab: Lab, count: int, target: Path, prefix: str) -> None:
    """Write so many customers whose keys start with the prefix."""
    with lab.steps.step(f"{count:,} rows: write"):
        sample = lab.journey.project / "data/raw/*.parquet"
        python(lab.journey.project, "-c", MANY_ROWS, sample, str(count), target, prefix)


def stage(lab: Lab, name: str, count: int, source: Path) -> Cost:
    """Run one of the project's stages in the source's folder."""
    package = answers(lab.journey.project)["package_name"]
    with lab.steps.step(f"{count:,} rows: {name}"):
        return cost([interpreter(lab), "-m", f"{package}.data.{name}"], source.parent)


def interpreter(lab: Lab) -> Path:
    """The project's Python."""
    return lab.journey.project / ".venv/bin/python"


def figures(size: str, costs: dict[str, Cost], read: Cost) -> Iterator[Row]:
    """Time and memory of the stages, single and together."""
    bare = "pandas.read_parquet"
    for name, each in costs.items():
        yield Row(f"{size}: {name}", each.seconds, "s", bare, read.seconds)
    total, peak = sum(c.seconds for c in costs.values()), max(c.peak_gib for c in costs.values())
    yield Row(f"{size}: {', '.join(costs)}", total, "s", bare, read.seconds)
    yield Row(f"{size}: peak memory", peak, "GiB", bare, read.peak_gib, MEMORY)


def growth(few: int, short: float, many: int, long: float) -> Row:
    """Time of the most rows, against that of the fewest: linear is as many times as there are rows."""
    target = Target("≤", round(LINEAR * many / few, 2), "x")
    return Row(f"{many:,} rows: growth of time", long, "s", f"{few:,} rows", short, target)
