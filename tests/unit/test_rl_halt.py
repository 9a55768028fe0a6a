"""A batch that is given up in the middle, wherever that is, leaves the state from before it, and is made again."""

from __future__ import annotations

import pytest
import torch

from components.common.checkpoints import Checkpoints
from components.common.curves import Curves
from components.common.errors import RetryableError
from components.common.generation import Sampling, generate
from components.common.interrupt import StopRequest
from components.rl.experience import Setup
from components.rl.loop import Loop
from components.rl.rewards import NamedFunction
from components.rl.state import Learner
from tests.support import one_base
from tests.support.interrupted import same
from tests.support.models import save_reward_adapter, tiny_model

CPU = torch.device("cpu")
CONFIG = one_base.SMALL.model_copy(update={"max_steps": 3, "save_steps": 2, "num_samples": 0})
# Looks of one batch: 6 tokens, then 2 minibatches × 2 pieces in 3 roles, 3 pieces for the reward model, 2 × 2 × 2 of
# gradients.
LOOKS = {"rollout": 3, "policy": 8, "reference": 12, "critic": 17, "reward": 20, "gradients": 23, "second step": 28}
BATCH = 6 + 12 + 3 + 8


class AfterLooks(StopRequest):
    """A process that is told to stop when it looks for the nth time whether it was."""

    def __init__(self, number: int) -> None:
        super().__init__(CPU)
        self._number, self.looks = number, 0

    @property
    def asked(self) -> bool:
        self.looks += 1
        if self.looks == self._number:
            self.ask()
        return self._asked


class World:
    """Models, prompts and a reward function, and the state from which every run begins."""

    def __init__(self, tokenizer, folder) -> None:
        self.prompts = one_base.make_prompts(tokenizer)
        tiny_model("llama", tokenizer).save_pretrained(folder / "base")
        save_reward_adapter(folder / "base", folder / "reward", tokenizer.pad_token_id)
        self.roles = one_base.load_roles(folder / "base", folder / "reward", CONFIG, seed=5, scratch=folder)
        self.called: list[int] = []
        self._start = folder / "start"
        self._start.mkdir()
        Learner.build(self.roles, CONFIG).save(self._start)

    def run(self, work, request: StopRequest) -> Learner:
        """Trains from the newest checkpoint in a folder, or from the beginning, until it ends or is told to stop."""
        learner = Learner.build(self.roles, CONFIG)
        checkpoints = Checkpoints(work, "rl")
        found = checkpoints.resume()
        learner.load(found.folder if found else self._start)
        worth = NamedFunction("length", 0.1, self._length)
        setup = Setup(self.roles, self.prompts, lambda ids: " ".join(map(str, ids)), (worth,), CONFIG, seed=5)
        with Curves(work, "rl", (), found.folder if found else None) as curves:
            loop = Loop(setup, range(len(self.prompts)), -1, learner, checkpoints, curves, request)
            loop.run("rl", found.step if found else 0)
        return learner

    def _length(self, prompts, completions):
        lengths = [len(text.split()) for text in completions]
        self.called += lengths
        return lengths


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory):
    return World(tokenizer, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """State, curves and looks of a run that nothing disturbs."""
    folder, request = tmp_path_factory.mktemp("whole") / "run", StopRequest(CPU)
    folder.mkdir()
    state = world.run(folder, request).snapshot()
    return state, (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("where", LOOKS)
def test_a_batch_given_up_anywhere_is_made_again(world, undisturbed, tmp_path, where, capsys):
    work = tmp_path / "run"
    work.mkdir()
    request = AfterLooks(BATCH + LOOKS[where])  # inside the second batch
    world.called.clear()
    with pytest.raises(RetryableError, match="was told to stop after step 1"):
        world.run(work, request)
    assert request.looks < BATCH + LOOKS[where] + 8  # the rest was skipped
    assert set(world.called) == {6}  # a reward function sees no completion that was cut short
    assert [path.name for path in (work / "checkpoints").iterdir()] == ["step-00000001"]
    state, curves = undisturbed
    assert same(world.run(work, StopRequest(CPU)).snapshot(), state)
    assert (work / "metrics.jsonl").read_bytes() == curves
    assert "goes on after step 1" in capsys.readouterr().out


def test_a_batch_looks_as_often_as_these_tests_think(world, tmp_path):
    work = tmp_path / "run"
    work.mkdir()
    request = AfterLooks(0)
    world.run(work, request)
    assert request.looks == CONFIG.max_steps * BATCH


def test_generation_ends_between_two_tokens(world):
    looks: list[None] = []

    def third() -> bool:
        looks.append(None)
        return len(looks) >= 4

    prompts = [world.prompts.table.ids(row) for row in range(4)]
    sampling, policy = Sampling(50, (-1,)), world.roles.device_policy
    with world.roles.writing() as model:
        # Batches of one prompt: the first is cut short, the others are not begun.
        written = generate(model, prompts, sampling, policy, max_tokens=1, cut_short=third)
    assert sorted(map(len, written)) == [0, 0, 0, 3]
