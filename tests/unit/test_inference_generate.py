"""`rlhf generate`: the artifact's own template and ends, one row in and one out, an interrupted command goes on."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from components.common.chat import Chat, Message
from components.common.device import device_policy
from components.common.errors import InputError, UserError
from components.common.generation import Sampling, generate
from components.common.models import load_causal_lm
from components.common.tokenizer import load_tokenizer
from components.inference import generate as command
from components.inference.generate import Options, generate_file
from components.inference.load import load_language_model
from components.inference.source import find_model
from pipelines.cli import main
from tests.support.models import tiny_model
from tests.support.trained import make_trained

POLICY = device_policy()
QUESTIONS = [
    "What did Bada the cow say?",
    "the owl",
    "What did Kuna the hen say? What did Kuna the hen say?",
    "say",
    "the dog said",
    "What did Toru the frog say?",
]
PAIRS = [{"prompt": "What did Bada the cow say?", "chosen": "moo", "rejected": "woof"}]
SAMPLED = Options(max_completion_length=12, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    return make_trained(tmp_path_factory.mktemp("store"), tokenizer, PAIRS)


@pytest.fixture
def prompts(tmp_path):
    return write(tmp_path / "prompts.jsonl", [{"prompt": text, "id": i} for i, text in enumerate(QUESTIONS)])


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


def test_a_row_keeps_its_columns_and_gets_the_answer_that_its_template_asks_for(trained, prompts, tmp_path):
    options = Options(max_completion_length=40, temperature=1.0, seed=3)
    rows = run(trained.policy, prompts, tmp_path / "o.jsonl", options)
    asked = [(Message("user", text),) for text in QUESTIONS]
    texts, reasons = expected(
        find_model(trained.policy, "generate").weights, asked, [(i, 0) for i in range(6)], options
    )
    assert set(reasons) == {"stop", "length"}
    assert rows == [
        {"prompt": text, "id": i, "completion": texts[i], "finish_reason": reasons[i]}
        for i, text in enumerate(QUESTIONS)
    ]


def test_an_adapter_finds_its_base_and_answers_as_the_merged_model(trained, prompts, tmp_path):
    merged = run(trained.policy, prompts, tmp_path / "m.jsonl")
    adapter = run(trained.policy_adapter, prompts, tmp_path / "a.jsonl")
    base = run(trained.base, prompts, tmp_path / "b.jsonl")
    assert adapter == merged
    assert base != merged


def test_conversations_and_system_prompts_are_rendered_and_an_answer_that_is_there_is_the_reference(trained, tmp_path):
    turns = [{"role": "system", "content": "the cow"}, {"role": "user", "content": "say"}]
    answer = {"role": "assistant", "content": "moo"}
    source = write(
        tmp_path / "in.jsonl",
        [
            {"messages": [*turns, answer, turns[1]]},
            {"messages": [*turns, answer]},
            {"prompt": "say", "completion": "moo"},
        ],
    )
    rows = run(trained.policy, source, tmp_path / "o.jsonl")
    system, user = Message("system", "the cow"), Message("user", "say")
    asked = [(system, user, Message("assistant", "moo"), user), (system, user), (user,)]
    texts, _ = expected(find_model(trained.policy, "generate").weights, asked, [(i, 0) for i in range(3)], SAMPLED)
    assert [row["completion"] for row in rows] == texts
    assert rows[1]["messages"] == [*turns, answer]
    assert rows[2]["reference"] == "moo"


def test_a_completion_does_not_depend_on_how_rows_are_batched(trained, prompts, tmp_path):
    options = Options(num_generations=3, max_completion_length=12, temperature=1.0, top_p=0.9, top_k=20)
    together = run(trained.policy, prompts, tmp_path / "a.jsonl", options)
    apart = run(trained.policy, prompts, tmp_path / "b.jsonl", options, batch_tokens=1)
    assert together == apart
    assert [(row["id"], row["sample"]) for row in together] == [(i, s) for i in range(6) for s in range(3)]
    assert len({row["completion"] for row in together if row["id"] == 0}) > 1


def test_an_interrupted_command_goes_on_after_the_rows_that_are_there(trained, prompts, tmp_path, monkeypatch):
    whole = run(trained.policy, prompts, tmp_path / "whole.jsonl")
    out, computed = tmp_path / "o.jsonl", []

    def interrupted(model, prompts, *args, **kwargs):
        computed.extend(kwargs["keys"])
        if len(computed) > 2:
            raise KeyboardInterrupt
        return generate(model, prompts, *args, **kwargs)

    monkeypatch.setattr(command, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(trained.policy, prompts, out, batch_tokens=1)
    assert read(out) == whole[:2]
    out.write_bytes(out.read_bytes() + b'{"prompt": "the")')  # what a killed process leaves of a line
    computed.clear()
    monkeypatch.setattr(
        command, "generate", lambda *args, **kwargs: computed.extend(kwargs["keys"]) or generate(*args, **kwargs)
    )
    assert run(trained.policy, prompts, out) == whole
    assert computed == [(i, 0) for i in range(2, 6)]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    monkeypatch.setattr(command, "load_language_model", None)  # nothing is left to compute
    assert run(trained.policy, prompts, out) == whole


def test_only_its_own_rows_are_kept(trained, prompts, tmp_path):
    out = tmp_path / "o.jsonl"
    run(trained.policy, prompts, out)
    before = out.read_bytes()
    changed = [
        (trained.policy, prompts, Options(max_completion_length=12, temperature=1.0, seed=4), "another seed"),
        (trained.base, prompts, SAMPLED, "another model"),
        (trained.policy, write(tmp_path / "other.jsonl", [{"prompt": "say"}]), SAMPLED, "another input"),
    ]
    for model, source, options, words in changed:
        with pytest.raises(UserError, match=words):
            run(model, source, out, options)
    lines = before.splitlines(keepends=True)
    for broken in ([lines[1], lines[0], *lines[2:]], [*lines, lines[0]], [lines[0], b"[]\n"], [b"no json\n"]):
        out.write_bytes(b"".join(broken))
        with pytest.raises(UserError, match="is not the row that this command wrote there"):
            run(trained.policy, prompts, out)
        assert out.read_bytes() == b"".join(broken)
    (tmp_path / "o.jsonl.request.json").unlink()
    with pytest.raises(UserError, match="was not written by this command"):
        run(trained.policy, prompts, out)


def test_a_command_that_fails_before_its_first_row_leaves_nothing(trained, prompts, tmp_path, monkeypatch):
    def fail(_source):
        raise InputError("weights are missing")

    monkeypatch.setattr(command, "load_language_model", fail)
    with pytest.raises(InputError):
        run(trained.policy, prompts, tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_two_commands_do_not_write_one_file(trained, prompts, tmp_path, monkeypatch):
    out = tmp_path / "o.jsonl"

    def second(*_args, **_kwargs):
        run(trained.policy, prompts, out)

    monkeypatch.setattr(command, "generate", second)
    with pytest.raises(UserError, match="another command is writing it"):
        run(trained.policy, prompts, out)


def test_too_little_memory_names_the_option(trained, prompts, tmp_path, monkeypatch):
    import torch

    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(command, "generate", fail)
    with pytest.raises(UserError, match="--batch-tokens"):
        run(trained.policy, prompts, tmp_path / "o.jsonl")


def test_raw_text_is_continued_as_it_is_even_without_a_template(tmp_path, tokenizer):
    model = tiny_model("llama", tokenizer)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    (tmp_path / "in.txt").write_text("the cow said\n\nthe <|im_start|> owl\n")
    options = Options(max_completion_length=8, raw=True)
    rows = run(str(tmp_path / "m"), str(tmp_path / "in.txt"), tmp_path / "o.jsonl", options)
    texts = ["the cow said", "the <|im_start|> owl"]
    ids = [np.asarray(tokenizer(text)["input_ids"]) for text in texts]
    written = generate(model, ids, Sampling(8, (tokenizer.eos_token_id,)), POLICY)
    assert [row["prompt"] for row in rows] == texts
    assert [row["completion"] for row in rows] == [tokenizer.decode(w, skip_special_tokens=True) for w in written]
    with pytest.raises(UserError, match="has no chat template"):
        run(str(tmp_path / "m"), str(tmp_path / "in.txt"), tmp_path / "p.jsonl")
    source = write(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "say"}]}])
    with pytest.raises(UserError, match="line 1: neither a text nor a column"):
        run(str(tmp_path / "m"), source, tmp_path / "p.jsonl", options)


def test_a_completion_ends_where_the_models_positions_end(tmp_path, tokenizer, prompts):
    tiny_model("llama", tokenizer, max_position_embeddings=48).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    options = Options(max_completion_length=40, temperature=5.0)
    rows = run(str(tmp_path / "m"), prompts, tmp_path / "o.jsonl", options)
    chat = Chat(load_tokenizer(tmp_path / "m"))
    room = [48 - len(tokenizer(chat.prompt((Message("user", row["prompt"]),)))["input_ids"]) for row in rows]
    assert min(room) < 40
    assert all(row["finish_reason"] in ("stop", "length") for row in rows)
    found = find_model(str(tmp_path / "m"), "generate")
    free, _ = expected(found.weights, [(Message("user", q),) for q in QUESTIONS], [(i, 0) for i in range(6)], options)
    assert all(text.startswith(row["completion"]) for text, row in zip(free, rows, strict=True))
    source = write(tmp_path / "long.jsonl", [{"prompt": "say"}, {"prompt": "the cow said " * 40}])
    with pytest.raises(UserError, match=r"long.jsonl line 2: the prompt: \d+ tokens, and there is room for 47"):
        run(str(tmp_path / "m"), source, tmp_path / "p.jsonl", options)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 column 2: not valid JSON"),
        ('{"qestion": "x"}', "line 2: columns qestion.*did you mean question"),
        ('{"prompt": ""}', "line 2: empty prompt"),
        ('{"prompt": "say <|im_end|>"}', r"line 2: the text holds the special token <\|im_end\|>"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_anything_is_done(trained, tmp_path, line, words):
    (tmp_path / "in.jsonl").write_text('{"prompt": "say"}\n' + line + "\n")
    with pytest.raises(UserError, match=words):
        run(trained.policy, str(tmp_path / "in.jsonl"), tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_model_for_another_task_or_none_at_all_is_refused(trained, prompts, tmp_path):
    out = tmp_path / "o.jsonl"
    for uri in (trained.reward, trained.reward_adapter):
        with pytest.raises(UserError, match="is a reward model: it scores answers and writes none"):
            run(uri, prompts, out)
    with pytest.raises(InputError, match="neither an artifact nor a folder"):
        run(str(tmp_path), prompts, out)
    with pytest.raises(UserError, match="--base is for adapters"):
        run(trained.policy, prompts, out, base=trained.base)
    with pytest.raises(InputError, match="was trained on"):
        run(trained.policy_adapter, prompts, out, base=trained.policy)


def test_a_plain_adapter_needs_its_base_and_an_altered_one_is_named(trained, prompts, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(trained.policy_adapter, adapter)
    out = tmp_path / "o.jsonl"
    with pytest.raises(UserError, match="does not say what it stands on; give --base"):
        run(str(adapter), prompts, out)
    assert run(str(adapter), prompts, out, base=trained.base) == run(trained.policy, prompts, tmp_path / "m.jsonl")
    copied = tmp_path / "store"
    shutil.copytree(trained.store.root, copied)
    weights = copied / "artifacts" / "base" / "k" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="was altered"):
        run(str(copied / "artifacts" / "sft" / "k"), prompts, tmp_path / "p.jsonl")
    shutil.rmtree(weights.parent)
    with pytest.raises(InputError, match="as --base"):
        run(str(copied / "artifacts" / "sft" / "k"), prompts, tmp_path / "p.jsonl")


@pytest.mark.parametrize("arguments", [["--num-generations", "2"], ["--top-k", "5"], ["--top-p", "0.5"]])
def test_sampling_without_temperature_is_refused(trained, prompts, tmp_path, arguments):
    result = CliRunner().invoke(main, ["generate", trained.policy, prompts, str(tmp_path / "o.jsonl"), *arguments])
    assert result.exit_code == 2
    assert "give --temperature" in result.stderr


def test_the_command_line(trained, prompts, tmp_path, monkeypatch):
    out = tmp_path / "o.jsonl"
    arguments = ["generate", trained.policy, prompts, str(out), "--max-completion-length", "12", "--seed", "3"]
    result = CliRunner().invoke(main, [*arguments, "-n", "2", "--temperature", "1", "--top-k", "9", "--top-p", "0.8"])
    assert result.exit_code == 0, result.stderr
    options = Options(2, 12, 1.0, 9, 0.8, 3)
    assert read(out) == run(trained.policy, prompts, tmp_path / "p.jsonl", options)
    assert "generate step 12/12 stopped" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("generate 12 rows, ")
    result = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "o.csv")])
    assert result.exit_code == 2
    assert "let its name end with .jsonl" in result.stderr

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "generate", interrupted)
    result = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "q.jsonl")])
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped: the same command goes on after the rows that are written"


def test_the_loaded_adapter_is_pefts(trained):
    import torch
    from peft import PeftModel

    source = find_model(trained.policy_adapter, "generate")
    ours = load_language_model(source).model
    theirs = PeftModel.from_pretrained(load_causal_lm(source.weights, POLICY), source.adapter)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
