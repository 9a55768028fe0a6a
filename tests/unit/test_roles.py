"""Four roles on one base: the reference is the base, ratios start at 1, the reward judges as it was trained to."""

import json

import numpy as np
import pytest
import torch

from components.common.errors import InputError
from components.common.forward_pass import last_token_scores, pad
from components.common.generation import Sampling
from components.rl import ppo
from components.rl.experience import gather_experience, micro_batches, minibatches
from components.rl.rollout import prompt_rows, roll_out
from components.rl.update import Optimizers, update
from tests.support.little_roles import CONFIG, POLICY, QUESTIONS, batch, make_roles, make_rollout, make_setup
from tests.support.models import FAMILIES, randomise_lora, save_reward_adapter, tiny_model
from tests.support.one_base import make_prompts


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def base(family, tokenizer, tmp_path):
    tiny_model(family, tokenizer).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def reward_adapter(base, tokenizer, tmp_path):
    """A reward adapter with a score head, as the reward stage saves it, and its model."""
    return tmp_path / "reward", save_reward_adapter(base, tmp_path / "reward", tokenizer.pad_token_id)


@pytest.fixture
def roles(base, reward_adapter):
    return make_roles(base, reward_adapter[0])


@pytest.fixture
def prompts(tokenizer):
    return make_prompts(tokenizer, QUESTIONS)


def test_kl_is_exactly_zero_and_ratios_exactly_one_before_the_first_step(roles, prompts, tokenizer):
    rollout = make_rollout(roles, prompts, tokenizer)
    experience = gather_experience(make_setup(roles, prompts, tokenizer), rollout, CONFIG.beta, step=0)
    assert torch.equal(experience.logprobs, experience.reference)
    assert (experience.kl() == 0).all()
    with roles.use("policy"):
        for minibatch in minibatches(CONFIG, 0, 0, seed=0):
            for rows in micro_batches(rollout, minibatch, CONFIG.per_device_train_batch_size):
                new = roles.logprobs(*batch(rollout, rows))
                assert new.requires_grad
                old = experience.logprobs[rows][rollout.mask[rows].bool()]
                assert torch.equal((new - old).exp(), torch.ones_like(new))


def test_sampling_and_scoring_agree_on_padded_batches(roles, prompts, tokenizer):
    randomise_lora(roles.model, "policy", seed=9)
    rollout = make_rollout(roles, prompts, tokenizer)
    with torch.no_grad(), roles.use("policy") as model:
        scored = roles.logprobs(*batch(rollout, range(len(rollout))))
        alone = []
        for prompt, completion in zip(rollout.prompts, rollout.completions, strict=True):
            ids = torch.tensor(np.concatenate([prompt, completion]))[None]
            logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            alone.append(logprobs.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1))
    assert torch.allclose(scored, torch.cat(alone), atol=1e-4)
    # Greedy decoding from a left-padded, cached batch picks what the scoring pass finds likeliest.
    greedy = roll_out(roles, prompts, range(6), Sampling(6, (-1,)), 1, max_tokens=10**6)
    with torch.no_grad(), roles.use("policy") as model:
        for prompt, completion in zip(greedy.prompts, greedy.completions, strict=True):
            ids = torch.tensor(np.concatenate([prompt, completion]))[None]
            best = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
            assert best.tolist() == completion.tolist()


def test_a_rollout_scores_as_that_conversation_does_as_a_reward_model_row(roles, reward_adapter, prompts, tokenizer):
    _, reward_model = reward_adapter
    rollout = make_rollout(roles, prompts, tokenizer)
    ids, mask, _ = rollout.batch(range(len(rollout)), POLICY.device)
    with torch.no_grad():
        with roles.use("reward"):
            scores = roles.scores(ids, mask)
        for row, sequence in enumerate(rollout.sequences):
            expected = reward_model(input_ids=torch.tensor(sequence)[None]).logits.squeeze()
            assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_values_start_as_the_reward_model_sees_the_state(roles, reward_adapter, prompts, tokenizer):
    _, reward_model = reward_adapter
    rollout = make_rollout(roles, prompts, tokenizer)
    with torch.no_grad(), roles.use("critic"):
        values = roles.values(*batch(rollout, [0]))
    ids, mask = pad([rollout.prompts[0]], 0, POLICY.device)
    head = reward_model.get_base_model().score.modules_to_save["default"].weight
    with torch.no_grad():
        assert values[0].item() == pytest.approx(last_token_scores(reward_model, ids, mask, head).item(), abs=1e-5)


