"""Reading the JSON files of a model or adapter folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.common.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: The file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path), hint="fetch or make the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"holds {type(value).__name__}, not an object", where=str(path))
    return value
