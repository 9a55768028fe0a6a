"""Stages' own training code on models of tens of millions of parameters, under torch's memory tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.distributed._tools.mem_tracker import MemTracker

from components.common.causal import CausalLM, Tables, build_causal_lm
from components.common.device import device_policy
from components.common.generation import Sampling, generate
from components.common.packed import train_packed
from components.data.model_facts import read_model_facts
from components.data.pack import pack
from components.data.pairs import Pairs
from components.data.table import TokenTable, build_table
from components.data.tokenise import Tokens
from components.prepare.config import RunConfig

POLICY = device_policy()


class _NoModules:
    """Stands in for torch's tracker of modules, which cannot watch a module that is called twice or a loss whose
    gradients are made in the forward pass. The sums need it for nothing."""

    is_bw = False

    def register_user_hooks(self, *_: Any) -> None: ...

    def clear_user_hooks(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Tracker(MemTracker):
    """torch's tracker of tensors, all modules taken together."""

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker = _NoModules()

    def _track_module_params_and_buffers(self, module: Any, install_grad_hooks: bool = True) -> tuple[int, int]:
        # It would hang hooks for gradients on frozen parameters, too.
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)

    def peak(self) -> int:
        """Bytes of all tensors at once."""
        return max(parts["Total"] for parts in self.get_tracker_snapshot("peak").values())


def peak_of(model: Any, work: Callable[[], object]) -> int:
    """The most bytes in tensors at once while something is done with a model, the model's own included."""
    tracker = Tracker()
    tracker.track_external(model)
    with tracker:
        work()
    return tracker.peak()


@dataclass
class StubJob:
    """What the verbs of a stage look at, without a store."""

    config: Any
    name: str
    work: Path
    model: Path
    seed: int = 0

    def folder(self, _name: str) -> Path:
        """The base."""
        return self.model

    def has(self, _name: str) -> bool:
        """No adapter to go on from."""
        return False


def save_base(config: Any, tokenizer: Any, folder: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def table(rows: int, length: int, vocab: int, prompt: int = 0, *, width: int = 0, seed: int = 0) -> TokenTable:
    """Random sequences of one length, labels after the prompt; packed into rows if they have a width."""
    rng = np.random.default_rng(seed)
    trained = np.arange(length) >= prompt
    made = build_table([Tokens(rng.integers(5, vocab, length), trained) for _ in range(rows)], vocab)
    return TokenTable(made.tokens, made.offsets, made.trained, pack(made.lengths, width)) if width else made


def peak_packed(job: StubJob, run: RunConfig, length: int, vocab: int) -> int:
    """Peak of pretrain or sft: rows of two sequences each where the family can tell them apart, all labelled."""
    built = build_causal_lm(job)
    sequence = length // 2 if read_model_facts(job.model).can_pack else length
    tables = Tables(table(16, sequence, vocab, width=length), table(2, sequence, vocab, seed=1))
    return peak_of(built.model, lambda: train_packed(job, built.model, tables, POLICY))


def pairs(count: int, length: int, vocab: int) -> Pairs:
    """Pairs whose answers are half of a sequence."""
    return Pairs(*(table(count, length, vocab, length // 2, seed=side) for side in (0, 1)))


def peak_reward(job: StubJob, run: RunConfig, length: int, vocab: int) -> int:
    """Peak of reward."""
    from components.reward import stage

    built = stage.build_model(job)
    data = stage.Data(pairs(8, length, vocab), pairs(2, length, vocab))
    return peak_of(built.model, lambda: stage.train(job, built, data))


def peak_dpo(job: StubJob, run: RunConfig, length: int, vocab: int) -> int:
    """Peak of dpo."""
    from components.dpo import stage

    built: CausalLM = stage.build_model(job)
    data = stage.Data(pairs(8, length, vocab), pairs(2, length, vocab), [])
    zeros = stage.LogProbs(np.zeros(2), np.zeros(2))
    return peak_of(built.model, lambda: stage.train(job, built, data, zeros))


def peak_rl(job: StubJob, run: RunConfig, length: int, vocab: int) -> int:
    """Peak of rl, on a reward adapter of random weights: one rollout batch and what it teaches."""
    from components.rl.rollout import Prompts
    from tests.support.models import save_reward_adapter
    from tests.support.one_base import Trainer, load_roles

    adapter = job.work / "reward"
    save_reward_adapter(job.model, adapter, pad_token_id=0, r=run.rl.lora.r)
    roles = load_roles(job.model, adapter, run.rl, 0, job.work)
    prompt = run.data.rl.max_prompt_length
    prompts = Prompts(table(16, prompt, vocab), [{"messages": [{"role": "user", "content": ""}]} for _ in range(16)])
    trainer = Trainer(roles, prompts, run.rl, seed=0, stop=1)
    tracker = Tracker()
    tracker.track_external(roles.model, roles.value_head)
    for parameter in trainer.learner.optimizers.optimizer.param_groups[0]["params"]:
        tracker.track_external(parameter.grad)
    with tracker:
        trainer.step(0)
    return tracker.peak()


def peak_evaluate(job: StubJob, run: RunConfig, length: int, vocab: int) -> int:
    """Peak of evaluate's answers."""
    from components.common.models import load_causal_lm

    model = load_causal_lm(job.model, POLICY)
    settings = run.evaluate
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, vocab, run.data.rl.max_prompt_length) for _ in range(settings.num_eval_prompts)]
    sampling = Sampling(settings.max_completion_length, (1,))
    return peak_of(model, lambda: generate(model, prompts, sampling, POLICY, max_tokens=settings.eval_tokens))
