"""Reads the source tree for the architecture tests: modules, what they import, and the private names they use."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("vitseg/**/*.py"), *ROOT.glob("flows/**/*.py")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Return `vitseg.data.loader` for vitseg/data/loader.py, `vitseg.data` for vitseg/data/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Return every module that a file imports, also inside functions.

    `from vitseg.storage import local` imports the module `vitseg.storage.local`, not its package; where `b` may be a module
    of another library, `from a import b` counts as both `a` and `a.b`.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found |= {full} if full in MODULES else {node.module, full}
    return frozenset(found)


def import_graph() -> dict[str, set[str]]:
    """Return which of our modules each of our modules imports."""
    return {module: (imports(path) & MODULES.keys()) - {module} for module, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of nodes from each of which every other one of its set can be reached."""
    reachable = {node: _reachable(graph, node) for node in graph}
    found = []
    for node in graph:
        circle = {other for other in reachable[node] if node in reachable[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    stack = [start]
    while stack:
        new = graph[stack.pop()] - seen
        seen |= new
        stack += new
    return seen


def private_names(path: Path) -> set[str]:
    """Return the names with one leading underscore that a file uses and does not define itself.

    Found are `import a._b`, `from a import _b`, `anything._b`, the keyword `_b=` and the dictionary key `"_b"`.
    """
    tree = ast.parse(path.read_text())
    return {name for name in _used(tree) if _is_private(name)} - _defined(tree)


def _is_private(name: str) -> bool:
    return name.isidentifier() and name.startswith("_") and not name.startswith("__") and name != "_"


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part for name in node.names for part in name.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from (part for name in node.names for part in f"{node.module}.{name.name}".split("."))
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _defined(tree: ast.AST) -> set[str]:
    """Return the names that a file defines: functions, classes, variables, and attributes of `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def mirror(path: Path) -> Path:
    """Return the test file of a source file: tests/data/test_order.py for vitseg/data/order.py."""
    *folders, name = path.relative_to(ROOT).parts
    return ROOT.joinpath("tests", *(folders[1:] if folders[0] == "vitseg" else folders), f"test_{name}")
