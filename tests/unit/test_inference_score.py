"""`rlhf score`: the tokens that the reward model was trained on, hence its very scores; pairs, lists, best of n."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from components.common.errors import InputError, UserError
from components.inference.generate import Options, generate_file
from components.inference.score import score_file
from pipelines.cli import main
from tests.support import toy
from tests.support.trained import make_trained

PAIRS = [
    {
        "prompt": f"What did {name} the {animal} say?",
        "chosen": says,
        "rejected": "the owl in the field" if i % 3 else "moo x",
    }
    for i, (name, animal, says) in enumerate(zip(toy.NAMES, toy.ANIMALS, toy.SAYS, strict=False))
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    return make_trained(tmp_path_factory.mktemp("store"), tokenizer, PAIRS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(model, rows, folder, name="o", **kwargs):
    source = write(folder / f"{name}-in.jsonl", rows)
    score_file(model, source, folder / f"{name}.jsonl", **kwargs)
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", ["reward", "reward_adapter"])
def test_pairs_get_the_scores_of_training_and_the_last_line_says_who_wins(trained, tmp_path, capsys, model):
    rows = run(getattr(trained, model), [{**pair, "id": i} for i, pair in enumerate(PAIRS)], tmp_path)
    assert [(row["id"], row["prompt"]) for row in rows] == [(i, pair["prompt"]) for i, pair in enumerate(PAIRS)]
    assert [row["score_chosen"] for row in rows] == pytest.approx(trained.chosen, abs=1e-4)
    assert [row["score_rejected"] for row in rows] == pytest.approx(trained.rejected, abs=1e-4)
    margins = trained.chosen - trained.rejected
    assert 0 < (margins > 0).mean() < 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"score accuracy {(margins > 0).mean():.4f} margin {margins.mean():.4f} of {len(PAIRS)} pairs"


def test_every_form_of_an_answer_gets_the_same_score(trained, tmp_path, capsys):
    forms = {
        "completion": [{"prompt": p["prompt"], "completion": f" {p['chosen']}\n", "output": "other"} for p in PAIRS],
        "response": [{"question": p["prompt"], "response": p["chosen"]} for p in PAIRS],
        "messages": [
            {
                "messages": [
                    {"role": "user", "content": p["prompt"]},
                    {"role": "assistant", "content": p["chosen"]},
                ]
            }
            for p in PAIRS
        ],
    }
    for name, rows in forms.items():
        scored = run(trained.reward, rows, tmp_path, name)
        assert [row["score"] for row in scored] == pytest.approx(trained.chosen, abs=1e-4)
        assert [{k: v for k, v in row.items() if k != "score"} for row in scored] == rows
        assert f"score mean {trained.chosen.mean():.4f} of {len(PAIRS)} scores" in capsys.readouterr().out
    lists = [{"prompt": p["prompt"], "completions": [p["rejected"], p["chosen"]]} for p in PAIRS]
    scored = run(trained.reward, lists, tmp_path, "lists")
    wanted = np.stack([trained.rejected, trained.chosen], 1)
    assert np.abs(np.asarray([row["scores"] for row in scored]) - wanted).max() < 1e-4


def test_best_of_keeps_the_highest_score_of_each_prompt(trained, tmp_path):
    better = np.maximum(trained.chosen, trained.rejected)
    names = np.where(trained.chosen > trained.rejected, "chosen", "rejected")
    texts = [pair[name] for pair, name in zip(PAIRS, names, strict=True)]
    lists = [{"prompt": p["prompt"], "completions": [p["rejected"], p["chosen"]], "id": 3} for p in PAIRS]
    rows = [
        {"prompt": p["prompt"], "completion": p[side], "sample": sample}
        for p in PAIRS
        for sample, side in enumerate(("chosen", "rejected"))
    ]
    for name, source in {"lists": lists, "rows": rows}.items():
        best = run(trained.reward, source, tmp_path, name, best_of=True)
        assert [row["completion"] for row in best] == texts
        assert [row["score"] for row in best] == pytest.approx(better, abs=1e-4)
        assert all("completions" not in row for row in best)
    twice = [*rows[:2], *rows[:2], *rows[2:4]]  # the same prompt twice in the source
    assert len(run(trained.reward, twice, tmp_path, "twice", best_of=True)) == 3


def test_what_generate_writes_can_be_scored(trained, tmp_path):
    source = write(tmp_path / "p.jsonl", [{"instruction": p["prompt"], "output": p["chosen"]} for p in PAIRS])
    written = tmp_path / "written.jsonl"
    generate_file(trained.policy, source, written, Options(4, 1, 3.0))
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert "" in {row["completion"] for row in rows}  # an answer may be empty
    scored = run(trained.reward, rows, tmp_path, "all")
    best = run(trained.reward, rows, tmp_path, "best", best_of=True)
    assert len(best) == len(PAIRS)
    for index, row in enumerate(best):
        assert row["score"] == max(other["score"] for other in scored[4 * index : 4 * index + 4])
        assert row in scored


def test_rows_that_are_there_are_not_scored_again(trained, tmp_path, capsys):
    whole = run(trained.reward, PAIRS, tmp_path)
    line = capsys.readouterr().out.splitlines()[-1]
    out = tmp_path / "o.jsonl"
    lines = out.read_bytes().splitlines(keepends=True)
    marked = json.dumps({**whole[0], "score_chosen": 1e3}).encode() + b"\n"
    out.write_bytes(marked + lines[1] + lines[2][:9])
    rows = run(trained.reward, PAIRS, tmp_path, batch_tokens=1)
    assert rows[0]["score_chosen"] == 1e3
    assert rows[1:] == [
        {**row, **{k: pytest.approx(v, abs=1e-5) for k, v in row.items() if "score" in k}} for row in whole[1:]
    ]
    assert capsys.readouterr().out.splitlines()[-1] != line


def test_a_head_that_was_not_trained_with_this_model_is_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "rm"
    shutil.copytree(trained.reward, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] *= -1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="does not score as it did when it was trained"):
        run(str(folder), PAIRS, tmp_path)
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "best_of", "words"),
    [
        ([PAIRS[0], {"prompt": "a", "completion": "b"}], False, "line 2: holds one answer, the first row a pair"),
        ([PAIRS[0]], True, "line 1: holds a pair, of which the best is known"),
        ([{"prompt": "a"}], False, "line 1: columns prompt"),
        ([{"prompt": "a", "completion": "<|pad|>"}], False, r"line 1: the text holds the special token <\|pad\|>"),
        ([{"prompt": "the cow said " * 600, "completion": "b"}], False, r"prompt and answer: \d+ tokens"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(trained, tmp_path, rows, best_of, words):
    with pytest.raises(UserError, match=words):
        run(trained.reward, rows, tmp_path, best_of=best_of)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_model_without_score_head_is_refused(trained, tmp_path):
    for uri in (trained.policy, trained.policy_adapter, trained.base):
        with pytest.raises(UserError, match="is no reward model"):
            run(uri, PAIRS, tmp_path)


def test_the_command_line(trained, tmp_path):
    source = write(tmp_path / "in.jsonl", PAIRS)
    result = CliRunner().invoke(main, ["score", trained.reward, source, str(tmp_path / "o.jsonl")])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("score accuracy ")
    lists = write(tmp_path / "l.jsonl", [{"prompt": "a", "completions": ["b", "c"]}])
    result = CliRunner().invoke(main, ["score", trained.reward, lists, str(tmp_path / "b.jsonl"), "--best-of"])
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "b.jsonl").read_text())["completion"] in ("b", "c")
