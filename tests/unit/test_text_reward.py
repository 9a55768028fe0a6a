"""A reward model with another tokenizer is given text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from components.common.chat import Chat, Message
from components.common.device import device_policy
from components.common.errors import InputError
from components.common.tokenizer import tokenizer_identity
from components.prepare.scratch import make_tokenizer
from components.rl.text_reward import TextReward
from tests.support.models import tiny_config

PROMPTS = [
    [Message("user", "What did the cow say?")],
    [Message("user", "the owl"), Message("assistant", "hoo"), Message("user", "and the pig in the tower?")],
]
ANSWERS = ["moo", "oink, said the pig"]


@pytest.fixture
def stranger(tmp_path):
    """A tokenizer of other words."""
    made = make_tokenizer(["which word is it that the cow and the pig and the owl said in a tower"] * 20, 300)
    made.save_pretrained(tmp_path)
    return made


def judge(stranger, folder, labels=1):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config("llama", stranger, num_labels=labels))
    model.save_pretrained(folder)
    return TextReward.load(folder, device_policy())


def test_scores_are_those_of_the_conversation_in_its_own_words(stranger, tokenizer, tmp_path):
    assert tokenizer_identity(stranger) != tokenizer_identity(tokenizer)
    reward = judge(stranger, tmp_path)
    scores = reward.scores(PROMPTS, ANSWERS, max_tokens=10**6)
    for score, prompt, answer in zip(scores, PROMPTS, ANSWERS, strict=True):
        chat = Chat(stranger)
        text = chat.prompt(prompt) + answer + chat.end_of_turn
        ids = torch.tensor([stranger(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            assert score == pytest.approx(reward.model(input_ids=ids).logits.item(), abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-4


def test_an_answer_with_a_special_token_in_its_text_gets_the_worst_score(stranger, tmp_path):
    reward = judge(stranger, tmp_path)
    scores = reward.scores(PROMPTS, ["moo", Chat(stranger).end_of_turn], max_tokens=10**6)
    assert np.isfinite(scores).all()
    assert scores[1] == reward.worst < scores[0]


def test_a_classifier_of_several_classes_is_no_reward_model(stranger, tmp_path):
    with pytest.raises(InputError, match="a reward model has one output, this one 3"):
        judge(stranger, tmp_path, labels=3)
