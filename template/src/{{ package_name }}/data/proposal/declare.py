"""Declare: put columns and roles together, and answer what validation would find."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from ... import params
from ...contract import FEEDBACK_COLUMNS, Column, Contract, Task, tables
from ...contract.dataset import load_dataset
from ...contract.expectations import Kpi
from ...contract.tables import Connection, fetch_one, literal, quote
from ...core.errors import ProjectError
from .. import quality
from ..groups import check_repeated_ids
from ..leakage import AND, MAX_FEATURES_IN_PAIRS, score_features
from ..merge import fold
from . import roles
from .columns import Draft, draft_column
from .profile import Profile, profile_table
from .target import Target, declare_target, propose_kpis

MAX_COPIES = 0.01  # share of rows that equal another one, which validation may reject
CELLS_PER_ROW = 10  # combinations of values: with fewer of them, rows are equal by chance
LEAK_ROUNDS = 3  # each leaves out leaks and searches again: a pair may hide another
MAX_SEGMENTS, SEGMENT_VALUES = 2, range(2, 9)
MIN_SEGMENT_SHARE = 0.02  # of the rows, for the rarest value of a segment
MIN_CARD_SHARE = 0.5  # of the values that pass the check of card numbers: by chance, a tenth do
ROW_TABLES = ("raw", "source", "source_rows")  # names of the table in PREPARE; the first that is no column
ROW_IDS = ("row_id", "row_key", "row_hash", "row_number")  # names of a key that PREPARE makes, likewise
KEEP = 'if it is known earlier, declare accepted={"target leakage": "known earlier"} instead'


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        target: The column to predict.
        key: The columns that identify a row, separated by commas; empty: by the values.
        time: The column that orders the rows; empty without one.
        group: The column that says which rows belong together; empty without one.
        task: classification or regression; None: by the values.
    """

    target: str
    key: str = ""
    time: str = ""
    group: str = ""
    task: Task | None = None

    @property
    def roles(self) -> dict[str, str]:
        """The columns that have one role.

        Returns:
            Names as the user wrote them, by role.
        """
        named = {"target": self.target, "time": self.time, "group": self.group}
        return {role: name for role, name in named.items() if name}


@dataclass
class Proposal:
    """The declarations to write.

    Attributes:
        drafts: The columns, by their name in the source.
        roles: Names in the source: `target`, and `time` and `group` if there are any.
        target: Task and classes.
        key: Names in the source; empty if PREPARE makes the key.
        where: Conditions of PREPARE as SQL, each with the reason.
        notes: What the user should know.
        row_id: The key's column and its SQL, if PREPARE makes it.
        row_id_why: Why and how.
        is_distinct: Whether PREPARE leaves out copies of rows.
        candidates: Comments of the contract: columns that may have a role.
        left_out: Columns of the source that cannot be declared, with their types.
        kpis: KPIs, each with where its threshold comes from.
        n_clean: Number of rows that keep the contract.
        n_rejected: Number of rows that do not.
    """

    drafts: dict[str, Draft]
    roles: dict[str, str]
    target: Target
    key: tuple[str, ...]
    where: dict[str, str]
    notes: list[str]
    row_id: tuple[Column, str] | None = None
    row_id_why: str = ""
    is_distinct: bool = False
    candidates: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    kpis: list[tuple[Kpi, str]] = field(default_factory=list)
    n_clean: int = 0
    n_rejected: int = 0

    def name(self, role: str) -> str | None:
        """Name of the column with a role, in the contract.

        Args:
            role: target, time or group.

        Returns:
            The name; None if no column has the role.
        """
        return self.drafts[self.roles[role]].column.name if role in self.roles else None

    @property
    def contract(self) -> Contract:
        """The contract.

        Returns:
            All columns with their roles.

        Raises:
            ProjectError: No column is a feature.
        """
        row_ids = (self.row_id[0],) if self.row_id else ()
        columns = (*row_ids, *(draft.column for draft in self.drafts.values()))
        names = [column.name for column in row_ids] or [self.drafts[name].column.name for name in self.key]
        try:
            return Contract(
                task=self.target.task,
                key=tuple(names) if len(names) > 1 else names[0],
                target=self.name("target") or "",
                columns=columns,
                time=self.name("time"),
                group=self.name("group"),
            )
        except ProjectError as error:
            if "no column is a feature" not in str(error):
                raise
            kinds = ", ".join(f"{column.name} ({column.kind})" for column in columns[:20])
            raise ProjectError(
                f"no column can be a feature: {kinds}. Key, group and target are none, nor texts that hardly "
                "repeat and columns with one value. Let the source compute numbers or categories, such as "
                "the length of a text or the words it contains."
            ) from None

    @property
    def prepare(self) -> str:
        """The declaration PREPARE.

        Returns:
            SQL from the table `raw` to the contract's columns.
        """
        row_ids = [f"{self.row_id[1]} AS {quote(self.row_id[0].name)}"] if self.row_id else []
        items = [*row_ids, *self._selected()]
        where = [f"{sql} -- {reason}" for sql, reason in self.where.items()]
        if items == ["*"] and not where:
            return "SELECT * FROM raw"
        table = table_name(self.drafts)
        source = "raw" if table == "raw" else f"raw AS {table}"
        source = f"(SELECT DISTINCT * FROM raw) AS {table}" if self.is_distinct else source
        conditions = "\nWHERE\n    " + "\n    AND ".join(where) if where else ""
        return "\nSELECT\n    " + ",\n    ".join(items) + f"\nFROM {source}{conditions}\n"

    def _selected(self) -> list[str]:
        """The columns of the source in the SELECT of PREPARE: those that differ are replaced or renamed."""
        renamed = {name: draft for name, draft in self.drafts.items() if draft.column.name != name}
        replaced = {
            name: draft
            for name, draft in self.drafts.items()
            if name not in renamed and draft.sql != quote(name)
        }
        star = f"* EXCLUDE ({', '.join(map(quote, renamed))})" if renamed else "*"
        if replaced:
            items = ",\n".join(f"        {draft.sql} AS {quote(name)}" for name, draft in replaced.items())
            star += f" REPLACE (\n{items}\n    )"
        return [star, *(f"{draft.sql} AS {quote(draft.column.name)}" for draft in renamed.values())]


