"""The language-model head where labels are, and nowhere else.

A head over a vocabulary of 50,000 to 150,000 tokens makes the largest tensor of a training step, and most of a
conversation's positions (the prompt, the padding) have no label to compare its logits with. Here only hidden states of
label positions reach the head, a bounded number of logits exists at a time, and each part's gradient is taken while its
logits are there, so that nothing is kept for the backward pass, nor computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from components.common.forward_pass import backbone, head_logits

LOGITS_AT_ONCE = 2**25  # 128 MiB in float32: 221 positions of a vocabulary of 151,936 tokens


class LabelLoss(NamedTuple):
    """What a forward pass gives under `label_head`.

    Attributes:
        nll: Negative log-likelihood in nats, summed over the label tokens; a scalar in float32.
        correct: How many label tokens have the highest logit; a scalar integer.
    """

    nll: torch.Tensor
    correct: torch.Tensor


@contextmanager
def label_head(model: Any) -> Iterator[None]:
    """Makes a causal language model's forward pass return a `LabelLoss` in place of logits.

    The loss is computed inside the model's own `forward`, so that it goes through whatever wraps the model: PEFT,
    mixed precision, DistributedDataParallel with its gradient hooks.

    Args:
        model: With or without adapters; it must be trained inside this context, and is afterwards as it was.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def forward(labels: torch.Tensor, **inputs: Any) -> LabelLoss:
        given = {name: value for name, value in inputs.items() if value is not None}
        hidden = backbone(base)(**given, use_cache=False).last_hidden_state
        return label_loss(base, hidden, labels)

    base.forward = forward
    try:
        yield
    finally:
        del base.forward


def label_loss(model: Any, hidden: torch.Tensor, labels: torch.Tensor) -> LabelLoss:
    """The loss of next tokens from last hidden states.

    Args:
        model: Whose head to use.
        hidden: Last hidden states, shape (rows, width, hidden).
        labels: Token ids where they carry a label, -100 elsewhere, not shifted; shape (rows, width).
    """
    targets = labels[:, 1:]
    wanted = targets != -100
    head = model.get_output_embeddings()
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    at_once = max(1, LOGITS_AT_ONCE // len(head.weight))
    logits_of = partial(head_logits, model)
    loss = _HeadLoss.apply(logits_of, at_once, targets[wanted], hidden[:, :-1][wanted], *trained)  # type: ignore[no-untyped-call]
    return LabelLoss(*loss)


class _HeadLoss(torch.autograd.Function):
    """Summed cross entropy of a head's logits, part by part; the gradients are made in the forward pass.

    The loss is a sum, so its gradients need only be scaled by what arrives in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
        at_once: int,
        targets: torch.Tensor,
        states: torch.Tensor,
        *trained: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros((), device=states.device)
        correct = torch.zeros((), dtype=torch.long, device=states.device)
        # In float32: the scale of the loss comes later, and half precision would lose what is small without it.
        of_states = torch.empty(states.shape, device=states.device)
        of_trained = [torch.zeros(parameter.shape, device=states.device) for parameter in trained]
        for part, wanted, place in zip(
            states.split(at_once), targets.split(at_once), of_states.split(at_once), strict=True
        ):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                logits = logits_of(leaf)
                nll = nn.functional.cross_entropy(logits, wanted, reduction="sum")
            gradients = torch.autograd.grad(nll, (leaf, *trained))
            place.copy_(gradients[0])
            for sums, gradient in zip(of_trained, gradients[1:], strict=True):
                sums += gradient
            total += nll.detach()
            correct += (logits.detach().argmax(-1) == wanted).sum()
        ctx.gradients, ctx.dtypes = (of_states, *of_trained), [states.dtype, *(p.dtype for p in trained)]
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        scaled = [gradient.mul_(scale).to(dtype) for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)]
        ctx.gradients = ()  # scaled in place: a second pass would scale them twice
        return None, None, None, *scaled
