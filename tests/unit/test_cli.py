"""The command line: parameters, instant help, errors in one line, signals that leave nothing running."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from components.common.errors import UserError
from pipelines.cli import kfp_command
from pipelines.cli.kfp_command import _is_ours, _leading_options
from pipelines.cli.load import load_pipeline
from pipelines.cli.local_pipeline import leave_parameters_alone
from pipelines.cli.parameters import embed_config, parse_parameters
from pipelines.cli.submit import submit
from tests.support import pipelines
from tests.support.commands import ROOT, environment, kfp, python, rlhf

STAGES = ("prepare", "data", "pretrain", "sft", "reward", "rl", "merge", "evaluate", "report")
HELP = [
    ("-m", "pipelines.cli", "--help"),
    ("-m", "pipelines.cli", "run", "--help"),
    ("-m", "pipelines.cli", "submit", "--help"),
    ("-m", "pipelines.cli", "generate", "--help"),
    ("-m", "pipelines.cli", "score", "--help"),
    ("-m", "pipelines.cli", "chat", "--help"),
    ("-m", "pipelines.cli.kfp_command", "run", "submit", "--help"),
    *(("-m", f"components.{stage}", "--help") for stage in STAGES),
]


def test_parameters_and_overrides_are_told_apart():
    assert parse_parameters(["seed=3", "preset=x", "sft.learning_rate=1e-4", "rl.beta=0"]) == {
        "seed": 3,
        "preset": "x",
        "overrides": "sft.learning_rate=1e-4\nrl.beta=0",
    }


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("sead=1", "did you mean seed"),
        ("stf.learning_rate=1", "neither a parameter"),
        ("seed=one", "an integer is expected"),
        ("seed", "is not key=value"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_was_meant(pair, words):
    with pytest.raises(UserError, match=words):
        parse_parameters([pair])


def test_a_local_configuration_file_travels_as_text(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 4\n")
    assert embed_config({"config": str(tmp_path / "c.yaml")}) == {"config": "seed: 4\n"}
    assert embed_config({"config": "s3://b/c.yaml"}) == {"config": "s3://b/c.yaml"}


@pytest.mark.parametrize(
    ("arguments", "options", "ours"),
    [
        (["run", "submit", "x.py"], [], True),
        (["-n", "ml", "--endpoint", "http://h", "run", "submit", "x.py"], ["-n", "ml", "--endpoint", "http://h"], True),
        (["--output", "json", "run", "submit", "x.py"], ["--output", "json"], True),
        (["--output=json", "run", "submit", "x.py"], ["--output=json"], True),
        (["--existing-token", "run", "run", "submit", "x.py"], ["--existing-token", "run"], True),
        (["--version", "run", "submit", "x.py"], ["--version"], True),
        (["run", "submit", "--help"], [], True),
        (["run", "submit", "-f", "x.yaml", "-e", "e"], [], False),
    ],
)
def test_only_a_python_file_makes_submit_ours(arguments, options, ours):
    leading, rest = _leading_options(arguments)
    assert leading == options
    assert (rest[:2] == ["run", "submit"] and _is_ours(rest[2:])) is ours


def test_every_global_option_of_kfp_is_known_with_and_without_a_value():
    program = "from kfp.cli.cli import cli; print([name for p in cli.params if not p.is_flag for name in p.opts])"
    stock = set(ast.literal_eval(python("-c", program).stdout)) - {"--show-completion", "--install-completion"}
    assert stock == set(kfp_command._GLOBAL_OPTIONS)
    ours = {name for parameter in submit.params for name in parameter.opts}
    assert stock <= ours


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_is_instant(command):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        result = python(*command)
        times.append(time.perf_counter() - began)
        assert result.returncode == 0, result.stderr
        assert "usage" in result.stdout.lower()
    assert min(times) < 1


def test_nothing_heavy_is_imported_before_it_is_needed():
    modules = ["components", "components.common.entry", "components.launcher.steps", "components.prepare.config"]
    modules += ["pipelines.cli.generate", "pipelines.cli.score", "pipelines.cli.chat", "components.inference.source"]
    heavy = ("torch", "transformers", "trl", "kfp")
    program = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    assert python("-c", program).stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_the_kind\n", r"pipeline\.py line 1: ModuleNotFoundError"),
        ("x = 1\ndef f(:\n", r"pipeline\.py line 2: SyntaxError"),
        ("x = 1\n", "holds 0 pipelines"),
    ],
)
def test_a_broken_pipeline_file_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        load_pipeline(pipelines.write(tmp_path, text))


def test_a_pipeline_called_like_a_package_is_loaded_under_another_name():
    assert load_pipeline(ROOT / "pipelines" / "rlhf.py").name == "rlhf"
    assert "rlhf" not in sys.modules


def test_a_typo_in_the_configuration_ends_the_run_with_one_line(tmp_path):
    result = rlhf("run", "sft.learning_rat=1", "--store", "store", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: configuration: sft.learning_rat: unknown field (did you mean learning_rate?)"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.py",), "no such file"),
        (("--preset", "huge"), "there is no preset 'huge'"),
        (("=",), "neither"),
        (("dpo.beta=0.2",), "the pipeline rlhf has no stage dpo"),
        ((str(ROOT / "pipelines" / "dpo.py"), "reward.max_steps=3"), "the pipeline dpo has no stage reward"),
    ],
)
def test_wrong_arguments_end_with_code_2(tmp_path, arguments, words):
    result = rlhf("run", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("pipeline", [pipelines.RETRYING, pipelines.CLEANED_UP])
def test_a_users_error_is_not_repeated_by_retries_and_keeps_its_exit_code(tmp_path, pipeline):
    file = pipelines.write(tmp_path, pipeline)
    result = rlhf("run", str(file), "--data", str(tmp_path), "--store", str(tmp_path / "s"))
    assert result.returncode == 2
    assert result.stderr == "error: row 3: is broken; mend it\n"
    assert result.stdout.count("is broken") == 1
    assert (tmp_path / "attempts").read_text() == "x"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_all_its_processes(tmp_path, number, code):
    file = pipelines.write(tmp_path, pipelines.SLEEPING)
    command = [sys.executable, "-m", "pipelines.cli", "run", str(file), "--data", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--store", str(tmp_path / "s")], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        pids = wait_for(tmp_path / "pids")
        process.send_signal(number)
        assert process.wait(20) == code
    assert [pid for pid in pids if alive(pid)] == []


def wait_for(path):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and re.fullmatch(r"\d+ \d+", path.read_text()):
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.1)
    raise AssertionError("the step did not start")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_kfp_still_does_all_else(tmp_path):
    result = kfp("dsl", "compile", "--py", "pipelines/rlhf.py", "--output", str(tmp_path / "p.yaml"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "p.yaml").stat().st_size > 10000


def test_kfp_does_not_touch_what_parameters_say():
    command = ["python3 -m x", "--executor_input", json.dumps({"model": "/opt/python3/m"}), "python3"]
    replaced = leave_parameters_alone(lambda parts, new: [p.replace("python3", new) for p in parts], command, "/bin/py")
    assert replaced == ["/bin/py -m x", "--executor_input", json.dumps({"model": "/opt/python3/m"}), "/bin/py"]
