"""Functions that the configuration names as `module:function`: importing them, and naming their code."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.artifacts import hash_file
from components.common.errors import UserError

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
        UserError: There is no such module.
    """
    module = path.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError("no such module", where=path, hint="write module:function; the module must be on PYTHONPATH")
    return f"sha256:{hash_file(Path(spec.origin))}"
