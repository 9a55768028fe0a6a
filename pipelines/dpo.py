"""PT → SFT → DPO, each with LoRA, each adapter merged into its base before the next stage.

rlhf run pipelines/dpo.py             here, in processes
kfp run submit pipelines/dpo.py       on Kubeflow Pipelines
"""

from functools import partial

from kfp import dsl

from components.data.component import data as data_step
from components.dpo.component import dpo as dpo_step
from components.evaluate.component import evaluate
from components.images import image_of
from components.prepare.component import prepare
from components.pretrain.component import pretrain
from components.report.component import report
from components.sft.component import sft
from pipelines import tasks


@dsl.pipeline(name="dpo", description="PT → SFT → DPO with LoRA, merged after every stage")
def dpo(
    preset: str = "tiny-cpu",
    config: str = "",
    overrides: str = "",
    model: str = "",
    data: str = "",
    launcher_image: str = image_of("launcher"),
    seed: int = -1,
) -> None:
    """Takes a base model through continued pre-training, fine-tuning and direct preference optimisation.

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
        start = step(prepare(**asked, pipeline="dpo"))
        settings, base = start.outputs["config"], start.outputs["model"]
        merged = partial(tasks.merged, step, settings)
        rows = step(data_step(config=settings, model=base)).outputs

        pt = step(pretrain(config=settings, model=base, dataset=rows["pretrain"]))
        pt_model = merged(base, pt, "pretrain")

        tuned = step(sft(config=settings, model=pt_model, dataset=rows["sft"]))
        sft_model = merged(pt_model, tuned, "sft")

        policy = step(dpo_step(config=settings, model=sft_model, dataset=rows["reward"]))
        final = merged(sft_model, policy, "dpo")

        measured = step(evaluate(config=settings, model=final, before=base, reward="", dataset=rows["rl"]))
        step(report(config=settings, evaluation=measured.outputs["Output"]))
