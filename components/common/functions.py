"""Functions that the configuration names as `module:function`: importing them, and naming their code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.config import suggest
from components.common.errors import UserError
from components.common.manifest import hash_file

PATTERN = r"^[\w.]+:\w+$"


def load_function(path: str) -> Callable[..., Any]:
    """Imports `module:function`.

    Raises:
        UserError: There is no such function.
    """
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot be imported: {error}", where=path, hint="write module:function; the module must be on PYTHONPATH"
        ) from error
    return found


def code_digest(path: str) -> str:
    """Hash of the file that holds a function, without importing it: another code is another result.

    What that file imports is not looked at.

    Raises:
        UserError: There is no such module, or it does not have the function.
    """
    module, _, name = path.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError("no such module", where=path, hint="write module:function; the module must be on PYTHONPATH")
    file = Path(spec.origin)
    if file.suffix == ".py":
        _check_name(file, name, path)
    return f"sha256:{hash_file(file)}"


def _check_name(file: Path, name: str, path: str) -> None:
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            f"is not valid Python: {error.args[0]}", where=f"{file} line {line}" if line else str(file)
        ) from error
    functions = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    imported = [
        a.asname or a.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names
    ]
    if name not in (*functions, *stored, *imported) and "*" not in imported:
        raise UserError(f"{file.name} has no {name}", where=path, hint=suggest(name, functions))
