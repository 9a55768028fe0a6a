"""The file that `rlhf generate` writes: an interrupted command goes on with it, and no other does."""

import pytest

from components.common.errors import InputError, UserError
from components.common.generation import generate
from components.inference import generate as command
from components.inference.generate import Options
from tests.support.generating import SAMPLED, read, run, write


def test_an_interrupted_command_goes_on_after_the_rows_that_are_there(trained, prompts, tmp_path, monkeypatch):
    whole = run(trained.policy, prompts, tmp_path / "whole.jsonl")
    out, computed = tmp_path / "o.jsonl", []

    def interrupted(model, prompts, *args, **kwargs):
        computed.extend(kwargs["keys"])
        if len(computed) > 2:
            raise KeyboardInterrupt
        return generate(model, prompts, *args, **kwargs)

    monkeypatch.setattr(command, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(trained.policy, prompts, out, batch_tokens=1)
    assert read(out) == whole[:2]
    out.write_bytes(out.read_bytes() + b'{"prompt": "the")')  # what a killed process leaves of a line
    computed.clear()
    monkeypatch.setattr(
        command, "generate", lambda *args, **kwargs: computed.extend(kwargs["keys"]) or generate(*args, **kwargs)
    )
    assert run(trained.policy, prompts, out) == whole
    assert computed == [(i, 0) for i in range(2, 6)]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    monkeypatch.setattr(command, "load_language_model", None)  # nothing is left to compute
    assert run(trained.policy, prompts, out) == whole


def test_only_its_own_rows_are_kept(trained, prompts, tmp_path):
    out = tmp_path / "o.jsonl"
    run(trained.policy, prompts, out)
    before = out.read_bytes()
    changed = [
        (trained.policy, prompts, Options(max_completion_length=12, temperature=1.0, seed=4), "another seed"),
        (trained.base, prompts, SAMPLED, "another model"),
        (trained.policy, write(tmp_path / "other.jsonl", [{"prompt": "say"}]), SAMPLED, "another input"),
    ]
    for model, source, options, words in changed:
        with pytest.raises(UserError, match=words):
            run(model, source, out, options)
    lines = before.splitlines(keepends=True)
    for broken in ([lines[1], lines[0], *lines[2:]], [*lines, lines[0]], [lines[0], b"[]\n"], [b"no json\n"]):
        out.write_bytes(b"".join(broken))
        with pytest.raises(UserError, match="is not the row that this command wrote there"):
            run(trained.policy, prompts, out)
        assert out.read_bytes() == b"".join(broken)
    (tmp_path / "o.jsonl.request.json").unlink()
    with pytest.raises(UserError, match="was not written by this command"):
        run(trained.policy, prompts, out)


def test_a_command_that_fails_before_its_first_row_leaves_nothing(trained, prompts, tmp_path, monkeypatch):
    def fail(_source):
        raise InputError("weights are missing")

    monkeypatch.setattr(command, "load_language_model", fail)
    with pytest.raises(InputError):
        run(trained.policy, prompts, tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_two_commands_do_not_write_one_file(trained, prompts, tmp_path, monkeypatch):
    out = tmp_path / "o.jsonl"

    def second(*_args, **_kwargs):
        run(trained.policy, prompts, out)

    monkeypatch.setattr(command, "generate", second)
    with pytest.raises(UserError, match="another command is writing it"):
        run(trained.policy, prompts, out)


def test_too_little_memory_names_the_option(trained, prompts, tmp_path, monkeypatch):
    import torch

    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(command, "generate", fail)
    with pytest.raises(UserError, match="--batch-tokens"):
        run(trained.policy, prompts, tmp_path / "o.jsonl")
