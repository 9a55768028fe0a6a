"""What the stages' metrics are called, which way is better, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.report import formats

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Metric:
    """A metric as a reader meets it.

    Attributes:
        label: Its name in words.
        better: The direction of improvement; empty where none is.
        unit: Of its values.
        is_share: Whether values are shares of 1, written as per cent.
    """

    label: str
    better: Better = ""
    unit: str = ""
    is_share: bool = False

    def show(self, value: float, digits: int = 3) -> str:
        """A value without its unit."""
        return formats.percent(value, digits - 2) if self.is_share else formats.number(value, digits)

    def show_pair(self, before: float, after: float) -> tuple[str, str]:
        """Two values with as many digits as it takes to tell them apart."""
        for digits in range(3, 7):
            pair = self.show(before, digits), self.show(after, digits)
            if pair[0] != pair[1] or before == after:
                break
        return pair

    def show_change(self, change: float) -> str:
        """A difference of two values, with its sign."""
        if change == 0:
            return "0"
        text = f"{formats.number(change * 100)} points" if self.is_share else formats.number(change)
        return f"+{text}" if change > 0 else text


# Numbers that say how much was measured, not how well it went.
SIZES = ("tokens", "prompts", "pairs", "pairs_equal_length", "pairs_chosen_longer", "pairs_chosen_shorter")

# In the order in which they are shown.
_KNOWN = {
    "perplexity": Metric("Perplexity", "lower"),
    "reward": Metric("Reward", "higher"),
    "accuracy": Metric("Pairwise accuracy", "higher", is_share=True),
    "margin": Metric("Margin", "higher"),
    "loss": Metric("Loss", "lower", "nats"),
    "ranking_accuracy": Metric("Chosen more likely", "higher", is_share=True),
    "exact_match": Metric("Exact match", "higher", is_share=True),
    "token_accuracy": Metric("Token accuracy", "higher", is_share=True),
    "accuracy_equal_length": Metric("Accuracy, equal length", "higher", is_share=True),
    "accuracy_chosen_longer": Metric("Accuracy, chosen longer", "higher", is_share=True),
    "accuracy_chosen_shorter": Metric("Accuracy, chosen shorter", "higher", is_share=True),
    "accuracy_head_only": Metric("Accuracy, adapter off", "", is_share=True),
    "log_prob_chosen": Metric("Log-probability, chosen", "", "nats/answer"),
    "log_prob_rejected": Metric("Log-probability, rejected", "", "nats/answer"),
    "kl": Metric("KL from the reference", "", "nats/answer"),
    "kl_k3": Metric("KL, k3 estimate", "", "nats/answer"),
    "approx_kl": Metric("KL from the rollout policy", "", "nats/token"),
    "beta": Metric("KL coefficient β"),
    "entropy": Metric("Entropy", "", "nats/token"),
    "ended": Metric("Answers that end", "higher", is_share=True),
    "completion_tokens": Metric("Completion length", "", "tokens"),
    "clipped": Metric("Clipped share", "", is_share=True),
    "value_loss": Metric("Value loss", "lower"),
    "explained_variance": Metric("Explained variance", "higher"),
    "policy_loss": Metric("Policy loss"),
    "lr": Metric("Learning rate"),
    "grad_norm": Metric("Gradient norm"),
    "grad_norm_policy": Metric("Gradient norm, policy"),
    "grad_norm_critic": Metric("Gradient norm, critic"),
}
_ORDER = {name: index for index, name in enumerate(_KNOWN)}


def describe(name: str) -> Metric:
    """A metric by its name; one that is not ours is a reward function's, of which more is better."""
    return _KNOWN.get(name) or Metric(name.replace("_", " ").strip().capitalize() or name, "higher")


def is_reward(name: str) -> bool:
    """Whether a curve is a reward: the reward model's or a reward function's."""
    return name == "reward" or name not in _KNOWN


def rank(name: str) -> tuple[int, str]:
    """Sorts metrics as they are shown: reward functions next to the reward model's reward."""
    return _ORDER.get(name, _ORDER["reward"]), name if name not in _ORDER else ""
