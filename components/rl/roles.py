"""Four models on one base: policy, critic and reward are adapters, the reference is the base with all adapters off.

Memory is that of one model instead of four. The price is that only one role exists at a time: its forward and backward
passes must be over before another is entered, which `Roles.use` enforces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.common.device import DevicePolicy
from components.common.forward_pass import autocast, backbone, head_logits, last_token_scores
from components.rl.merged import FoldedAdapter
from components.rl.text_reward import TextReward

Role = Literal["policy", "critic", "reward", "reference"]


class Roles:
    """The models of the rl stage.

    Args:
        model: A PEFT model on the base with adapters `policy`, `critic` and, unless there is a separate reward model,
            `reward`.
        value_head: From a hidden state to a value; float32. None where there is no critic.
        score_head: Weight of the reward's head, shape (1, hidden); float32.
        policy: Device and type.
        temperature: Divides the logits.
        separate_reward: A reward model of its own, for a reward that stands on another base.
        text_reward: A reward model with another tokenizer; `scores` is then not to be used.
        merged_rollout: Whether the policy writes with its adapter folded into the base.
    """

    def __init__(
        self,
        model: Any,
        value_head: nn.Linear | None,
        score_head: Tensor,
        policy: DevicePolicy,
        temperature: float,
        separate_reward: Any = None,
        text_reward: TextReward | None = None,
        *,
        merged_rollout: bool = False,
    ) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.model, self.value_head, self.score_head = model, value_head, score_head
        self.device_policy, self._temperature, self._separate = policy, temperature, separate_reward
        self.text_reward = text_reward
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._folded = FoldedAdapter(model, "policy") if merged_rollout else None
        self._active: Role | None = None

    @contextmanager
    def use(self, role: Role) -> Iterator[Any]:
        """Enters a role; everything done with it, backward pass included, belongs inside.

        Raises:
            RuntimeError: Another role is active: its gradients would be computed with this role's weights.
        """
        if self._active is not None:
            raise RuntimeError(f"role {role} entered while {self._active} is active")
        self._active = role
        try:
            with autocast(self.device_policy):
                if role == "reward" and self._separate is not None:
                    yield self._separate
                else:
                    self._switch(role)
                    yield self.model
        finally:
            self._active = None

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Enters the policy for generation alone."""
        with self.use("policy") as model, self._folded.folded() if self._folded else nullcontext():
            yield model

    def _switch(self, role: Role) -> None:
        # Layer by layer: the whole model's `disable_adapter` first takes stock of all parameters, at every call.
        for layer in self._layers:
            if role == "reference":
                layer.enable_adapters(False)
            else:
                if layer.disable_adapters:
                    layer.enable_adapters(True)
                layer.set_adapter(role, inference_mode=role == "reward")

    @property
    def trained(self) -> tuple[Literal["policy", "critic"], ...]:
        """The roles that learn."""
        return ("policy",) if self.value_head is None else ("policy", "critic")

    def parameters(self, role: Literal["policy", "critic"]) -> list[nn.Parameter]:
        """A role's trainable parameters."""
        mark = f".{role}."
        own = [parameter for name, parameter in self.model.named_parameters() if mark in name]
        return own + list(self.value_head.parameters()) if role == "critic" and self.value_head is not None else own

    def logprobs(self, ids: Tensor, written: Tensor) -> Tensor:
        """Log-probabilities of the written tokens under the active role.

        Args:
            ids: Right-padded token ids, shape (rows, width).
            written: Which tokens the policy wrote, boolean, shape (rows, width).

        Returns:
            Shape (written tokens,), row after row. The head sees no other position.
        """
        hidden = self._hidden(ids)[:, :-1][written[:, 1:]]
        logits = head_logits(self.model, hidden) / self._temperature
        logprobs: Tensor = logits.gather(-1, ids[written][:, None]).squeeze(-1) - logits.logsumexp(-1)
        return logprobs

    def values(self, ids: Tensor, written: Tensor) -> Tensor:
        """The active role's value of the state before each written token, shape (written tokens,)."""
        assert self.value_head is not None  # no critic, no values
        hidden = self._hidden(ids)[:, :-1][written[:, 1:]]
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.value_head(hidden.float()).squeeze(-1)
        return values

    def scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The reward model's score of each row, at its last token, shape (rows,); the active role must be `reward`."""
        model = self.model if self._separate is None else self._separate
        return last_token_scores(model, ids, mask, self.score_head)

    def _hidden(self, ids: Tensor) -> Tensor:
        # No attention mask: padding is on the right, where causal attention does not look. Without one, the fastest
        # kernels may be used.
        hidden: Tensor = backbone(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        return hidden
