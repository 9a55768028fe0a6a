"""`rlhf generate`: the artifact's own template and ends, one row in and one out, whatever else is in the batch."""

import numpy as np
import pytest
from click.testing import CliRunner

from components.common.chat import Chat, Message
from components.common.errors import UserError
from components.common.generation import Sampling, generate
from components.common.tokenizer import load_tokenizer
from components.inference import generate as command
from components.inference.generate import Options
from components.inference.source import find_model
from pipelines.cli import main
from tests.support.generating import POLICY, QUESTIONS, SAMPLED, expected, read, run, write
from tests.support.models import tiny_model


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