def test_an_update_changes_policy_and_critic_and_nothing_else(roles, prompts, tokenizer):
    setup = make_setup(roles, prompts, tokenizer)
    experience = gather_experience(setup, make_rollout(roles, prompts, tokenizer), CONFIG.beta, step=0)
    before = {name: p.detach().clone() for name, p in roles.model.named_parameters()}
    optimizers = Optimizers.build(roles, CONFIG.model_copy(update={"warmup_ratio": 0.0}))
    values = update(roles, experience, optimizers, CONFIG, step=0, seed=0)
    changed = {name for name, p in roles.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {n for n in before if ".policy." in n or ".critic." in n}
    assert values["grad_norm_policy"] > 0
    assert values["grad_norm_critic"] > 0


def test_gradients_keep_their_place_in_memory(roles, prompts, tokenizer):
    """Made anew in each backward pass, they would scatter over the memory that activations need next."""
    setup = make_setup(roles, prompts, tokenizer)
    experience = gather_experience(setup, make_rollout(roles, prompts, tokenizer), CONFIG.beta, step=0)
    optimizers = Optimizers.build(roles, CONFIG)
    trained = [*roles.parameters("policy"), *roles.parameters("critic")]
    places = [parameter.grad.data_ptr() for parameter in trained]
    update(roles, experience, optimizers, CONFIG, step=0, seed=0)
    assert [parameter.grad.data_ptr() for parameter in trained] == places
    assert not any(parameter.grad.any() for parameter in trained)


def test_an_update_makes_good_completions_likelier(roles, prompts, tokenizer):
    setup = make_setup(roles, prompts, tokenizer)
    rollout = make_rollout(roles, prompts, tokenizer)
    experience = gather_experience(setup, rollout, CONFIG.beta, step=0)
    optimizers = Optimizers.build(roles, CONFIG.model_copy(update={"warmup_ratio": 0.0}))
    update(roles, experience, optimizers, CONFIG, step=0, seed=0)
    with torch.no_grad(), roles.use("policy"):
        new = roles.logprobs(*batch(rollout, range(len(rollout))))
    gain = new - experience.logprobs[rollout.mask.bool()]
    advantages = experience.advantages[rollout.mask.bool()]
    assert (gain * advantages).mean() > 0.01


def test_one_role_at_a_time(roles):
    with (
        roles.use("policy"),
        pytest.raises(RuntimeError, match="critic entered while policy is active"),
        roles.use("critic"),
    ):
        pass
    with roles.use("reference"):
        pass


def test_prompts_come_shuffled_epoch_by_epoch_from_the_step_number():
    batches = [prompt_rows(range(100, 107), step, 3, seed=1) for step in range(14)]
    epochs = [row for batch in batches for row in batch]
    for epoch in range(6):
        assert sorted(epochs[7 * epoch : 7 * epoch + 7]) == list(range(100, 107))
    assert epochs[:7] != epochs[7:14]
    assert prompt_rows(range(100, 107), 4, 3, seed=1) == batches[4]
    assert max(len(prompt_rows([5], 0, 4, seed=0)), 0) == 4


@pytest.mark.parametrize("family", ["llama"], indirect=True)
class TestAdapterWeights:
    def test_a_missing_tensor_is_named(self, base, reward_adapter, tmp_path):
        self.change(reward_adapter[0], lambda tensors: tensors.pop(next(n for n in tensors if "lora_B" in n)))
        with pytest.raises(InputError, match="there are no weights for"):
            make_roles(base, reward_adapter[0])

    def test_a_tensor_without_place_is_named(self, base, reward_adapter):
        def rename(tensors):
            name = next(n for n in tensors if "lora_B" in n)
            tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight"] = tensors.pop(name)

        self.change(reward_adapter[0], rename)
        with pytest.raises(InputError, match=r"layers\.9.* has no place"):
            make_roles(base, reward_adapter[0])

    def test_a_wrong_shape_is_named(self, base, reward_adapter):
        config = reward_adapter[0] / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "r": 8}))
        with pytest.raises(InputError, match="has no place"):
            make_roles(base, reward_adapter[0])

    @staticmethod
    def change(folder, edit):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "adapter_model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")


def test_advantages_are_white_and_returns_consistent(roles, prompts, tokenizer):
    rollout = make_rollout(roles, prompts, tokenizer)
    experience = gather_experience(make_setup(roles, prompts, tokenizer), rollout, CONFIG.beta, step=0)
    assert ppo.masked_mean(experience.advantages, rollout.mask).item() == pytest.approx(0, abs=1e-5)
    # gamma is 1 and beta × KL is 0 here: a return is what the value function and the score at the end say.
    last = rollout.mask.long().sum(1) - 1
    scores = experience.worth.total - CONFIG.missing_eos_penalty * ~rollout.ended
    assert torch.allclose(experience.returns[torch.arange(12), last], torch.tensor(scores).float(), atol=1e-5)
