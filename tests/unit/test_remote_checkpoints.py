"""Checkpoints in a bucket: a broken one is passed over, and replaced when its step is made again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest

from components.common.checkpoint_files import fault
from components.common.checkpoints import Checkpoints
from components.common.remote_checkpoints import RemoteCheckpoints
from components.common.s3_access import Access
from components.common.s3_bucket import Bucket, Entry

OF_KEY = "work/sft/k"


class Memory(Bucket):
    """A bucket that is a dictionary."""

    objects: ClassVar[dict[str, bytes]] = {}

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def put(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        self.objects[key] = content
        return True

    def entries(self, prefix: str) -> list[Entry]:
        return [Entry(key, len(value), "") for key, value in sorted(self.objects.items()) if key.startswith(prefix)]

    def remove(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            del self.objects[key]


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(Memory, "objects", {})
    return Memory("b", Access("http://127.0.0.1:1", "us-east-1", "key", "secret"))


def made(folder: Path, step: int, content: str) -> None:
    """A checkpoint on this machine."""
    with Checkpoints(folder, "sft").writing(step) as aside:
        (aside / "weights").write_text(content)


def sent(bucket: Bucket, folder: Path, steps: Iterable[int]) -> None:
    """Checkpoints that an earlier attempt, or another machine, has put into the bucket."""
    for step in steps:
        made(folder, step, f"step {step}")
        RemoteCheckpoints(bucket, f"{OF_KEY}/{folder.name}", folder).sync(bucket)


def weights(run: str, step: int) -> str:
    return f"{OF_KEY}/{run}/checkpoints/step-{step:08d}/weights"


def test_a_broken_one_is_passed_over_and_sent_anew_when_its_step_is_made_again(bucket, tmp_path, capsys):
    sent(bucket, tmp_path / "old" / "r", (2, 4))
    bucket.objects[weights("r", 4)] = b"step 5"

    folder = tmp_path / "new" / "r"
    checkpoints = RemoteCheckpoints(bucket, f"{OF_KEY}/r", folder)
    checkpoints.restore()
    assert [path.name for path in folder.glob("checkpoints/*")] == ["step-00000002"]
    assert "step-00000004 is passed over" in capsys.readouterr().out
    made(folder, 4, "step 4 again")
    checkpoints.sync(bucket)
    assert bucket.objects[weights("r", 4)] == b"step 4 again"

    other = tmp_path / "other" / "r"
    RemoteCheckpoints(bucket, f"{OF_KEY}/r", other).restore()
    assert fault(other / "checkpoints" / "step-00000004") is None


def test_another_run_s_checkpoint_of_the_same_step_is_tried_too(bucket, tmp_path):
    sent(bucket, tmp_path / "one" / "a", (4,))
    sent(bucket, tmp_path / "two" / "b", (4,))
    bucket.objects[weights("a", 4)] = b"broken"
    folder = tmp_path / "new" / "c"
    RemoteCheckpoints(bucket, f"{OF_KEY}/c", folder).restore()
    assert (folder / "checkpoints" / "step-00000004" / "weights").read_text() == "step 4"


def test_what_is_there_is_not_sent_again(bucket, tmp_path):
    folder = tmp_path / "old" / "r"
    sent(bucket, folder, (2,))
    again = RemoteCheckpoints(bucket, f"{OF_KEY}/r", folder)
    again.restore()
    bucket.objects[weights("r", 2)] = b"as it is"
    again.sync(bucket)
    assert bucket.objects[weights("r", 2)] == b"as it is"
