"""Rewrite a project's imports of modules and names that a release moved.

Python files and notebooks are read. Only import statements change, and in them only the parts that name
something that moved; comments stay. An import is reported and left if the code below it would have to
change too, because it spells out the old module.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
HEADER = re.compile(r"from(?P<before>[\s\\]*)(?P<module>.*?)(?P<after>[\s\\]*)(?<!\w)import\b", re.S)
MAGIC = re.compile(r"^([ \t]*)[%!]", re.M)

Edit = tuple[int, int, str]
"""A replacement: first character, character after the last, new text."""


@dataclass(frozen=True)
class Moves:
    """What a release moved inside of a package; modules are dotted paths below it.

    Attributes:
        package: the package's name.
        modules: new module of each old one.
        names: new `module.name` of each name that did not go with its old module, or has another name.
        present: the package's modules and folders after the update.
    """

    package: str
    modules: dict[str, str]
    names: dict[str, str]
    present: frozenset[str] = frozenset()

    def locate(self, module: str, name: str) -> tuple[str, str]:
        """Return the module and the name under which `module.name` is imported now."""
        path = f"{module}.{name}".lstrip(".")
        if path in self.modules:
            path = self.modules[path]
        elif path in self.names:
            path = self.names[path]
        else:
            return self.modules.get(module, module), name
        home, _, renamed = path.rpartition(".")
        return home, renamed

    def is_split(self, module: str) -> bool:
        """Whether some names of an old module went elsewhere than the module, or were renamed."""
        return any(name.rpartition(".")[0] == module for name in self.names)

    def knows(self, path: str) -> bool:
        """Whether a dotted path is a module of before or after the update."""
        return path in self.modules or path in self.present


@dataclass
class Source:
    """A Python source that is being rewritten.

    Attributes:
        text: the source.
        moves: what moved.
        folders: the file's folder in the package, and the one that it moved from; outside of it, none.
        is_notebook: whether lines may be commands of IPython.
        edits: the replacements so far.
        problems: line and reason of each import that has to be changed by hand.
    """

    text: str
    moves: Moves
    folders: tuple[str, ...] = ()
    is_notebook: bool = False
    edits: list[Edit] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A command becomes a comment of the same length, so that positions hold.
        self.code = MAGIC.sub(r"\1#", self.text) if self.is_notebook else self.text
        self.tree = ast.parse(self.code)
        self.lines = [match[0] for match in LINE.finditer(self.text)]
        self.starts = [match.start() for match in LINE.finditer(self.text)]

    def offset(self, line: int, column: int) -> int:
        """Convert a position of `ast` (a line from 1, a column in UTF-8 bytes) to an index of the text."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.stmt | ast.alias) -> tuple[int, int]:
        """Return where a node begins and ends in the text."""
        first = self.offset(node.lineno, node.col_offset)
        return first, self.offset(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def comments(self, first: int, last: int) -> Iterator[tuple[int, str]]:
        """Yield position and text of the comments in a span."""
        for token in tokenize.generate_tokens(io.StringIO(self.code, newline="").readline):
            place = self.starts[token.start[0] - 1] + token.start[1] if token.type == tokenize.COMMENT else -1
            if first <= place < last:
                yield place, token.string

    def used_attributes(self, name: str) -> set[str]:
        """Return the attributes that the source uses of a name."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))
        return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == name}

    def module_home(self, module: str, name: str) -> str:
        """Return the new module that has every name used of an old module; empty if there is not one.

        Args:
            module: the old module.
            name: the name by which the source calls it.
        """
        if not self.moves.is_split(module):
            return self.moves.modules.get(module, module)
        used = self.used_attributes(name)
        places = {attribute: self.moves.locate(module, attribute) for attribute in used}
        homes = {home for home, _ in places.values()} or {self.moves.modules.get(module, module)}
        is_one = len(homes) == 1 and all(new == old for old, (_, new) in places.items())
        return homes.pop() if is_one else ""

    def report(self, node: ast.stmt, module: str) -> None:
        """Note an import that has to be changed by hand."""
        names = self.moves.names.items()
        homes = {new.rpartition(".")[0] for old, new in names if old.rpartition(".")[0] == module}
        homes = sorted({self.moves.modules.get(module, module), *homes})
        homes = ", ".join(f"{self.moves.package}.{home}" for home in homes)
        self.problems.append(
            (node.lineno, f"{self.moves.package}.{module} is now {homes}: change it by hand")
        )

    def rewrite(self) -> str:
        """Return the text with all imports rewritten."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self._rewrite_import(node)
            elif isinstance(node, ast.ImportFrom):
                self._rewrite_from(node)
        text = self.text
        for first, last, replacement in sorted(self.edits, reverse=True):
            text = text[:first] + replacement + text[last:]
        return text

    def _rewrite_import(self, node: ast.Import) -> None:
        """Rewrite `import package.module as name`."""
        for alias in node.names:
            package, _, module = alias.name.partition(".")
            if package != self.moves.package or module not in self.moves.modules:
                continue
            home = self.module_home(module, alias.asname) if alias.asname else ""
            if home:
                self.edits.append((*self.span(alias), f"{package}.{home} as {alias.asname}"))
            else:
                self.report(node, module)

    def _rewrite_from(self, node: ast.ImportFrom) -> None:
        """Rewrite `from module import names`, as several statements if the names went to several modules."""
        module = self._resolve(node)
        if module is None:
            return
        targets: dict[str, list[tuple[ast.alias, str]]] = {}
        for alias in node.names:
            path = f"{module}.{alias.name}".lstrip(".")
            if self.moves.is_split(path):
                home, _, name = self.module_home(path, alias.asname or alias.name).rpartition(".")
            else:
                home, name = self.moves.locate(module, alias.name)
            if not name or (alias.name == "*" and self.moves.is_split(module)):
                self.report(node, path if not name else module)
                return
            bound = alias.asname or (alias.name if name != alias.name else "")
            targets.setdefault(home, []).append((alias, f"{name} as {bound}" if bound else name))
        if len(targets) == 1:
            self._replace_parts(node, *targets.popitem())
        else:
            self._replace_statement(node, targets)

    def _resolve(self, node: ast.ImportFrom) -> str | None:
        """Return the module that a statement names, as a path below the package; None outside of it."""
        if not node.level:
            package, _, module = (node.module or "").partition(".")
            return module if package == self.moves.package else None
        paths = []
        for (
            folder
        ) in self.folders:  # of a file that moved, lines from before the move count from its old folder
            parts = folder.split(".") if folder else []
            if node.level - 1 <= len(parts):
                base = parts[: len(parts) - node.level + 1]
                paths.append(".".join([*base, *([node.module] if node.module else [])]))
        names = [alias.name for alias in node.names]
        fitting = (
            path
            for path in paths
            if (node.module and self.moves.knows(path))
            or any(self.moves.knows(f"{path}.{name}".lstrip(".")) for name in names)
        )
        return next(fitting, None)

    def _spell(self, node: ast.ImportFrom, module: str) -> str:
        """Write a module as the statement does: absolute, or relative to the file's folder."""
        if not node.level:
            return f"{self.moves.package}.{module}".rstrip(".")
        target = module.split(".") if module else []
        folder = self.folders[0].split(".") if self.folders[0] else []
        shared = 0
        while shared < min(len(target), len(folder)) and target[shared] == folder[shared]:
            shared += 1
        return "." * (len(folder) - shared + 1) + ".".join(target[shared:])

    def _replace_parts(self, node: ast.ImportFrom, home: str, names: list[tuple[ast.alias, str]]) -> None:
        """Replace the module, and the names that are others now; all else in the statement stays."""
        first, last = self.span(node)
        header = HEADER.match(self.text, first, last)
        spelled = self._spell(node, home)
        if header and re.sub(r"[\s\\]", "", header["module"]) != spelled:
            gap = "" if header["after"] or spelled.endswith(".") else " "
            self.edits.append((*header.span("module"), spelled + gap))
        for alias, name in names:
            if name.split(" as ")[0] != alias.name:
                self.edits.append((*self.span(alias), name))

    def _replace_statement(
        self, node: ast.ImportFrom, targets: dict[str, list[tuple[ast.alias, str]]]
    ) -> None:
        """Replace a statement by one for each module, comments beside their names."""
        first, last = self.span(node)
        beside, above = self._comments_of_names(node)
        line = self.lines[node.lineno - 1]
        newline = next((end for end in ("\r\n", "\n", "\r") if line.endswith(end)), "\n")
        before, after = self.text[self.starts[node.lineno - 1] : first], self.text[last:]
        is_alone = not before.strip() and re.match(r"[ \t]*(#|[\r\n]|\Z)", after)
        statements = []
        for home, names in targets.items():
            spelled = f"from {self._spell(node, home)} import "
            if any(beside.get(alias) or above.get(alias) for alias, _ in names):
                rows = []
                for alias, name in names:
                    rows += above.get(alias, [])
                    rows.append("  ".join([f"{name},", *beside.get(alias, [])]))
                body = "".join(f"{newline}{before if is_alone else ''}    {row}" for row in rows)
                statements.append(f"{spelled}({body}{newline}{before if is_alone else ''})")
            else:
                statements.append(spelled + ", ".join(name for _, name in names))
        self.edits.append((first, last, (f"{newline}{before}" if is_alone else "; ").join(statements)))

    def _comments_of_names(
        self, node: ast.ImportFrom
    ) -> tuple[dict[ast.alias, list[str]], dict[ast.alias, list[str]]]:
        """Return the comments that stand behind each name of a statement, and those above it."""
        beside: dict[ast.alias, list[str]] = {}
        above: dict[ast.alias, list[str]] = {}
        for place, comment in self.comments(*self.span(node)):
            earlier = [alias for alias in node.names if self.span(alias)[1] <= place]
            later = [alias for alias in node.names if self.span(alias)[0] > place]
            if earlier and (not later or "\n" not in self.text[self.span(earlier[-1])[1] : place]):
                beside.setdefault(earlier[-1], []).append(comment)
            else:
                above.setdefault(later[0], []).append(comment)
        return beside, above


def read_moves(package: str, table: dict[str, dict[str, str]], folder: Path = Path()) -> Moves:
    """Read a release's table of moves for a project.

    Args:
        package: the package's name.
        table: the file `moves-X.Y.Z.yaml`.
        folder: the project.
    """
    root = folder / "src" / package
    paths = [path.relative_to(root).with_suffix("") for path in root.rglob("*.py")]
    present = {_dotted(parent) for path in paths for parent in (path, *path.parents[:-1])}
    modules = {
        _dotted(Path(old).with_suffix("")): _dotted(Path(new).with_suffix(""))
        for old, new in table["modules"].items()
    }
    return Moves(package, modules, table["names"], frozenset(present))


def _dotted(path: Path) -> str:
    """Write a path as a dotted module."""
    return ".".join(path.parts).removesuffix(".__init__")


def rewrite_file(path: Path, moves: Moves) -> list[str]:
    """Rewrite the imports of a Python file or notebook in place.

    Args:
        path: the file, from the project's folder.
        moves: what moved.

    Returns:
        One line for each import that has to be changed by hand.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return []
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    rewritten, problems = (_rewrite_notebook if path.suffix == ".ipynb" else _rewrite_python)(
        text.removeprefix(mark), moves, _folders(path, moves)
    )
    if mark + rewritten != text:
        path.write_bytes((mark + rewritten).encode())
    return [f"{path}:{line}: {reason}" for line, reason in problems]


def _folders(path: Path, moves: Moves) -> tuple[str, ...]:
    """Return the file's folder in the package as a dotted path, then the folder that it moved from."""
    root = Path("src", moves.package)
    if not path.is_relative_to(root):
        return ()
    inside = path.relative_to(root)
    old = [old for old, new in moves.modules.items() if new == _dotted(inside.with_suffix(""))]
    return (_dotted(inside.parent), *(module.rpartition(".")[0] for module in old))


def _rewrite_python(
    text: str, moves: Moves, folders: tuple[str, ...], is_notebook: bool = False
) -> tuple[str, list[tuple[int, str]]]:
    """Rewrite a Python source; one that cannot be parsed, such as one with conflict markers, stays."""
    try:
        source = Source(text, moves, folders, is_notebook)
    except (SyntaxError, ValueError):
        return text, [(1, "imports are not rewritten, because this is no valid Python")]
    return source.rewrite(), source.problems


def _rewrite_notebook(text: str, moves: Moves, folders: tuple[str, ...]) -> tuple[str, list[tuple[int, str]]]:
    """Rewrite the code cells of a Jupyter notebook that Jupyter wrote."""
    try:
        notebook = json.loads(text)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        return text, []
    if _dump(notebook, text) != text:  # laid out by another tool: nothing but imports may change
        return text, [(1, "imports are not rewritten: save the notebook in Jupyter, and change them by hand")]
    problems = []
    for cell in cells:
        is_list = isinstance(cell["source"], list)
        code, reasons = _rewrite_python("".join(cell["source"]), moves, folders, is_notebook=True)
        cell["source"] = code.splitlines(keepends=True) if is_list else code
        problems += [(line, f"(in a cell) {reason}") for line, reason in reasons if "valid" not in reason]
    return _dump(notebook, text), problems


def _dump(notebook: object, text: str) -> str:
    """Write a notebook as Jupyter does, ending as the text ends."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + ("\n" if text.endswith("\n") else "")
