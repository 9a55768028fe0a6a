"""rl on a GPU with too little room: fewer completions at once, the same result; and no traceback if it ends anyway."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from components.common import entry
from components.rl import fit, stage
from components.rl.config import SPEC
from components.rl.roles import Roles

SETTINGS = ["max_steps=2", "num_ppo_epochs=1", "num_eval_prompts=24", "num_samples=2", "learning_rate=1e-4"]
ROOM = 4  # completions; the toy run's micro-batch has 16
TOKENS = 200


def arguments(toy_run, store):
    inputs = [f"{name}={toy_run.store / parent.uri}" for name, parent in toy_run.manifest("rl").parents.items()]
    settings = [part for setting in SETTINGS for part in ("--set", f"rl.{setting}")]
    given = [part for uri in inputs for part in ("--input", uri)]
    return ["--config", str(toy_run.config), *given, *settings, "--output", str(store)]


def result(store):
    (artifact,) = (store / "artifacts" / "rl").iterdir()
    return artifact


def limit(monkeypatch):
    """A CPU on which more than so many completions, or so many tokens in a batch, do not fit."""
    hidden, scores, generate = Roles._hidden, Roles.scores, fit.generate

    def checked(compute):
        def call(roles, ids, *more):
            if len(ids) > ROOM:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return compute(roles, ids, *more)

        return call

    def write(model, prompts, *more, max_tokens, **named):
        if max_tokens > TOKENS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, prompts, *more, max_tokens=max_tokens, **named)

    monkeypatch.setattr(fit, "_is_limited", lambda device: True)
    monkeypatch.setattr(Roles, "_hidden", checked(hidden))
    monkeypatch.setattr(stage, "build_roles", unjudged(stage.build_roles, scores, checked(scores), monkeypatch))
    for module in ("components.rl.fit.generate", "components.rl.rollout.generate"):
        monkeypatch.setattr(module, write)


def unjudged(build, free, checked, monkeypatch):
    """The pairs by which a reward model is known are scored in batches of `eval_tokens`, before anything is tried."""

    def call(job):
        monkeypatch.setattr(Roles, "scores", free)
        roles = build(job)
        monkeypatch.setattr(Roles, "scores", checked)
        return roles

    return call


def test_fewer_completions_at_once_give_the_same(toy_run, tmp_path, monkeypatch, capsys):
    assert entry.stage_main(SPEC, lambda: stage.run, arguments(toy_run, tmp_path / "roomy")) == 0
    capsys.readouterr()
    limit(monkeypatch)
    assert entry.stage_main(SPEC, lambda: stage.run, arguments(toy_run, tmp_path / "tight")) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert [line.split("trying ")[1] for line in said[:2]] == [
        f"per_device_train_batch_size={rows}; the global batch stays" for rows in (8, 4)
    ]
    assert all("trying eval_tokens=" in line for line in said[2:])
    assert len(said) > 2
    roomy, tight = result(tmp_path / "roomy"), result(tmp_path / "tight")
    assert roomy.name == tight.name  # one key
    weights, other = load_file(roomy / "adapter_model.safetensors"), load_file(tight / "adapter_model.safetensors")
    assert weights.keys() == other.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_memory_that_ends_all_the_same_is_told_in_one_line(toy_run, tmp_path, capsys):
    def run(job):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    assert entry.stage_main(SPEC, lambda: run, arguments(toy_run, tmp_path)) == 2
    assert capsys.readouterr().err == (
        "error: rl: the GPU's memory is used up; "
        "lower rl.per_device_train_batch_size (it is 16) or rl.eval_tokens (it is 16384)\n"
    )