def table_name(columns: Collection[str]) -> str:
    """Choose a name for the source's table in PREPARE.

    Args:
        columns: Its columns.

    Returns:
        `raw`, unless a column has that name.
    """
    return next(name for name in ROW_TABLES if name not in columns)


def propose(con: Connection, request: Request, settings: params.Validate) -> Proposal:
    """Propose the declarations for the table `raw`.

    Args:
        con: Connection that has the table.
        request: What the user asks for.
        settings: The limits of validation.

    Returns:
        The proposal.

    Raises:
        ProjectError: A column that the user named does not exist or cannot have its role; there is nothing to
            predict, or nothing to predict it from.
    """
    profiles = profile_table(con)
    if not profiles or not profiles[0].rows:
        raise ProjectError("the source has no rows")
    find = partial(roles.find_column, profiles)
    named = {role: find(name, role.upper()) for role, name in request.roles.items()}
    drafts = {profile.name: draft_column(profile) for profile in profiles if profile.shape != "nested"}
    target = declare_target(con, drafts[named["target"]], request.task, settings.min_class_rows)
    names = [request.key] if request.key in drafts else filter(None, request.key.split(","))
    key = tuple(find(name.strip(), "KEY") for name in names)
    proposal = Proposal(drafts, named, target, key, target.where, target.notes)
    proposal.left_out = {p.name: p.sql_type for p in profiles if p.shape == "nested"}
    _settle_time_and_group(proposal)
    _settle_key(con, proposal, profiles)
    _settle_names(proposal)
    _warn_of_copies(con, proposal)
    _answer_validation(con, proposal, settings)
    _choose_segments(proposal)
    proposal.kpis = list(propose_kpis(con, target, drafts[named["target"]].sql))
    return proposal


def _settle_time_and_group(proposal: Proposal) -> None:
    """Declare time and group, and name the columns that could be the time."""
    for role in ("time", "group"):
        if (name := proposal.roles.get(role)) is None:
            continue
        draft = proposal.drafts[name]
        if role == "group":
            roles.make_identifier(draft)
        elif draft.profile.shape not in ("time", "integer", "number"):
            raise ProjectError(
                f"TIME={name}: {draft.profile.shape} such as {next(iter(draft.profile.counts))!r} cannot be "
                "ordered. A time is a number, or looks like 2026-01-31T14:30:00."
            )
        if draft.profile.missing:
            proposal.where[f"{draft.sql} IS NOT NULL"] = f"{draft.profile.missing:,} rows lack the {role}"
        draft.change(nullable=False)
    if "time" not in proposal.roles:
        proposal.candidates += [
            f"time={draft.column.name!r}: makes the newest rows the test split, as in production"
            for draft in proposal.drafts.values()
            if draft.profile.shape == "time" and draft.profile.distinct > 1
        ]


