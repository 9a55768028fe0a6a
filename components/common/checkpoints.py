"""Checkpoints that are whole or not there: written aside, hashed, renamed; the newest that verifies is resumed.

transformers writes a checkpoint file by file into its final folder and takes the newest folder whatever is in it, so a
process killed in between leaves one that resumes wrongly without a word. Here a manifest with every file's hash is part
of a checkpoint, and a rename is what makes it one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.common import distributed
from components.common.checkpoint_files import CHECKPOINTS, STEP_NAME, fault
from components.common.directory_store import sync
from components.common.errors import RetryableError
from components.common.logs import say
from components.common.manifest import canonical_json, list_files
from components.common.store import MANIFEST


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and the number of steps that were done."""

    folder: Path
    step: int


class Checkpoints:
    """The checkpoints of one stage's key.

    Args:
        work: This run's work folder, `…/work/<stage>/<key>/<run id>`. Its siblings belong to other runs of the same
            key, whose checkpoints are as good.
        stage: Name of the stage, for messages.
        keep: How many of the key's checkpoints stay.
    """

    def __init__(self, work: Path, stage: str, keep: int = 2) -> None:
        self._work, self._stage, self._keep = work, stage, keep

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint, the same on all processes, said aloud."""
        found = distributed.from_main(self.newest() if distributed.is_main() else None)
        if found and not found.folder.is_dir():
            what = f"the checkpoint after step {found.step} is not on this machine, though another has it"
            raise RetryableError(what, where=self._stage, hint="run the same command again")
        if found:
            say(self._stage, f"goes on after step {found.step}: {found.folder}")
        return found

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint of any run of this key that verifies; broken ones are named and passed over."""
        for checkpoint in self._found():
            broken = fault(checkpoint.folder)
            if broken is None:
                return checkpoint
            say(self._stage, f"checkpoint {checkpoint.folder} is passed over: {broken}")
        return None

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """Gives an empty folder; what is in it at the end becomes the checkpoint of a step.

        Args:
            step: Steps done.
        """
        root = self._work / CHECKPOINTS
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
        try:
            yield aside
            self.commit(aside, step)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def commit(self, aside: Path, step: int) -> None:
        """Makes a folder beside the checkpoints the checkpoint of a step."""
        target = self._work / CHECKPOINTS / f"step-{step:08d}"
        if target.exists():
            return
        entries = [entry.model_dump() for entry in list_files(aside)]
        for path in aside.rglob("*"):
            if path.is_file():
                sync(path)
        (aside / MANIFEST).write_bytes(canonical_json(entries))
        sync(aside / MANIFEST)
        os.rename(aside, target)
        sync(target.parent)
        self._prune()

    def _prune(self) -> None:
        for checkpoint in self._found()[self._keep :]:
            shutil.rmtree(checkpoint.folder, ignore_errors=True)

    def _found(self) -> list[Checkpoint]:
        """Checkpoints of all runs of this key, the newest first."""
        matches = ((path, STEP_NAME.fullmatch(path.name)) for path in self._work.parent.glob(f"*/{CHECKPOINTS}/step-*"))
        found = [Checkpoint(path, int(match[1])) for path, match in matches if match]
        return sorted(found, key=lambda checkpoint: (checkpoint.step, str(checkpoint.folder)), reverse=True)
