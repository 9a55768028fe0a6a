"""What each training stage leaves in a store, for the report's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.report_curves import QUESTIONS, answers, cosine, curve, falling, rising
from tests.support.report_store import Made


def write_stage(made: Made, stage: str, model: str, **changes: Any) -> None:
    """Writes a training stage's artifact under its name."""
    parents = {"model": model, "dataset": "data-reward" if stage == "dpo" else f"data-{stage}"}
    metrics: dict[str, Any] = {"trainable_parameters": 262_144}
    curves: Sequence[Mapping[str, float]]
    samples: Sequence[Mapping[str, str]]
    if stage in ("pretrain", "sft"):
        curves = curve(
            400,
            5,
            {
                "loss": falling(3.2, 1.4, 0.08),
                "token_accuracy": rising(0.3, 0.68),
                "lr": cosine(4e-4),
                "grad_norm": falling(1.5, 0.5, 0.1),
            },
        )
        metrics["before"] = {"loss": 3.246, "perplexity": 25.68, "tokens": 13940}
        metrics["after"] = {"loss": 1.5897, "perplexity": 4.902, "tokens": 13940}
        samples = [
            {
                "prompt": "S52.52 Torus fracture of lower",
                "reference": " end of radius<|im_end|>",
                "before": " the the the the of of",
                "answer": " end of ulna<|im_end|>",
            }
        ] * 3
    if stage == "sft":
        metrics["before"] |= {"exact_match": 0.0195, "prompts": 256}
        metrics["after"] |= {"exact_match": 0.7109, "prompts": 256}
        samples = answers(1, 7)
    if stage == "reward":
        curves = curve(
            400,
            4,
            {
                "loss": falling(0.69, 0.12, 0.03),
                "accuracy": rising(0.5, 0.96),
                "margin": rising(0, 3.2, 0.2),
                "lr": cosine(1e-4),
                "grad_norm": falling(1.5, 0.5, 0.1),
            },
        )
        metrics["before"] = {
            "accuracy": 0.5,
            "accuracy_equal_length": 0.5,
            "loss": 0.6931,
            "margin": 0.0,
            "pairs": 377,
            "pairs_equal_length": 377,
        }
        metrics["after"] = {
            "accuracy": 0.9602,
            "accuracy_equal_length": 0.9602,
            "accuracy_head_only": 0.6127,
            "loss": 0.1204,
            "margin": 3.1875,
            "pairs": 377,
            "pairs_equal_length": 377,
        }
        samples = [
            {
                "prompt": q,
                "chosen": a,
                "rejected": b,
                "score_chosen": f"{1.8 - i / 2:.3f}",
                "score_rejected": f"{i / 2 - 1.9:.3f}",
            }
            for i, (q, a, b) in enumerate(QUESTIONS)
        ]
    if stage == "dpo":
        curves = curve(
            400,
            4,
            {
                "loss": falling(0.69, 0.12, 0.03),
                "accuracy": rising(0.5, 0.96),
                "margin": rising(0, 3.2, 0.2),
                "log_prob_chosen": falling(-3.1, -4.9, 0.2),
                "log_prob_rejected": falling(-3.4, -38.0, 1.0),
                "lr": cosine(5e-5),
            },
        )
        metrics["before"] = {
            "accuracy": 0.5,
            "ranking_accuracy": 0.5411,
            "loss": 0.6931,
            "margin": 0.0,
            "log_prob_chosen": -3.12,
            "log_prob_rejected": -3.41,
            "exact_match": 0.4219,
            "pairs": 377,
            "prompts": 128,
        }
        metrics["after"] = {
            "accuracy": 0.9602,
            "ranking_accuracy": 0.9549,
            "loss": 0.1204,
            "margin": 3.1875,
            "log_prob_chosen": -4.87,
            "log_prob_rejected": -37.04,
            "exact_match": 0.7031,
            "pairs": 377,
            "prompts": 128,
        }
        metrics["exact_match_gain"] = {"mean": 0.2812, "low": 0.1953, "high": 0.3672}
        samples = [
            {**row, "chosen": right, "rejected": wrong, "score_chosen": f"{i / 9:.3f}", "score_rejected": "0.400"}
            for i, (row, (_, right, wrong)) in enumerate(zip(answers(3, 7), QUESTIONS, strict=True))
        ]
    if stage == "rl":
        parents |= {"reward": "reward", "reward_model": "merge-reward"}
        curves = curve(
            120,
            1,
            {
                "reward": rising(0.4, 1.9, 0.15),
                "exact_answer": rising(0.55, 0.81, 0.05),
                "kl": lambda t, r: 2.6 * t + abs(r.gauss(0, 0.1)) * t,
                "kl_k3": lambda t, r: 2.7 * t,
                "entropy": falling(0.9, 0.35, 0.04),
                "value_loss": falling(0.6, 0.08, 0.02),
                "policy_loss": lambda t, r: r.gauss(-0.01, 0.01),
                "clipped": rising(0.01, 0.12, 0.02),
                "completion_tokens": falling(14, 9, 0.6),
                "ended": rising(0.93, 1.0, 0.004),
                "explained_variance": rising(-0.2, 0.8, 0.05),
                "approx_kl": falling(0.04, 0.01, 0.004),
                "beta": lambda t, r: 0.05,
                "lr": lambda t, r: 5e-5 * (1 - t),
                "grad_norm_policy": falling(1.2, 0.5, 0.1),
                "grad_norm_critic": falling(3, 0.7, 0.2),
            },
        )
        metrics["before"] = {"reward": 0.412, "exact_answer": 0.5547, "kl": 0.0, "ended": 0.9375, "prompts": 256}
        metrics["after"] = {"reward": 1.834, "exact_answer": 0.8086, "kl": 2.71, "ended": 1.0, "prompts": 256}
        metrics |= {
            "reward_gain": {"mean": 1.422, "low": 1.231, "high": 1.607},
            "exact_answer_gain": {"mean": 0.254, "low": 0.187, "high": 0.316},
        }
        metrics["solve_rate"] = {"chapter": 0.91, "encounter": 0.64, "full text": 0.12, "side": 0.55}
        samples = answers(5, 8)
    changed = {**metrics, **{name: {**metrics.get(name, {}), **value} for name, value in changes.items()}}
    made.artifact(stage, stage, "adapter", parents, changed, curves, samples)
