"""Policy, critic and reward model on a base small enough for a test, and what they roll out."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from components.common.adapters import load_adapter_weights, read_adapter_config
from components.common.device import device_policy
from components.common.generation import Sampling
from components.common.trainables import lora_targets
from components.rl.config import RlConfig
from components.rl.experience import Setup
from components.rl.roles import Roles
from components.rl.rollout import roll_out

POLICY = device_policy()
QUESTIONS = ["What did the cow say?", "the", "cow pig duck hen owl frog", "said oink in the tower", "owl", "baa moo"]
CONFIG = RlConfig(
    rollout_batch_size=12,
    num_mini_batches=2,
    num_ppo_epochs=2,
    per_device_train_batch_size=3,
    max_completion_length=6,
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    num_generations=2,
)


def make_roles(base, reward_folder, temperature=1.0):
    """All roles on one base; reward model and critic begin as a saved reward adapter."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    targets = lora_targets(model)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets), adapter_name="policy")
    for name in ("reward", "critic"):
        model.add_adapter(name, read_adapter_config(reward_folder))
        head = load_adapter_weights(model, reward_folder, name)
    value_head = nn.Linear(head.shape[1], 1)
    with torch.no_grad():
        value_head.weight.copy_(head)
        value_head.bias.zero_()
    return Roles(model.eval(), value_head, head, POLICY, temperature)


def make_rollout(roles, prompts, tokenizer, seed=0):
    sampling = Sampling(CONFIG.max_completion_length, (tokenizer.eos_token_id,), CONFIG.temperature, seed, 0)
    return roll_out(roles, prompts, range(6), sampling, CONFIG.num_generations, max_tokens=10**6)


def batch(rollout, rows):
    """Token ids, and which of them the policy wrote."""
    ids, _, written = rollout.batch(rows, POLICY.device)
    return ids, written


def make_setup(roles, prompts, tokenizer):
    return Setup(roles, prompts, lambda ids: tokenizer.decode(ids), (), CONFIG, seed=0)
