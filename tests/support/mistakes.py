"""What users get wrong, one mistake each: what `docs/errors.md` lists and `tests/unit/test_bad_input.py` makes."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.common.artifacts import Manifest, Parent, commit, list_files
from components.common.entry import guarded, stage_main
from components.common.store import DirectoryStore
from components.common.trainer import batch_shape
from components.common.training import TrainingConfig
from components.data.__main__ import main as data_main
from components.prepare.__main__ import main as prepare_main
from components.rl.rewards import call_function
from tests.support import toy
from tests.support.commands import ROOT
from tests.support.models import tiny_model

TOY = str(ROOT / "tests" / "support" / "toy.yaml")
# Shows what the assistant said only in its last turn, as templates do that leave out earlier thoughts.
LAST_TURN_ONLY = (
    "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTION = '{"question": "What did the cow say?", "answer": "moo"}\n'


@dataclass(frozen=True)
class Kit:
    """What mistakes are made with.

    Attributes:
        folder: A new folder, where the mistake is made and where its store would be.
        shared: Made once: `model`, `reward` (an adapter's folder), `sources`, and a store with datasets and an adapter.
    """

    folder: Path
    shared: Path

    @property
    def model(self) -> Path:
        return self.shared / "model"

    def artifact(self, stage: str) -> Path:
        """The one artifact of a stage in the shared store."""
        (found,) = (self.shared / "store" / "artifacts" / stage).iterdir()
        return found

    def write(self, name: str, content: str | bytes) -> str:
        """Writes a file and returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def full(self) -> Path:
        """A file on a disk that is full."""
        (self.folder / "full").symlink_to("/dev/full")
        return self.folder / "full"

    def copy(self, what: Path) -> Path:
        """A copy of a shared folder, to spoil; an artifact's copy lies in a store of its own."""
        inside = Path("given", *what.parts[-3:]) if "artifacts" in what.parts else Path("given", what.name)
        shutil.copytree(what, self.folder / inside)
        return self.folder / inside

    def prepare(self, *arguments: str) -> int:
        return prepare_main(["--preset", TOY, "--output", str(self.folder / "store"), "--run-id", "r", *arguments])

    def base(self, model: Path | str, *overrides: str) -> int:
        """Runs prepare on a base model, with data that are there."""
        given = ["--model", str(model), "--data", str(self.shared / "sources"), "--overrides", "\n".join(overrides)]
        return self.prepare(*given)

    def set(self, *overrides: str) -> int:
        """Runs prepare with overrides."""
        return self.prepare("--overrides", "\n".join(overrides))

    def data(self, content: str | bytes | None = None, name: str = "sft.jsonl", task: str = "sft", **part: Any) -> int:
        """Runs the data step on a file, or on the sources that `part` names."""
        if content is not None:
            part["sources"] = self.write(name, content)
        model = part.pop("model", self.model)
        config = self.write("run.yaml", yaml.safe_dump({"data": {task: part}}))
        return data_main(["--config", config, "--input", f"model={model}", "--output", str(self.folder / "store")])

    def stage(self, name: str, *arguments: str, config: str = "", **inputs: Path | str) -> int:
        """Runs a stage."""
        given = [part for role, uri in inputs.items() for part in ("--input", f"{role}={uri}")]
        common = ["--config", self.write("run.yaml", config), "--output", str(self.folder / "store")]
        spec = importlib.import_module(f"components.{name}.config").SPEC
        return stage_main(spec, functools.partial(_run_of, name), [*common, *given, *arguments])

    def rl(self, *arguments: str, config: str = "", **inputs: Path | str) -> int:
        """Runs the rl stage, with inputs that fit unless others are given."""
        fitting = {"model": self.model, "reward": self.shared / "reward", "dataset": self.artifact("data-rl")}
        return self.stage("rl", *arguments, config=config, **{**fitting, **inputs})

    def command(self, *arguments: str) -> int:
        """Runs `rlhf`."""
        from pipelines.cli import main

        try:
            main.main(["run", *arguments, "--store", str(self.folder / "store")], standalone_mode=False)
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def _run_of(stage: str) -> Any:
    return importlib.import_module(f"components.{stage}.stage").run


def make_shared(folder: Path, tokenizer: Any) -> None:
    """Makes what all mistakes share; nothing of it is trained."""
    tiny_model("llama", tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    toy.write_sources(folder / "sources", 0, {})
    tasks = {task: {"sources": str(folder / "sources" / task)} for task in ("sft", "rl")}
    (folder / "run.yaml").write_text(yaml.safe_dump({"data": {**tasks, "heldout": 0.2}}))
    arguments = ["--config", str(folder / "run.yaml"), "--output", str(folder / "store")]
    assert data_main([*arguments, "--input", f"model={folder / 'model'}"]) == 0
    adapter = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    for place in (folder / "reward", folder / "adapter"):
        place.mkdir()
        (place / "adapter_config.json").write_text(json.dumps(adapter))
    manifest = Manifest(
        kind="adapter",
        stage="sft",
        key="0" * 16,
        files=list_files(folder / "adapter"),
        parents={"model": Parent(uri="artifacts/merge/another", digest=f"sha256:{'1' * 64}")},
    )
    commit(DirectoryStore(folder / "store"), f"artifacts/sft/{'0' * 16}", folder / "adapter", manifest)


@dataclass(frozen=True)
class Mistake:
    """A mistake, the exit code it ends with, and how it is made: a function that returns the code it got."""

    what: str
    code: int
    make: Callable[[Kit], int]


def _damaged(kit: Kit, spoil: Callable[[Path], None]) -> int:
    """Gives rl a spoilt copy of its dataset."""
    copy = kit.copy(kit.artifact("data-rl"))
    spoil(copy)
    return kit.rl(dataset=copy)


def _alter(folder: Path) -> None:
    content = bytearray((folder / "train" / "tokens.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train" / "tokens.npy").write_bytes(content)


def _other_vocabulary(kit: Kit) -> int:
    """Gives rl a dataset that says it was made with another vocabulary than the model's artifact."""
    store = DirectoryStore(kit.folder / "given")
    folder = kit.copy(kit.model)
    manifest = Manifest(
        kind="model", stage="merge", key="0" * 16, files=list_files(folder), tokenizer={"vocabulary": "0" * 16}
    )
    commit(store, f"artifacts/merge/{'0' * 16}", folder, manifest)
    return kit.rl(model=kit.folder / "given" / "artifacts" / "merge" / ("0" * 16))


def _model(kit: Kit, spoil: Callable[[Path], None]) -> int:
    """Gives prepare a spoilt copy of the model."""
    copy = kit.copy(kit.model)
    spoil(copy)
    return kit.base(copy)


def _change_json(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _grow_vocabulary(folder: Path) -> None:
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    _change_json(folder, "tokenizer.json", added_tokens=[*tokens, {**tokens[0], "id": size, "content": "<|new|>"}])


def _no_end(folder: Path) -> None:
    _change_json(folder, "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def _nothing_pads(folder: Path) -> None:
    """Leaves two special tokens: one begins a turn, the other ends it."""
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    _change_json(folder, "tokenizer.json", added_tokens=[t for t in tokens if t["content"] != "<|pad|>"])
    _change_json(folder, "tokenizer_config.json", pad_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def _no_mask(kit: Kit) -> int:
    """A conversation under a template by which the assistant's turns cannot be told from what was given."""
    copy = kit.copy(kit.model)
    (copy / "chat_template.jinja").write_text(LAST_TURN_ONLY)
    rows = [[{"role": role, "content": f"moo {i}"} for role in ("user", "assistant") * 2] for i in range(40)]
    return kit.data("".join(json.dumps({"messages": turns}) + "\n" for turns in rows), model=copy, heldout=0.3)


def _own_code(folder: Path) -> None:
    _change_json(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})


def _uneven(kit: Kit) -> int:
    os.environ["WORLD_SIZE"] = "4"
    try:
        return guarded(lambda: batch_shape(TrainingConfig(train_batch_size=6), 1)[0])
    finally:
        del os.environ["WORLD_SIZE"]


def _judge(function: Callable[..., Any]) -> int:
    return guarded(lambda: len(call_function(function, "polite", ["Hello?"], ["Yes."], [{}])))


def _raising(**_: Any) -> list[float]:
    raise KeyError("grade")


def _terminated() -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "Configuration": (
        Mistake("a section's name is misspelt", 2, lambda kit: kit.set("stf.max_steps=5")),
        Mistake("a field's name is misspelt", 2, lambda kit: kit.set("sft.learning_rat=1e-4")),
        Mistake("a value of the wrong type", 2, lambda kit: kit.set("sft.max_steps=many")),
        Mistake("a value out of range", 2, lambda kit: kit.set("data.heldout=1.5")),
        Mistake("a value that is none of the choices", 2, lambda kit: kit.set("model.scratch.model_type=gpt9")),
        Mistake("several mistakes at once", 2, lambda kit: kit.set("sft.max_steps=0", "rl.gama=1", "seed=x")),
        Mistake("settings that do not go together", 2, lambda kit: kit.set("reward.enabled=false")),
        Mistake("an override without a value", 2, lambda kit: kit.set("sft.max_steps")),
        Mistake(
            "a file that is not YAML",
            2,
            lambda kit: kit.prepare("--config", kit.write("my.yaml", "sft:\n  a: [1\nb: 2")),
        ),
        Mistake("a file that is no mapping", 2, lambda kit: kit.prepare("--config", kit.write("my.yaml", "- sft\n"))),
        Mistake("no configuration file", 2, lambda kit: kit.prepare("--config", str(kit.folder / "my.yaml"))),
        Mistake("an unknown preset", 2, lambda kit: kit.command("--preset", "t4x8-1b")),
        Mistake("an unknown parameter of `rlhf run`", 2, lambda kit: kit.command("sead=1")),
        Mistake("no pipeline file", 2, lambda kit: kit.command("my_pipeline.py")),
        Mistake("a run's name with a slash", 2, lambda kit: kit.command("--preset", TOY, "--run-id", "a/b")),
        Mistake(
            "a reward function's name is misspelt",
            2,
            lambda kit: kit.set("rl.reward_functions=[{function: 'tests.support.toy:exakt'}]"),
        ),
        Mistake(
            "a reward function's module is not there",
            2,
            lambda kit: kit.set("rl.reward_functions=[{function: 'rewards:exact'}]"),
        ),
    ),
    "Data": (
        Mistake(
            "no data for a stage that is on",
            2,
            lambda kit: kit.prepare("--data", str(Path(kit.write("d/sft.jsonl", QUESTION)).parent)),
        ),
        Mistake(
            "a data folder whose files have other names",
            2,
            lambda kit: kit.prepare("--data", str(Path(kit.write("d/train.jsonl", QUESTION)).parent)),
        ),
        Mistake("a missing file", 2, lambda kit: kit.data(sources=str(kit.folder / "sft.jsonl"))),
        Mistake("a name on the hub, offline", 2, lambda kit: kit.data(sources="owner/name")),
        Mistake("an empty file", 2, lambda kit: kit.data("")),
        Mistake("a format that cannot be read", 2, lambda kit: kit.data("x", name="sft.docx")),
        Mistake("broken JSON", 2, lambda kit: kit.data(QUESTION + '{"question": "b", \n')),
        Mistake("text that is not UTF-8", 2, lambda kit: kit.data(QUESTION.encode() + b'{"question": "\xe9"}\n')),
        Mistake("columns of no known form", 2, lambda kit: kit.data('{"qestion": "a", "answr": "b"}\n')),
        Mistake("conversations for pre-training", 2, lambda kit: kit.data(QUESTION, task="pretrain")),
        Mistake("all rows unusable", 2, lambda kit: kit.data('{"question": "a", "answer": ""}\n' * 3)),
        Mistake(
            "chosen and rejected are equal in all rows",
            2,
            lambda kit: kit.data(
                '{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 3, name="reward.jsonl", task="reward"
            ),
        ),
        Mistake("a template that does not keep the assistant's turns apart", 2, _no_mask),
        Mistake("too few rows to hold some out", 2, lambda kit: kit.data(QUESTION)),
        Mistake(
            "answers longer than a row",
            2,
            lambda kit: kit.data(
                "".join(json.dumps({"question": f"{i}?", "answer": "house " * 200}) + "\n" for i in range(40)),
                max_length=64,
                heldout=0.3,
            ),
        ),
        Mistake("rows longer than the model's positions", 2, lambda kit: kit.data(QUESTION, max_length=4096)),
        Mistake("a column to split by that rows lack", 2, lambda kit: kit.data(QUESTION, split_by="topic")),
        Mistake(
            "a weight for one source only",
            2,
            lambda kit: kit.data(sources=[{"path": "a.jsonl", "weight": 1}, "b.jsonl"]),
        ),
        Mistake(
            "a weight for a source without usable rows",
            2,
            lambda kit: kit.data(sources=[{"path": str(kit.shared / "sources" / "sft"), "weight": 1}] * 2),
        ),
        Mistake(
            "data that changed after the run was prepared",
            2,
            lambda kit: kit.data(sources=[{"path": str(kit.shared / "sources" / "sft"), "digest": "sha256:0"}]),
        ),
    ),
    "Base model": (
        Mistake("no such model", 3, lambda kit: kit.base("owner/name")),
        Mistake("no such GGUF file", 3, lambda kit: kit.base(kit.folder / "my.gguf")),
        Mistake(
            "a folder that holds no model",
            3,
            lambda kit: kit.base(Path(kit.write("m/README.md", "")).parent),
        ),
        Mistake(
            "a model without its weights",
            3,
            lambda kit: _model(kit, lambda folder: (folder / "model.safetensors").unlink()),
        ),
        Mistake(
            "weights that were cut off",
            3,
            lambda kit: _model(kit, lambda folder: os.truncate(folder / "model.safetensors", 50_000)),
        ),
        Mistake("a tokenizer larger than the embedding", 3, lambda kit: _model(kit, _grow_vocabulary)),
        Mistake("a tokenizer without an EOS token", 2, lambda kit: _model(kit, _no_end)),
        Mistake("a tokenizer in which nothing can pad", 2, lambda kit: _model(kit, _nothing_pads)),
        Mistake(
            "a chat template that fails",
            2,
            lambda kit: kit.base(kit.model, "model.chat_template=\"{{ messages[5]['content']['x'] }}\""),
        ),
        Mistake("a model that needs code of its own", 3, lambda kit: _model(kit, _own_code)),
        Mistake(
            "a model from scratch without documents",
            2,
            lambda kit: kit.set(
                "data.builder=null",
                *(
                    f"data.{task}.sources={kit.shared / 'sources' / task}"
                    for task in ("pretrain", "sft", "reward", "rl")
                ),
            ),
        ),
    ),
    "Inputs of a stage": (
        Mistake("an input is not given", 2, lambda kit: kit.stage("sft", model=kit.model)),
        Mistake("an input's name is misspelt", 2, lambda kit: kit.stage("sft", modle=kit.model)),
        Mistake("an input that is nothing", 3, lambda kit: kit.rl(model=kit.folder / "nowhere")),
        Mistake("an adapter where a model is wanted", 3, lambda kit: kit.rl(model=kit.shared / "reward")),
        Mistake(
            "an artifact that was never finished",
            3,
            lambda kit: _damaged(kit, lambda folder: (folder / "manifest.json").unlink()),
        ),
        Mistake("an altered file", 3, lambda kit: _damaged(kit, _alter)),
        Mistake(
            "a missing file of an artifact",
            3,
            lambda kit: _damaged(kit, lambda folder: (folder / "train" / "tokens.npy").unlink()),
        ),
        Mistake(
            "a file added to an artifact", 3, lambda kit: _damaged(kit, lambda folder: (folder / "notes.txt").touch())
        ),
        Mistake(
            "an adapter of another base", 3, lambda kit: kit.stage("merge", base=kit.model, adapter=kit.artifact("sft"))
        ),
        Mistake(
            "an adapter without its weights",
            3,
            lambda kit: kit.stage("merge", base=kit.model, adapter=kit.shared / "reward"),
        ),
        Mistake("inputs of different vocabularies", 3, _other_vocabulary),
        Mistake("a dataset of another stage", 3, lambda kit: kit.rl(dataset=kit.artifact("data-sft"))),
    ),
    "Training": (
        Mistake("a layer that LoRA cannot find", 2, lambda kit: kit.rl(config="rl: {lora: {target_modules: [q_prj]}}")),
        Mistake("a batch that the processes cannot share", 2, _uneven),
        Mistake("a reward function that fails", 2, lambda kit: _judge(_raising)),
        Mistake("a reward function that returns too little", 2, lambda kit: _judge(lambda **_: [])),
        Mistake("a process that is told to stop", 75, lambda kit: guarded(_terminated)),
    ),
    "Store": (
        Mistake("a store below a file", 2, lambda kit: kit.prepare("--output", kit.write("file", "") + "/store")),
        Mistake(
            "a disk that is full",
            2,
            lambda kit: guarded(lambda: shutil.copyfile(kit.write("a", "x"), kit.full()).stat().st_size),
        ),
        Mistake("a store that cannot be reached by us", 2, lambda kit: kit.prepare("--output", "ftp://host/store")),
        Mistake(
            "another stage's place for a result",
            2,
            lambda kit: kit.rl("--output", str(kit.folder / "store" / "artifacts" / "sft" / "mine")),
        ),
    ),
}
