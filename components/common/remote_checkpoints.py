"""A stage's checkpoints in a bucket: committed as they are made, found by whoever goes on, wherever that is.

<prefix>/work/<stage>/<key>/<run>/checkpoints/step-00000040/…     complete when manifest.json is there
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.common.cache import locked
from components.common.checkpoint_files import CHECKPOINTS, STEP_NAME, fault, listed_files
from components.common.errors import InputError
from components.common.logs import say
from components.common.s3_bucket import Bucket
from components.common.s3_download import Wanted, download
from components.common.s3_upload import upload
from components.common.store import MANIFEST


class RemoteCheckpoints:
    """The checkpoints of a stage's key in a bucket, as one of its runs sees them.

    Args:
        bucket: The bucket.
        prefix: Key of the run's work folder, `…/work/<stage>/<key>/<run>`.
        folder: The run's work folder on this machine.
    """

    def __init__(self, bucket: Bucket, prefix: str, folder: Path) -> None:
        self._bucket, self._prefix, self._folder = bucket, prefix, folder
        self._of_key = prefix.rpartition("/")[0]
        self._sent: set[int] = set()

    def restore(self) -> None:
        """Brings the newest whole checkpoint of any run of this key here, unless one as new is here."""
        with locked(self._folder.parent / f".{self._folder.name}.lock"):
            here = [step for step, folder in self._local("*") if fault(folder) is None]
            remote = {step: _commits(keys) for step, keys in self._remote().items()}
            self._sent = {step for step, commits in remote.items() if commits}
            for step in sorted(self._sent - set(range(max(here, default=-1) + 1)), reverse=True):
                if any(self._bring(step, commit) for commit in remote[step]):
                    return
                self._sent.discard(step)  # the step will be made again, and is then to be sent

    def sync(self, bucket: Bucket) -> None:
        """Sends the newest checkpoint of this run, if it is not there, and then removes what it replaces."""
        local = dict(self._local(self._folder.name))
        newest = max(local, default=-1)
        if newest < 0 or newest in self._sent:
            return
        with tempfile.TemporaryDirectory(dir=self._folder / CHECKPOINTS, prefix=".sending-") as name:
            try:
                files = _link(local[newest], Path(name))
            except FileNotFoundError:  # replaced by a newer one while we looked
                return
            prefix = f"{self._prefix}/{CHECKPOINTS}/{local[newest].name}"
            manifest = files.pop(MANIFEST)
            upload(bucket, {f"{prefix}/{path}": file for path, file in files.items()}, what=local[newest].name)
            bucket.put(f"{prefix}/{MANIFEST}", manifest.read_bytes())
        self._sent.add(newest)
        oldest = min(local)
        bucket.remove(key for step, keys in self._remote().items() if step < oldest for key in keys)

    def _local(self, run: str) -> Iterator[tuple[int, Path]]:
        for path in self._folder.parent.glob(f"{run}/{CHECKPOINTS}/step-*/{MANIFEST}"):
            match = STEP_NAME.fullmatch(path.parent.name)
            if match:
                yield int(match[1]), path.parent

    def _remote(self) -> dict[int, list[str]]:
        """Keys of the files of each step."""
        found: dict[int, list[str]] = {}
        for entry in self._bucket.entries(f"{self._of_key}/"):
            parts = entry.key.removeprefix(f"{self._of_key}/").split("/")
            match = STEP_NAME.fullmatch(parts[2]) if len(parts) > 3 and parts[1] == CHECKPOINTS else None
            if match:
                found.setdefault(int(match[1]), []).append(entry.key)
        return found

    def _bring(self, step: int, commit: str) -> bool:
        """Fetches a checkpoint; a broken one is named, and False."""
        source, target = commit.removesuffix(f"/{MANIFEST}"), self._folder / CHECKPOINTS / commit.split("/")[-2]
        aside = target.with_name(f".bringing-{step}")
        try:
            manifest = self._bucket.get(commit) or b""
            wanted = [Wanted(f"{source}/{e.path}", e.path, e.size, e.sha256) for e in listed_files(manifest)]
            aside.mkdir(parents=True, exist_ok=True)
            download(self._bucket, wanted, aside / "files", aside / "parts", what=target.name)
        except (InputError, ValueError) as error:
            say("store", f"checkpoint {self._bucket.uri(source)} is passed over: {error}")
            shutil.rmtree(aside, ignore_errors=True)
            return False
        (aside / "files" / MANIFEST).write_bytes(manifest)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(aside / "files", target)
        shutil.rmtree(aside, ignore_errors=True)
        return True


def _commits(keys: list[str]) -> list[str]:
    """Of a step's keys those that make a checkpoint complete: one for each run that has made it."""
    return [key for key in keys if key.endswith(f"/{MANIFEST}")]


def _link(folder: Path, to: Path) -> dict[str, Path]:
    """Links a folder's files elsewhere, where nobody removes them; returns the links by path."""
    made = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            made[name] = to / name
            made[name].parent.mkdir(parents=True, exist_ok=True)
            os.link(path, made[name])
    return made
