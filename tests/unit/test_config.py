"""Configuration: layers, overrides, all mistakes at once with the name that was meant."""

from typing import Annotated

import pytest

from components.common.config import (
    Config,
    Neutral,
    check_sections,
    load_yaml,
    merge_configs,
    parse_overrides,
    validate,
)
from components.common.errors import UserError
from components.launcher.config import LauncherConfig
from components.rl.config import RlConfig
from components.sft.config import SftConfig


class Inner(Config):
    rate: float = 1.0


class Outer(Config):
    size: int = 1
    inner: Inner = Inner()
    shown: Annotated[int, Neutral()] = 5


def test_later_layers_win_and_mappings_merge():
    merged = merge_configs({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"d": [1]}, {"d": [2]})
    assert merged == {"a": {"b": 1, "c": 3}, "d": [2]}


def test_overrides_are_yaml_values():
    parsed = parse_overrides(
        ["sft.learning_rate=1e-4", "sft.lora.target_modules=[q_proj, v_proj]", "rl.target_kl=null"]
    )
    assert validate(SftConfig, parsed["sft"], "sft", "x").learning_rate == 1e-4
    assert parsed["sft"]["lora"]["target_modules"] == ["q_proj", "v_proj"]
    assert parsed["rl"]["target_kl"] is None


@pytest.mark.parametrize("line", ["learning_rate", "=3", "  "])
def test_an_override_without_name_or_value_is_refused(line):
    with pytest.raises(UserError, match=r"section\.field=value"):
        parse_overrides([line])


def test_every_mistake_is_named_at_once_with_what_was_meant():
    with pytest.raises(UserError) as caught:
        validate(SftConfig, {"learning_rat": 1, "max_steps": 0, "lora": {"r": -1}}, "sft", "run.yaml")
    text = str(caught.value)
    assert caught.value.code == 2
    assert "sft.learning_rat: unknown field (did you mean learning_rate?)" in text
    assert "sft.lora.r" in text
    assert "got -1" in text
    assert text.startswith("run.yaml: ")
    assert "\n" not in text


def test_model_checks_are_reported_too():
    with pytest.raises(UserError, match="rollout_batch_size must be a multiple"):
        validate(RlConfig, {"rollout_batch_size": 10, "num_mini_batches": 4}, "rl", "run.yaml")


def test_unknown_section_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match="did you mean reward"):
        check_sections({"rewards": {}}, "run.yaml")


@pytest.mark.parametrize("name", [None, 1, 1.5, True])
def test_a_section_whose_name_is_no_text_is_named(name):
    """As YAML reads `null: {}` and `1: {}`."""
    with pytest.raises(UserError, match=f"unknown section {name} "):
        check_sections({name: {}}, "run.yaml")


@pytest.mark.parametrize(
    ("text", "words"), [("a: [1", "line 1"), ("- 1", "a mapping is expected"), ("a: 1\n\tb: 2", "line 2")]
)
def test_broken_yaml_names_the_line(text, words):
    with pytest.raises(UserError, match=words):
        load_yaml(text, "run.yaml")


def test_the_key_leaves_neutral_fields_out():
    assert Outer(shown=1).for_key() == Outer(shown=2).for_key() == {"inner": {"rate": 1.0}, "size": 1}
    assert Outer(inner=Inner(rate=2)).for_key() != Outer().for_key()


def test_configurations_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Outer().size = 3


def test_durations_are_read_as_people_write_them():
    config = LauncherConfig.model_validate({"deadline": "6h", "pending_timeout": "90", "stall_timeout": 15})
    assert (config.deadline, config.pending_timeout, config.stall_timeout) == (21600, 90, 15)
    with pytest.raises(ValueError, match="deadline"):
        LauncherConfig.model_validate({"deadline": "soon"})
