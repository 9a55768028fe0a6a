"""PT → SFT → RM → RL, each with LoRA, each adapter merged into its base before the next stage.

rlhf run                              here, in processes
kfp run submit pipelines/rlhf.py      on Kubeflow Pipelines
"""

from functools import partial

from kfp import dsl

from components.data.component import data as data_step
from components.evaluate.component import evaluate
from components.images import image_of
from components.prepare.component import prepare
from components.pretrain.component import pretrain
from components.report.component import report
from components.reward.component import reward
from components.rl.component import rl
from components.sft.component import sft
from pipelines import tasks


@dsl.pipeline(name="rlhf", description="PT → SFT → RM → RL with LoRA, merged after every stage")
def rlhf(
    preset: str = "tiny-cpu",
    config: str = "",
    overrides: str = "",
    model: str = "",
    data: str = "",
    launcher_image: str = image_of("launcher"),
    seed: int = -1,
) -> None:
    """Takes a base model through continued pre-training, fine-tuning, reward modelling and reinforcement learning.

    Args:
        preset: Name of a preset; the default needs no network and no GPU.
        config: YAML text or URI, laid over the preset.
        overrides: Lines section.field=value, laid over both.
        model: Base model: folder, artifact URI or hub name; the preset's by default.
        data: Folder with each stage's data; the preset's by default.
        launcher_image: Image of the pods that start training jobs, merge and report.
        seed: Of everything random; negative: the configuration's.
    """
    step = partial(tasks.step, image=launcher_image)
    asked = {"preset": preset, "config": config, "overrides": overrides, "model": model, "data": data, "seed": seed}
    with tasks.cleaned_up(launcher_image):
        start = step(prepare(**asked, pipeline="rlhf"))
        settings, base = start.outputs["config"], start.outputs["model"]
        merged = partial(tasks.merged, step, settings)
        rows = step(data_step(config=settings, model=base)).outputs

        pt = step(pretrain(config=settings, model=base, dataset=rows["pretrain"]))
        pt_model = merged(base, pt, "pretrain")

        tuned = step(sft(config=settings, model=pt_model, dataset=rows["sft"]))
        sft_model = merged(pt_model, tuned, "sft")

        judge = step(reward(config=settings, model=sft_model, dataset=rows["reward"]))
        reward_model = merged(sft_model, judge, "reward")

        policy = step(
            rl(
                config=settings,
                model=sft_model,
                reward=judge.outputs["Output"],
                reward_model=reward_model,
                dataset=rows["rl"],
            )
        )
        final = merged(sft_model, policy, "rl")

        measured = step(evaluate(config=settings, model=final, before=base, reward=reward_model, dataset=rows["rl"]))
        step(report(config=settings, evaluation=measured.outputs["Output"]))
