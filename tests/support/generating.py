"""`rlhf generate` as its tests call it, and what it has to write."""

import json

import numpy as np

from components.common.chat import Chat
from components.common.device import device_policy
from components.common.generation import Sampling, generate
from components.common.models import load_causal_lm
from components.common.tokenizer import load_tokenizer
from components.inference.generate import Options, generate_file

POLICY = device_policy()
QUESTIONS = [
    "What did Bada the cow say?",
    "the owl",
    "What did Kuna the hen say? What did Kuna the hen say?",
    "say",
    "the dog said",
    "What did Toru the frog say?",
]
SAMPLED = Options(max_completion_length=12, temperature=1.0, seed=3)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(model, source, out, options=SAMPLED, **kwargs):
    generate_file(model, source, out, options, **kwargs)
    return read(out)


def expected(folder, messages, keys, options, model=None):
    """Completions by way of the pieces that training uses."""
    tokenizer = load_tokenizer(folder)
    chat = Chat(tokenizer)
    prompts = [np.asarray(tokenizer(chat.prompt(m), add_special_tokens=False)["input_ids"]) for m in messages]
    sampling = Sampling(
        options.max_completion_length, (chat.end_of_turn_id,), temperature=options.temperature, seed=options.seed
    )
    written = generate(model or load_causal_lm(folder, POLICY), prompts, sampling, POLICY, keys=keys)
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]
    return texts, ["stop" if ids[-1] == chat.end_of_turn_id else "length" for ids in written]