def _settle_key(con: Connection, proposal: Proposal, profiles: list[Profile]) -> None:
    """Choose the key, or let PREPARE make one."""
    named = proposal.roles
    if proposal.key:
        roles.check_key(con, proposal.key, profiles[0].rows)
    else:
        candidates = [draft for name, draft in proposal.drafts.items() if name != named["target"]]
        proposal.key = roles.choose_key(con, candidates, named.get("time", ""), named.get("group", ""))
    if not proposal.key:
        _make_key(con, proposal, profiles)
    for name in proposal.key:
        draft = proposal.drafts[name]
        is_entity = len(proposal.key) > 1 and name not in named.values()
        if is_entity and draft.column.kind == "category" and not draft.profile.missing:
            draft.change("tells series apart, so the model may see it", unknown="reject", feature=True)
            draft.change(nullable=False)
        elif name != named.get("group"):
            roles.make_identifier(draft)
        if name == named.get("time"):
            draft.change(feature=None)


def _make_key(con: Connection, proposal: Proposal, profiles: list[Profile]) -> None:
    """Let PREPARE make the key: a hash of the row, or its number if rows are equal by chance."""
    rows, table = profiles[0].rows, table_name(proposal.drafts)
    n_copies = rows - fetch_one(con, "SELECT count(*) FROM (SELECT DISTINCT * FROM raw)")[0]
    name = next(name for name in ROW_IDS if name not in map(fold, proposal.drafts))
    proposal.row_id = Column(name, "text", description="Hash of the row."), f"md5({table}::VARCHAR)"
    how = "a hash of the row; of equal rows, the first is kept"
    if n_copies > MAX_COPIES * rows:
        cells = math.prod(max(1, profile.distinct) for profile in profiles)
        if cells <= CELLS_PER_ROW * rows:
            number = Column(name, "integer", feature=False, description="Number of the row.")
            proposal.row_id = number, "row_number() OVER ()"
            how = "the number of the row; keys change if the order of the source does"
        else:
            proposal.is_distinct = True
            how = f"a hash of the row; {n_copies:,} rows that equal another one are left out (DISTINCT)"
    proposal.row_id_why = (
        f"No column identifies a row, so this makes the key: {how}. Each ingest replaces all rows, because "
        "known ones cannot be found in the source."
    )
    proposal.notes.append(f"{proposal.row_id_why} If the source has a key: KEY=…")


def _warn_of_copies(con: Connection, proposal: Proposal) -> None:
    """Note rows that differ by their key only, of which test and training split would share some."""
    if "time" in proposal.roles or proposal.row_id:
        return
    keys = ", ".join(map(quote, proposal.key))
    counts = f"SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT * EXCLUDE ({keys}) FROM raw)) FROM raw"
    n_rows, n_distinct = fetch_one(con, counts)
    if n_rows - n_distinct > MAX_COPIES * n_rows:
        proposal.notes.append(
            f"{n_rows - n_distinct:,} rows equal another one in all but the key. If that is natural, because "
            "few columns have few values, set split.max_overlap_share to 1. If not, correct the source."
        )


def _settle_names(proposal: Proposal) -> None:
    """Rename columns whose name differs from another by case only, and a target with a name of feedback."""
    taken = {proposal.row_id[0].name} if proposal.row_id else set()
    for source, draft in proposal.drafts.items():
        column, not_free = draft.column, FEEDBACK_COLUMNS if source == proposal.roles["target"] else ()
        while _inputs(column) & {*taken, *not_free}:
            column = replace(column, name=f"{column.name}_2")
        if column.name != draft.profile.name:
            draft.change(f"renamed from {draft.profile.name!r}, see PREPARE", name=column.name)
        taken |= _inputs(column)


def _inputs(column: Column) -> set[str]:
    """The names that a column takes, in a form that ignores case."""
    return {name.casefold() for name in (column.name, *column.encoded_names)}


def _answer_validation(con: Connection, proposal: Proposal, settings: params.Validate) -> None:
    """Check the rows as `validate` does, and declare what it would find."""
    with TemporaryDirectory() as folder:
        clean = Path(folder, "clean.parquet")
        _write_clean(con, proposal, clean)
        contract = proposal.contract
        for check in quality.check_personal_data(con, literal(clean), contract):
            if check.status == "fail":
                _hide(proposal, check.subject, check.message)
        for check in check_repeated_ids(con, contract, literal(clean), "raw"):
            if check.status == "warn":
                proposal.candidates.append(f"group={check.subject!r}: {check.message}")
        if proposal.contract != contract:
            _write_clean(con, proposal, clean)
        _leave_out_leaks(con, proposal, clean, settings.max_leakage_score)


