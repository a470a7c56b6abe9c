"""Find the places of the package that make a text of an error that is not its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MAY = {
    ("_work/failures.py", "reason_text"): "it is one of them",
    ("_work/failures.py", "_line"): "it is one of them",
    ("_redaction/tracebacks.py", "_is_safe"): "it looks for credentials, and shows nothing",
    ("_wire/codec.py", "_at"): "the texts of the codec's own readers",
}
"""Functions that may make a text of an error that is not known to be ours."""
SHOWS = {"str", "repr", "format", "map", "print", "format_exception", "format_exception_only", "printable", "join"} | {
    "debug", "info", "warning", "error", "critical", "exception", "log", "_warn"
}  # fmt: skip
HIDES = re.compile(r"(hide_parameters|without_values)\(")


def fields_of_errors(trees: dict[str, ast.Module]) -> set[str]:
    """Return the names of the fields that hold an error, in each class that has one of that name."""
    kinds: dict[str, list[str]] = {}
    for node in [node for tree in trees.values() for each in ast.walk(tree) for node in ast.iter_child_nodes(each)]:
        if isinstance(node, ast.AnnAssign):
            kinds.setdefault(ast.unparse(node.target).rpartition(".")[2], []).append(ast.unparse(node.annotation))
    return {name for name, each in kinds.items() if all(re.search(r"\bException\b", kind) for kind in each)}


def own_errors(trees: dict[str, ast.Module]) -> set[str]:
    own = {"AssertionError", "TimeoutError"}  # of the conformance suites, and of time limits
    for _ in range(5):
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = {name.rpartition(".")[2] for name in map(ast.unparse, node.bases)}
                    if bases & own or any(base.endswith(("Error", "Exception")) for base in bases):
                        own.add(node.name)
    return own


def foreign_texts(tree: ast.Module, own: set[str], fields: set[str]) -> Iterator[tuple[str, int]]:
    """Yield each place that makes a text of an error that is not ours, with the function around it."""

    def are_foreign(kinds: ast.expr | None) -> bool:
        each = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
        return any(one is None or ast.unparse(one).rpartition(".")[2] not in own for one in each)

    def is_of(node: ast.AST, names: frozenset[str]) -> bool:
        is_attribute = isinstance(node, ast.Attribute) and node.attr in fields
        return is_attribute or (isinstance(node, ast.Name) and node.id in names)

    def look(node: ast.AST, names: frozenset[str], function: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                kinds = re.findall(r"\w+", "" if argument.annotation is None else ast.unparse(argument.annotation))
                errors = [kind for kind in kinds if kind.endswith(("Error", "Exception"))]
                names = names - {argument.arg} | ({argument.arg} if set(errors) - own else set())
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names = names - {node.name} | ({node.name} if are_foreign(node.type) else set())
        shows = False
        if isinstance(node, ast.FormattedValue):
            shows = is_of(node.value, names)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            shows = any(is_of(each, names) for each in ast.walk(node.right))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            given = [*node.args, *[each.value for each in node.keywords if each.arg != "exc_info"]]
            shows = called in SHOWS and any(is_of(each, names) for each in given)
            shows = shows or (called == "exception" and bool(given))
            for each in node.keywords:
                if each.arg == "exc_info":
                    shows = shows or not HIDES.search(ast.unparse(each.value))
        if shows:
            yield function, node.lineno  # type: ignore[attr-defined]  # of an expression
        for child in ast.iter_child_nodes(node):
            yield from look(child, names, function)

    yield from look(tree, frozenset(), "")
