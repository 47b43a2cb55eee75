"""Roles: find the columns that the user named, and those that could identify or order the rows."""

import difflib
from collections.abc import Iterable
from itertools import combinations

from ...contract import Column, Kind
from ...contract.tables import Connection, fetch_one, quote
from ...core.errors import ProjectError
from ..groups import looks_like_id
from ..merge import fold
from .columns import Draft
from .profile import MAX_VALUES, Profile

MAX_DUPLICATES = 0.01  # share of rows whose key another row has; validation rejects them
MAX_ENTITIES = 12  # columns that are tried, alone and in pairs, beside the time
INDEX_NAMES = ("rownames", "index", "row", "rowid", "row_id", "unnamed: 0", "column0", "key", "nr", "no")
ID_SHAPES = ("integer", "text")


def find_column(profiles: list[Profile], name: str, option: str) -> str:
    """Find a column that the user named.

    Args:
        profiles: All columns.
        name: Its name, in any case.
        option: The option of `make contract`, for the message.

    Returns:
        The name as the source writes it.

    Raises:
        ProjectError: There is no such column, or its type has no kind in a contract.
    """
    names = {profile.name: profile for profile in profiles}
    by_case = {fold(column): column for column in names}
    column = name if name in names else by_case.get(fold(name))
    if column is None:
        near = difflib.get_close_matches(name, names, 3) or [*names][:50]
        raise ProjectError(f"{option}: the source has no column {name!r}. Did you mean {', '.join(near)}?")
    if names[column].shape in ("nested", "empty"):
        content = "no value" if names[column].shape == "empty" else f"the type {names[column].sql_type}"
        raise ProjectError(f"{option}: column {column!r} has {content}. Name another column.")
    return column


def choose_key(con: Connection, drafts: list[Draft], time: str, group: str) -> tuple[str, ...]:
    """Search for columns that identify a row.

    Args:
        con: Connection that has the table `raw`.
        drafts: All columns but the target.
        time: The time; empty without one.
        group: The group; empty without one.

    Returns:
        One column that is unique by its name and values; with a time, the time alone or with one or two
        columns that tell series apart. Empty if there are none.
    """
    profiles = [draft.profile for draft in drafts]
    for profile in profiles:
        if not profile.is_unique or profile.shape not in ID_SHAPES:
            continue
        is_index = fold(profile.name) in INDEX_NAMES or profile is profiles[0]
        if looks_like_id(profile.name) or (is_index and _is_short(profile)):
            return (profile.name,)
    if not time or any(p.name == time and p.shape == "number" and not p.is_whole for p in profiles):
        return ()  # a fraction cannot be a key
    repeated = [draft.profile.name for draft in drafts if _tells_series_apart(draft)]
    candidates = [name for name in repeated if name not in (time, group)]
    entities = ([group] if group else []) + candidates[:MAX_ENTITIES]
    tried = [(), *((name,) for name in entities), *combinations(entities, 2)]
    return next(((time, *key) for key in tried if not count_duplicates(con, (time, *key))), ())


def _is_short(profile: Profile) -> bool:
    """Whether values are short enough for a key, and an integer counts the rows."""
    if profile.shape == "integer":
        return profile.high - profile.low + 1 == profile.rows
    return all(len(text) <= 64 for text in profile.counts)


def _tells_series_apart(draft: Draft) -> bool:
    """Whether a column may hold the name of a series of a panel, all of which the contract can list."""
    profile = draft.profile
    if draft.column.kind == "category" and profile.distinct > MAX_VALUES:
        return False
    repeats = not profile.missing and 1 < profile.distinct <= profile.rows / 2
    is_id = profile.shape == "integer" and looks_like_id(profile.name)
    return repeats and (profile.shape == "text" or is_id)


def count_duplicates(con: Connection, key: Iterable[str]) -> int:
    """Count rows without a key of their own.

    Args:
        con: Connection that has the table `raw`.
        key: Names of columns.

    Returns:
        The number of rows, less the number of distinct keys without a missing value.
    """
    columns = ", ".join(map(quote, key))
    present = " AND ".join(f"{quote(name)} IS NOT NULL" for name in key)
    distinct = f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM raw WHERE {present})"
    return fetch_one(con, f"SELECT (SELECT count(*) FROM raw) - ({distinct})")[0]


def check_key(con: Connection, key: tuple[str, ...], rows: int) -> None:
    """Check the key that the user named.

    Args:
        con: Connection that has the table `raw`.
        key: Names of columns.
        rows: Number of rows.

    Raises:
        ProjectError: Too many rows share their key.
    """
    duplicates = count_duplicates(con, key)
    if duplicates > MAX_DUPLICATES * rows:
        names = ",".join(key)
        raise ProjectError(
            f"KEY={names} does not identify a row: {duplicates:,} of {rows:,} rows have no key of their own. "
            f"Add columns (KEY={names},…), or leave KEY out; if it names a customer, patient or machine with "
            f"several rows, it is a group: GROUP={key[0]}."
        )


def make_identifier(draft: Draft) -> None:
    """Make a column fit to be key or group: a text or an integer that is never missing.

    Args:
        draft: The column, changed in place.
    """
    shape, value = draft.profile.shape, draft.sql
    kind: Kind = "time" if shape == "time" else "text"
    if shape == "integer" or (shape == "number" and draft.profile.is_whole):
        kind = "integer"
    if shape == "number":
        whole = f"TRY_CAST(TRY_CAST({value} AS DOUBLE) AS BIGINT)"
        draft.sql = whole if kind == "integer" else f"({value})::VARCHAR"
    draft.why.clear()
    draft.column = Column(draft.column.name, kind, feature=False if kind == "integer" else None)