def _write_clean(con: Connection, proposal: Proposal, clean: Path) -> None:
    """Write the rows that keep the contract, in its types."""
    contract = proposal.contract
    con.sql(proposal.prepare).to_view("prepared")
    columns = ", ".join(f"{tables.cast_column(column)} AS {quote(column.name)}" for column in contract.kept)
    is_valid = f"len({tables.rejection_reasons(contract.columns)}) = 0"
    con.sql(f"COPY (SELECT {columns} FROM prepared WHERE {is_valid}) TO {literal(clean)}")
    counts = f"SELECT (SELECT count(*) FROM prepared), (SELECT count(*) FROM {literal(clean)})"
    n_rows, proposal.n_clean = fetch_one(con, counts)
    proposal.n_rejected = n_rows - proposal.n_clean


def _hide(proposal: Proposal, name: str, message: str) -> None:
    """Drop a personal column, or hash it if it is key or group."""
    source, draft = next((s, d) for s, d in proposal.drafts.items() if d.column.name == name)
    n_found, n_searched = int(message.split()[0]), min(draft.profile.distinct, quality.MAX_MATCHES)
    if "card numbers" in message and n_found < MIN_CARD_SHARE * n_searched:
        draft.change("a tenth of all long numbers pass the check of card numbers", personal=False)
    elif source in (*proposal.key, proposal.roles.get("group")):
        draft.sql = f"md5({draft.sql})"
        draft.why.append(f"{message}: PREPARE hashes them")
    else:
        draft.change(f"{message}: dropped; personal=False if they are harmless", personal=True)
        proposal.notes.append(f"{name!r} is dropped: {message}")


def _leave_out_leaks(con: Connection, proposal: Proposal, clean: Path, limit: float) -> None:
    """Declare features that reveal the target as not known at prediction."""
    sample, key = clean.with_name("sample.parquet"), tables.key_text(proposal.contract)
    drawn = f"FROM {literal(clean)} ORDER BY hash({key}) LIMIT {quality.LEAKAGE_ROWS}"
    con.sql(f"COPY ({drawn}) TO {literal(sample)}")
    drafts = {draft.column.name: draft for draft in proposal.drafts.values()}
    for _ in range(LEAK_ROUNDS):
        contract = proposal.contract
        leaks = find_leaks(score_features(load_dataset(sample, contract), limit), limit)
        if not leaks or len(leaks) == len(contract.features):
            return
        for name, why in leaks.items():
            drafts[name].change(f"{why}; {KEEP}", known_at_prediction=False)
            proposal.notes.append(f"{name!r} is left out of the features: {why}; {KEEP}")
        if len(contract.features) <= MAX_FEATURES_IN_PAIRS:
            return  # all pairs were tried


def find_leaks(scores: dict[str, float], limit: float) -> dict[str, str]:
    """Choose the features to leave out.

    Args:
        scores: Score by feature (`a`) or pair (`a and b`).
        limit: Score from which a feature or a pair is taken for a leak.

    Returns:
        The reason by feature; of a pair, that with the higher score.
    """
    leaks: dict[str, str] = {}
    for name in sorted(scores, key=scores.__getitem__, reverse=True):
        if scores[name] < limit:
            break
        parts = name.split(AND)
        splits = ((AND.join(parts[:at]), AND.join(parts[at:])) for at in range(1, len(parts)))
        pair = next((pair for pair in splits if all(half in scores for half in pair)), (name,))
        if not leaks.keys() & set(pair):
            stronger = max(pair, key=scores.__getitem__)
            partner = "".join(f"together with {other!r}, " for other in pair if other != stronger)
            leaks[stronger] = f"{partner}it predicts the target with a score of {scores[name]:.2f}"
    return leaks


def _choose_segments(proposal: Proposal) -> None:
    """Report metrics by the values of the first columns that have few values, each in many rows."""
    features = {column.name for column in proposal.contract.features}
    chosen = 0
    for draft in proposal.drafts.values():
        column, counts = draft.column, draft.profile.counts
        is_group = column.kind in ("category", "boolean") and column.length is None
        if column.name not in features or not is_group or len(counts) not in SEGMENT_VALUES:
            continue
        if chosen < MAX_SEGMENTS and min(counts.values()) >= MIN_SEGMENT_SHARE * draft.profile.rows:
            draft.change(segment=True)
            chosen += 1
