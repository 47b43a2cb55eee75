"""Prediction events and labels: the names of their columns, folders and roles.

An event is one row of a request. It has the columns of `COLUMNS`, one for each number of
`Contract.monitored_names` (`feature:tenure`), and one for each output (`output:Yes`).
"""

from . import Contract

OPTIONAL_COLUMNS = {
    "group": "UBIGINT",  # hash of the row's value of `Contract.group`
    "client": "UBIGINT",  # hash of the header x-client-id, by which a gateway splits clients
    "rejected_column": "VARCHAR",  # status 422: the first column that breaks a rule, or "other"
}
"""Event columns that may be NULL and that servers before 0.4 do not write, with their SQL types."""
COLUMNS = ("id", "row", "time", "seconds", "status", "model_version", "role", *OPTIONAL_COLUMNS)

CHAMPION = "champion"
CHALLENGER = "challenger"
FALLBACK = "fallback"  # the champion, for a challenger that did not answer
FALLBACK_0_2 = "stand-in"  # the same role in events and headers of 0.2
ROLES = (CHAMPION, CHALLENGER, FALLBACK)

# Labels lie beside the events of the requests that they belong to.
LABELS_FOLDER = "labels"
LABELS_FOLDER_0_2 = "truth"
LABEL_TIME = "received_at"
LABEL_TIME_0_2 = "told_at"

_FEATURE, _OUTPUT = "feature:", "output:"


def feature_column(name: str) -> str:
    """Return the event column of a feature.

    Args:
        name: Name of the feature, one of `Contract.monitored_names`.

    Returns:
        The column's name.
    """
    return _FEATURE + name


def output_column(label: str) -> str:
    """Return the event column of an output.

    Args:
        label: Name of the output, one of `Contract.labels`.

    Returns:
        The column's name.
    """
    return _OUTPUT + label


def feature_columns(contract: Contract) -> list[str]:
    """Return the event columns of all features.

    Args:
        contract: The contract of the model.

    Returns:
        The columns' names, in the order of `Contract.monitored_names`.
    """
    return [feature_column(name) for name in contract.monitored_names]


def output_columns(contract: Contract) -> list[str]:
    """Return the event columns of all outputs.

    Args:
        contract: The contract of the model.

    Returns:
        The columns' names, in the order of `Contract.labels`.
    """
    return [output_column(label) for label in contract.labels]


def is_output(column: str) -> bool:
    """Tell whether an event column holds an output.

    Args:
        column: Name of an event column.

    Returns:
        True for an output, False for a feature and every other column.
    """
    return column.startswith(_OUTPUT)


def plain_name(column: str) -> str:
    """Return the name of a feature or label without the prefix of its event column.

    Args:
        column: Event column of a feature or an output.

    Returns:
        The name as the contract spells it.
    """
    return column.partition(":")[2]
