"""Loading a pipeline from a Python file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import UserError


def load_pipeline(file: Path) -> Callable[..., Any]:
    """Imports a file under a private name and returns the one pipeline in it.

    A file called rlhf.py must not become the module `rlhf`, nor its folder come first on the import path.

    Raises:
        UserError: The file cannot be imported or does not hold exactly one pipeline.
    """
    from kfp.dsl.graph_component import GraphComponent

    name = f"_pipeline_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError("is not a Python file", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = _line_in(file, error)
        raise UserError(f"{type(error).__name__}: {error}", where=f"{file}{line}", hint="mend the file") from error
    found = [value for value in vars(module).values() if isinstance(value, GraphComponent)]
    if len(found) != 1:
        raise UserError(
            f"holds {len(found)} pipelines, one is expected", where=str(file), hint="use @dsl.pipeline once"
        )
    pipeline: Callable[..., Any] = found[0]
    return pipeline


def _line_in(file: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" line {line}" if line else ""
