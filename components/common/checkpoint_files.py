"""What a checkpoint looks like on a disk: its name, and the manifest that makes it complete. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from components.common.manifest import FileEntry, list_files
from components.common.store import MANIFEST

CHECKPOINTS = "checkpoints"  # the folder of a run's work folder
STEP_NAME = re.compile(r"step-(\d+)")


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is."""
    try:
        listed = listed_files((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    found = {entry.path: entry for entry in list_files(folder)}
    for entry in listed:
        if found.get(entry.path) != entry:
            return f"{entry.path} is {'altered' if entry.path in found else 'missing'}"
    return None


def listed_files(manifest: bytes) -> list[FileEntry]:
    """What a checkpoint's manifest says is in it.

    Raises:
        ValueError: It is no such manifest.
    """
    return [FileEntry.model_validate(entry) for entry in json.loads(manifest)]
