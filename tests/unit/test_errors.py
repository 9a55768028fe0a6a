"""Errors are one line, survive a round trip through JSON, and reach the termination log."""

import json

import pytest
import torch

from components.common.errors import (
    InputError,
    RetryableError,
    RlhfError,
    UserError,
    error_from_dict,
    write_termination,
)
from components.common.guard import guarded


@pytest.mark.parametrize(("kind", "code"), [(RlhfError, 1), (UserError, 2), (InputError, 3), (RetryableError, 75)])
def test_round_trip_keeps_kind_and_words(kind, code):
    error = error_from_dict(kind("is\nbroken", where="a.json line 3", hint="mend it").to_dict())
    assert type(error) is kind
    assert error.code == code
    assert str(error) == "a.json line 3: is broken; mend it"


def test_termination_log_is_json_of_at_most_4096_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_TERMINATION_LOG", str(tmp_path / "log"))
    write_termination(UserError("x" * 10000, where="y" * 10000, hint="z" * 10000))
    text = (tmp_path / "log").read_text()
    assert len(text.encode()) <= 4096
    assert json.loads(text)["code"] == 2


@pytest.mark.parametrize(("error", "code"), [(UserError("bad"), 2), (InputError("gone"), 3), (ValueError("bug"), 1)])
def test_guarded_gives_exit_code_and_one_line(error, code, capsys):
    def fail():
        raise error

    assert guarded(fail) == code
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert ("Traceback" in printed) == (code == 1)


def test_a_gpu_that_is_full_is_no_bug(capsys):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    assert guarded(fail) == 2
    printed = capsys.readouterr().err
    wanted = "error: the stage: the GPU's memory is used up; lower per_device_train_batch_size or eval_tokens\n"
    assert printed == wanted


def test_guarded_tells_a_termination_signal_apart_from_a_bug():
    def stopped():
        raise SystemExit(143)

    with pytest.raises(SystemExit) as caught:
        guarded(stopped)
    assert caught.value.code == 143
