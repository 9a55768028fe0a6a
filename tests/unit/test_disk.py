"""A full disk, and one that may not be written to: whichever library finds it, one line that names the place."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.common.disk import disk_fault, disk_faults_named
from components.common.errors import InputError, UserError
from components.common.guard import guarded
from tests.support.mistake_kit import Kit, make_shared

FULL = Path("/dev/full")  # takes nothing: the disk is full, it says
MEGABYTE = 2**20
MS_RDONLY, MS_REMOUNT, MNT_DETACH = 1, 32, 2
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


def write() -> None:
    FULL.write_text("x")


def write_model() -> None:
    torch.save({"weight": torch.zeros(MEGABYTE)}, FULL)


def refused() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/data/model")


def read_only() -> None:
    raise OSError(errno.EROFS, "Read-only file system", "/data/model")


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (write, "error: FOLDER: cannot write: No space left on device; free space, then start again\n"),
        (write_model, "error: FOLDER: cannot write: No space left on device; free space, then start again\n"),
        (
            refused,
            "error: /data/model: no access: Permission denied; mend its permissions, or choose another place\n",
        ),
        (
            read_only,
            "error: /data/model: no access: Read-only file system; mend its permissions, or choose another place\n",
        ),
    ],
)
def test_one_line_and_no_traceback(action, said, tmp_path, capsys):
    def main() -> int:
        with disk_faults_named(tmp_path / "work"):
            action()
        return 0

    assert guarded(main) == 2
    assert capsys.readouterr().err.replace(str(tmp_path / "work"), "FOLDER") == said


def test_an_error_outside_a_stage_is_told_as_well(capsys):
    assert guarded(lambda: FULL.write_text("x")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_no_disk_has_said_stays_what_it_is():
    for error in (RuntimeError("a shape is wrong"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        assert disk_fault(error) is None
    socket = PermissionError(errno.EACCES, "Permission denied")  # names no file
    assert disk_fault(socket) is None
    with pytest.raises(InputError, match="altered"), disk_faults_named():
        raise InputError("was altered")


def test_the_cause_of_an_error_counts():
    error = ValueError("could not be saved")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    found = disk_fault(error, Path("/"))
    assert isinstance(found, UserError)
    assert str(found).startswith("/: cannot write: Disk quota exceeded")


@pytest.fixture
def mount(tmp_path) -> Iterator[Path]:
    """A file system of six megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    _mount(folder, 0, b"size=6m")
    yield folder
    assert ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(folder), MNT_DETACH) == 0


def _mount(folder: Path, flags: int, options: bytes | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options):
        pytest.skip(f"may not mount: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def kit(tmp_path, tokenizer) -> Kit:
    shared = tmp_path / "shared"
    shared.mkdir()
    make_shared(shared, tokenizer)
    return Kit(tmp_path, shared)


SHORT = "sft: {max_steps: 6, save_steps: 2, train_batch_size: 4, num_samples: 1, num_eval_prompts: 0}"


def sft(kit: Kit, store: Path) -> int:
    return kit.stage("sft", "--output", str(store), config=SHORT, model=kit.model, dataset=kit.artifact("data-sft"))


@NEEDS_ROOT
def test_a_stage_whose_disk_fills_ends_with_one_line_and_goes_on_when_there_is_space(kit, mount, capsys):
    """In the first file, in two of the first checkpoint, and in the second checkpoint."""
    for room in (0, 40_000, 150_000, 400_000):
        filled = mount / "filled"
        state = os.statvfs(mount)
        filled.write_bytes(b"x" * (state.f_bavail * state.f_frsize - room))
        capsys.readouterr()
        code = sft(kit, mount / "store")
        printed = capsys.readouterr().err
        assert (code, printed.count("\n")) == (2, 1), printed
        assert printed.startswith(f"error: {mount}/store"), printed
        assert "cannot write: No space left on device; free space" in printed
        assert not list(mount.glob("store/artifacts/*/*"))
        assert not list(mount.glob("store/.scratch/*"))
        filled.unlink()
    assert sft(kit, mount / "store") == 0
    assert "sft goes on after step 2" in capsys.readouterr().out
    assert len(list(mount.glob("store/artifacts/sft/*/manifest.json"))) == 1


@NEEDS_ROOT
def test_a_store_on_a_read_only_disk(kit, mount, capsys):
    _mount(mount, MS_REMOUNT | MS_RDONLY, None)
    assert sft(kit, mount / "store") == 2
    place = f"{mount}/store/.scratch"
    printed = capsys.readouterr().err
    assert printed == f"error: {place}: cannot write: Read-only file system; free space or choose another store\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written(kit, tmp_path, capsys):
    (tmp_path / "store").mkdir(mode=0o500)
    assert sft(kit, tmp_path / "store") == 2
    assert "cannot write: Permission denied; choose another store or mend its permissions" in capsys.readouterr().err


@NEEDS_ROOT
def test_safetensors_says_so_in_its_own_words(mount):
    with pytest.raises(UserError, match="cannot write: No space left on device"), disk_faults_named(mount):
        save_file({"weight": torch.zeros(3 * MEGABYTE)}, mount / "model.safetensors")
