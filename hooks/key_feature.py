"""Keep a project's model: up to 0.3.0, a key that is an integer or a category was a feature by default.

    key_feature.py src/<package>/problem.py

This runs in the project, as a migration after an update to 0.4.0. To a contract that says nothing, it adds
`key_is_feature=True` as a line of its own, and prints what to set; if it cannot read the contract, it prints.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FEATURE_KINDS = ("integer", "category", "time")
ADVICE = (
    "If the key only identifies rows, delete that: it is then no feature, and the new model is not compared "
    "with this one."
)


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Yield the calls of a function or class by its plain name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Return the expression of an argument, given by name or by position."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    if named is None and position is not None and position < len(call.args):
        return call.args[position]
    return named


def constant(expression: ast.expr | None) -> object:
    """Return the value of a constant; None for any other expression."""
    return expression.value if isinstance(expression, ast.Constant) else None


def key_is_feature(tree: ast.Module, contract: ast.Call) -> bool | None:
    """Whether 0.3.0 took the key for a feature; None if the source does not say."""
    key, time = constant(argument(contract, "key", 1)), constant(argument(contract, "time", 4))
    if argument(contract, "key_is_feature", 5) is not None or (key is not None and key == time):
        return False
    column = next(
        (call for call in calls(tree, "Column") if constant(argument(call, "name", 0)) == key), None
    )
    if key is None or column is None:
        return None
    excluded = {"feature": False, "known_at_prediction": False, "personal": True}
    if any(constant(argument(column, name)) is value for name, value in excluded.items()):
        return False
    return constant(argument(column, "kind", 1)) in FEATURE_KINDS


def add_argument(text: str, contract: ast.Call) -> str | None:
    """Return the source with `key_is_feature=True` before the key; None if the key has no line of its own."""
    key = next((keyword for keyword in contract.keywords if keyword.arg == "key"), None)
    lines = text.splitlines(keepends=True)
    if key is None or not lines[key.lineno - 1].lstrip().startswith("key"):
        return None
    indent = lines[key.lineno - 1][: key.col_offset]
    end = "\r\n" if lines[key.lineno - 1].endswith("\r\n") else "\n"
    lines.insert(key.lineno - 1, f"{indent}key_is_feature=True,{end}")
    return "".join(lines)


def migrate(path: Path) -> str:
    """Keep the key as a feature of one contract.

    Args:
        path: problem.py.

    Returns:
        What was done and what to set; empty if nothing changes for the project.
    """
    text = path.read_bytes().decode()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return f"{path} cannot be read. If the key of its contract is a feature, set key_is_feature=True."
    contract = next(calls(tree, "Contract"), None)
    is_feature = key_is_feature(tree, contract) if contract else None
    if is_feature is False:
        return ""
    changed = add_argument(text, contract) if contract and is_feature else None
    if changed is None:
        return (
            f"{path}: a key is a feature from now on only if the contract says so. "
            f"If it is one of your model, set key_is_feature=True in the contract. {ADVICE}"
        )
    path.write_bytes(changed.encode())
    return f"{path}: key_is_feature=True keeps your model as it is. {ADVICE}"


def main() -> None:
    """Migrate the problem.py that the command line names, if the project has it."""
    path = Path(sys.argv[1])
    if path.is_file() and (message := migrate(path)):
        print(f"key_feature: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
