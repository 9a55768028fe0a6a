"""`key=value` arguments → pipeline parameters. What is no parameter is an override of the configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from components.common.config import SECTIONS
from components.common.errors import UserError

PARAMETERS = ("preset", "config", "overrides", "model", "data", "launcher_image", "seed")


def parse_parameters(pairs: Iterable[str]) -> dict[str, str | int]:
    """Sorts `preset=t4x4-1b sft.learning_rate=1e-4` into the pipeline's parameters.

    Raises:
        UserError: A pair is malformed or names neither a parameter nor a section's field.
    """
    parameters: dict[str, str | int] = {}
    overrides: list[str] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError("is not key=value", where=repr(pair), hint="write e.g. seed=1 or sft.learning_rate=1e-4")
        if name.partition(".")[0] in SECTIONS and "." in name:
            overrides.append(pair)
        elif name not in PARAMETERS:
            close = difflib.get_close_matches(name, [*PARAMETERS, *SECTIONS], n=1)
            meant = f"did you mean {close[0]}?" if close else f"parameters: {', '.join(PARAMETERS)}"
            raise UserError("is neither a parameter nor section.field", where=name, hint=meant)
        elif name == "seed":
            if not re.fullmatch(r"\d+", value):
                raise UserError(f"an integer is expected, got {value!r}", where="seed")
            parameters[name] = int(value)
        else:
            parameters[name] = value
    if overrides:
        given = str(parameters.get("overrides", ""))
        parameters["overrides"] = "\n".join([*filter(None, [given]), *overrides])
    return parameters


def embed_config(parameters: dict[str, str | int]) -> dict[str, str | int]:
    """Puts a local configuration file's text in place of its path, since no other machine can read the path."""
    config = str(parameters.get("config", ""))
    if config and "\n" not in config and Path(config).is_file():
        return {**parameters, "config": Path(config).read_text(encoding="utf-8")}
    return parameters
