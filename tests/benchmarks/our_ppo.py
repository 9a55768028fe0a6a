"""The rl stage on the task of bench_ppo_trl: our half, and what measures both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.ppo_task import SETTINGS, TASKS

HELD_OUT = 200


def config(task: dict[str, Any], functions: tuple[str, ...] = ()) -> Any:
    """Our settings for one run."""
    from components.rl.config import RlConfig

    return RlConfig(
        **{name: task[name] for name in (*SETTINGS, *TASKS["stories"].settings)},
        max_steps=task["steps"],
        critic_learning_rate=task["learning_rate"],
        lr_scheduler_type="constant",
        per_device_train_batch_size=task["rollout_batch_size"] // 4,
        max_grad_norm=1e9,
        num_eval_prompts=HELD_OUT,
        num_samples=1,
        reward_functions=[{"function": function, "weight": 0.0} for function in functions],
    )


def train_ours(task: dict[str, Any]) -> dict[str, Any]:
    """Runs our loop in this process, saves the policy's adapter and says what it took."""
    from components.common.saving import save_adapter
    from components.rl.rollout import Prompts
    from tests.support import one_base

    settings = config(task)
    out = Path(task["output"])
    roles = one_base.load_roles(Path(task["base"]), Path(task["reward_adapter"]), settings, task["seed"], out)
    prompts = Prompts.load(Path(task["data"]) / "train")
    trainer = one_base.Trainer(roles, prompts, settings, task["seed"], task["stop"])
    began, began_cpu = time.monotonic(), time.process_time()
    metrics = [trainer.step(step).metrics for step in range(task["steps"])]
    cpu, wall = time.process_time() - began_cpu, time.monotonic() - began
    save_adapter(roles.model, out, base="base", adapter="policy")
    optimizer = trainer.learner.optimizers.optimizer
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "optimizer_steps": int(next(iter(optimizer.state.values()))["step"]),
        "trainable_parameters": sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        # As TRL reports it: less the penalty.
        "rewards": [m["reward"] - settings.missing_eos_penalty * (1 - m["ended"]) for m in metrics],
        "kl": [m["kl"] for m in metrics],
    }


def evaluate(task: dict[str, Any]) -> dict[str, float]:
    """Measures a saved policy, or the base, on the held-out prompts."""
    from components.common.adapters import load_adapter_weights
    from components.common.chat import Chat
    from components.common.tokenizer import load_tokenizer
    from components.rl.experience import Setup
    from components.rl.measure import measure
    from components.rl.rewards import reward_functions
    from components.rl.rollout import Prompts
    from tests.support import one_base

    settings = config(task, (task["right"],))
    out = Path(task["output"])
    roles = one_base.load_roles(Path(task["base"]), Path(task["reward_adapter"]), settings, 0, out)
    if (out / "adapter_model.safetensors").is_file():
        load_adapter_weights(roles.model, out, "policy")
    tokenizer = load_tokenizer(Path(task["base"]))
    heldout = Prompts.load(Path(task["data"]) / "heldout")

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    setup = Setup(roles, heldout, decode, reward_functions(settings), settings, seed=0)
    return measure(setup, list(range(len(heldout)))[:HELD_OUT], Chat(tokenizer).end_of_turn_id).metrics()
