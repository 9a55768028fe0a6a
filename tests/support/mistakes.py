"""What users get wrong, one mistake each: what `docs/errors.md` lists and `tests/unit/test_bad_input.py` makes.

Those in the configuration and the store are here, the others in `mistakes_in_*.py`.
"""

from __future__ import annotations

import shutil

from components.common.guard import guarded
from tests.support.mistake_kit import TOY, Mistake
from tests.support.mistakes_in_data import DATA
from tests.support.mistakes_in_models import BASE_MODEL
from tests.support.mistakes_in_stages import INPUTS, TRAINING

CONFIGURATION = (
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
)
STORE = (
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
)
MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "Configuration": CONFIGURATION,
    "Data": DATA,
    "Base model": BASE_MODEL,
    "Inputs of a stage": INPUTS,
    "Training": TRAINING,
    "Store": STORE,
}
