"""PPO on four separate models, written out a second time and plainly: what the rl stage does on one base.

Of the code under test only plumbing is shared: which prompts come in which batch, decoding, and padding. The arithmetic
is that of the formulas, on whole (completions, tokens) matrices.

Equality bit by bit needs equal shapes: a matrix product over 15 rows rounds differently from one over 16. So the
micro-batches are those of the rl stage, the head sees the same positions, and sums run over the same layout. Nor has
attention a mask where the stage gives it none: on the right of causal attention padding needs none, but the kernels
for either case round differently.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from components.common.device import DevicePolicy
from components.common.forward_pass import pad
from components.common.generation import Sampling, generate
from components.rl.config import RlConfig
from components.rl.rollout import Prompts, prompt_rows
from tests.support.four_models import FourModels
from tests.support.one_base import Batch

CPU = DevicePolicy(torch.device("cpu"), torch.float32)


def _hidden(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    transformer = getattr(base, base.base_model_prefix)
    hidden: torch.Tensor = transformer(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


class Trainer:
    """Trains policy and critic.

    Args:
        models: The models.
        prompts: Prompts as token ids.
        config: Settings of the rl stage.
        seed: Of sampling and shuffling.
        stop: The token that ends a completion.
    """

    def __init__(self, models: FourModels, prompts: Prompts, config: RlConfig, seed: int, stop: int) -> None:
        self.models, self.prompts, self.config, self.seed, self.stop = models, prompts, config, seed, stop
        self.beta = config.beta
        trained = models.trained()
        for parameter in (*trained["policy"], *trained["critic"]):
            parameter.grad = torch.zeros_like(parameter)  # as in the rl stage: it halves the memory of both
        self.optimizer = torch.optim.AdamW(
            [
                {"params": trained["policy"], "lr": config.learning_rate},
                {"params": trained["critic"], "lr": config.critic_learning_rate},
            ],
            weight_decay=config.weight_decay,
        )
        total = config.max_steps * config.num_ppo_epochs * config.num_mini_batches
        warmup = math.ceil(config.warmup_ratio * total)

        def linear(step: int) -> float:
            return step / warmup if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, linear)

    def step(self, step: int) -> Batch:
        """Rolls out, scores and updates."""
        config = self.config
        rows, prompts, completions = self._roll_out(step)
        sequences = [np.concatenate(pair) for pair in zip(prompts, completions, strict=True)]
        lengths = torch.tensor([len(c) for c in completions])
        mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()
        pieces = [piece for minibatch in self._minibatches(step, 0) for piece in self._pieces(minibatch, sequences)]

        policy = self._per_token(pieces, sequences, prompts, mask, self._logprobs, self.models.policy)
        reference = self._per_token(pieces, sequences, prompts, mask, self._logprobs, self.models.reference)
        values = self._per_token(pieces, sequences, prompts, mask, self._values, self.models.critic)
        scores = self._scores(sequences)

        ended = torch.tensor([int(c[-1]) == self.stop for c in completions])
        rewards = -self.beta * (policy - reference) * mask
        penalised = scores.double() - config.missing_eos_penalty * ~ended
        rewards[torch.arange(len(rows)), lengths - 1] += penalised.float()
        advantages = torch.zeros_like(rewards)
        for row in range(len(rows)):
            running = torch.tensor(0.0)
            following = torch.tensor(0.0)
            for t in reversed(range(int(lengths[row]))):
                delta = rewards[row, t] + config.gamma * following - values[row, t]
                running = delta + config.gamma * config.lam * running
                advantages[row, t] = running
                following = values[row, t]
        returns = (advantages + values) * mask
        count = mask.sum()
        mean = (advantages * mask).sum() / count
        variance = ((advantages - mean) ** 2 * mask).sum() / count
        advantages = (advantages - mean) * torch.rsqrt(variance + 1e-8) * mask

        lr = self.schedule.get_last_lr()[0]
        sums: dict[str, float] = {}
        updates = [m for epoch in range(config.num_ppo_epochs) for m in self._minibatches(step, epoch)]
        for minibatch in updates:
            found = self._update(minibatch, sequences, prompts, mask, policy, values, advantages, returns)
            sums = {name: sums.get(name, 0.0) + value / len(updates) for name, value in found.items()}

        kl = ((policy - reference) * mask).sum(1)
        log_ratio = reference - policy
        spread = ((returns - (returns * mask).sum() / count) ** 2 * mask).sum() / count
        metrics = {
            "reward": float(scores.double().numpy().mean()),
            "kl": float(kl.double().numpy().mean()),
            "kl_k3": float(((log_ratio.exp() - 1 - log_ratio) * mask).sum(1).mean()),
            "beta": self.beta,
            "entropy": -float((policy * mask).sum() / count),
            "explained_variance": 1 - float((((returns - values) ** 2 * mask).sum() / count) / spread.clamp(min=1e-8)),
            "completion_tokens": float(lengths.float().mean()),
            "ended": float(ended.float().mean()),
            "lr": lr,
            **sums,
        }
        if config.target_kl is not None:
            error = min(max(metrics["kl"] / config.target_kl - 1, -0.2), 0.2)
            self.beta *= 1 + error * len(rows) / config.kl_horizon
        return Batch(rows, completions, metrics)

    def _roll_out(self, step: int) -> tuple[list[int], list[Any], list[Any]]:
        config = self.config
        distinct = prompt_rows(
            range(len(self.prompts)), step, config.rollout_batch_size // config.num_generations, self.seed
        )
        rows = [row for row in distinct for _ in range(config.num_generations)]
        prompts = [self.prompts.table.ids(row) for row in rows]
        keys = [(row, rows[:i].count(row)) for i, row in enumerate(rows)]
        sampling = Sampling(config.max_completion_length, (self.stop,), config.temperature, self.seed, step)
        written = generate(self.models.policy, prompts, sampling, CPU, max_tokens=config.eval_tokens, keys=keys)
        return rows, prompts, written

    def _minibatches(self, step: int, epoch: int) -> list[list[int]]:
        order = np.random.default_rng((self.seed, step, epoch)).permutation(self.config.rollout_batch_size)
        size = self.config.rollout_batch_size // self.config.num_mini_batches
        return [order[i : i + size].tolist() for i in range(0, len(order), size)]

    def _pieces(self, rows: list[int], sequences: list[Any]) -> list[list[int]]:
        """Micro-batches, the longest sequences first."""
        size = self.config.per_device_train_batch_size
        rows = sorted(rows, key=lambda row: len(sequences[row]), reverse=True)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def _logprobs(self, model: Any, piece: list[int], sequences: list[Any], prompts: list[Any]) -> torch.Tensor:
        """Log-probabilities of the written tokens of some rows, row after row."""
        ids, _ = pad([sequences[row] for row in piece], 0, CPU.device)
        hidden = _hidden(model, ids)
        before, targets = [], []
        for index, row in enumerate(piece):
            begin, end = len(prompts[row]), len(sequences[row])
            before.append(hidden[index, begin - 1 : end - 1])
            targets.append(ids[index, begin:end])
        logits = model.get_output_embeddings()(torch.cat(before)) / self.config.temperature
        chosen = logits.gather(-1, torch.cat(targets)[:, None]).squeeze(-1)
        return chosen - logits.logsumexp(-1)

    def _values(self, model: Any, piece: list[int], sequences: list[Any], prompts: list[Any]) -> torch.Tensor:
        ids, _ = pad([sequences[row] for row in piece], 0, CPU.device)
        hidden = _hidden(model, ids)
        before = [hidden[i, len(prompts[row]) - 1 : len(sequences[row]) - 1] for i, row in enumerate(piece)]
        return self.models.value_head(torch.cat(before)).squeeze(-1)

    def _per_token(
        self,
        pieces: list[list[int]],
        sequences: list[Any],
        prompts: list[Any],
        mask: torch.Tensor,
        compute: Any,
        model: Any,
    ) -> torch.Tensor:
        result = torch.zeros_like(mask)
        with torch.no_grad():
            for piece in pieces:
                flat = compute(model, piece, sequences, prompts)
                for row, part in zip(piece, flat.split([int(mask[row].sum()) for row in piece]), strict=True):
                    result[row, : len(part)] = part
        return result

    def _scores(self, sequences: list[Any]) -> torch.Tensor:
        scores = torch.zeros(len(sequences))
        with torch.no_grad():
            for piece in self._pieces(list(range(len(sequences))), sequences):
                ids, attended = pad([sequences[row] for row in piece], 0, CPU.device)
                hidden = _hidden(self.models.reward, ids, attended)
                last = torch.stack([hidden[i, len(sequences[row]) - 1] for i, row in enumerate(piece)])
                scores[piece] = (last @ self.models.score_head.T).squeeze(-1)
        return scores

    def _update(
        self,
        minibatch: list[int],
        sequences: list[Any],
        prompts: list[Any],
        mask: torch.Tensor,
        old_logprobs: torch.Tensor,
        old_values: torch.Tensor,
        advantages: torch.Tensor,
        returns: torch.Tensor,
    ) -> dict[str, float]:
        config = self.config
        tokens = float(mask[minibatch].sum())
        totals = dict.fromkeys(("policy_loss", "clipped", "approx_kl", "value_loss"), torch.tensor(0.0))
        for piece in self._pieces(minibatch, sequences):
            written = mask[piece].bool()
            new = self._logprobs(self.models.policy, piece, sequences, prompts)
            old, advantage = old_logprobs[piece][written], advantages[piece][written]
            ratio = (new - old).exp()
            plain = -advantage * ratio
            clipped = -advantage * ratio.clamp(1 - config.cliprange, 1 + config.cliprange)
            loss = torch.max(plain, clipped).sum()
            (loss / tokens).backward()
            totals["policy_loss"] = totals["policy_loss"] + loss.detach() / tokens
            totals["clipped"] = totals["clipped"] + (clipped > plain).sum().float() / tokens
            log_ratio = (new - old).detach()
            totals["approx_kl"] = totals["approx_kl"] + (log_ratio.exp() - 1 - log_ratio).sum() / tokens
        for piece in self._pieces(minibatch, sequences):
            written = mask[piece].bool()
            new = self._values(self.models.critic, piece, sequences, prompts)
            old, target = old_values[piece][written], returns[piece][written]
            near = old + (new - old).clamp(-config.cliprange_value, config.cliprange_value)
            loss = 0.5 * torch.max((new - target) ** 2, (near - target) ** 2).sum()
            (loss / tokens).backward()
            totals["value_loss"] = totals["value_loss"] + loss.detach() / tokens
        norms = {
            f"grad_norm_{role}": float(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
            for role, parameters in self.models.trained().items()
        }
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=False)
        return {**{name: float(value) for name, value in totals.items()}, **norms}
