"""The pod of a step: `restricted`, without a Kubernetes token, writing only to /tmp and /dev/shm."""

from __future__ import annotations

from kubernetes import client

from components.common.s3_keys import VARIABLE
from components.common.store import is_s3
from components.launcher.job import StageJob
from components.names import CONFIG_MAP, STAGE_ACCOUNT

CONTAINER = "pytorch"  # the operator's webhook asks for this name; plain Jobs have it so that readers need know one
GPU = "nvidia.com/gpu"
USER = 1000
HUB_SECRET = "hf-token"
KEYS, KEYS_FILE = "/var/run/secrets/rlhf-stack", "credentials"  # where the temporary keys to the store are mounted


def pod_template(job: StageJob) -> client.V1PodTemplateSpec:
    """The pod that runs a step."""
    config = job.config
    spec = client.V1PodSpec(
        service_account_name=STAGE_ACCOUNT,
        automount_service_account_token=False,
        enable_service_links=False,  # a hundred Services would be a thousand variables
        restart_policy="OnFailure" if job.is_training else "Never",
        termination_grace_period_seconds=config.grace_period,
        security_context=client.V1PodSecurityContext(
            run_as_user=USER,
            run_as_group=USER,
            run_as_non_root=True,
            fs_group=USER,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
        node_selector=job.placement.node_selector or None,
        tolerations=list(job.placement.tolerations) or None,
        priority_class_name=config.priority_class_name or None,
        image_pull_secrets=[client.V1LocalObjectReference(name=name) for name in config.image_pull_secrets] or None,
        containers=[_container(job)],
        volumes=[*_volumes(job), *config.volumes],
    )
    metadata = client.V1ObjectMeta(labels=job.labels, annotations={"sidecar.istio.io/inject": "false"})
    return client.V1PodTemplateSpec(metadata=metadata, spec=spec)


def _container(job: StageJob) -> client.V1Container:
    return client.V1Container(
        name=CONTAINER,
        image=job.image,
        image_pull_policy="IfNotPresent",
        command=job.command,
        env=_environment(job),
        resources=_resources(job),
        volume_mounts=[
            client.V1VolumeMount(name="tmp", mount_path="/tmp"),
            client.V1VolumeMount(name="shm", mount_path="/dev/shm"),
            *([client.V1VolumeMount(name="keys", mount_path=KEYS, read_only=True)] if job.secret else []),
            *job.config.volume_mounts,
        ],
        security_context=client.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=client.V1Capabilities(drop=["ALL"]),
        ),
        termination_message_path="/dev/termination-log",
        termination_message_policy="FallbackToLogsOnError",
    )


def _volumes(job: StageJob) -> list[client.V1Volume]:
    secret = client.V1SecretVolumeSource(secret_name=job.secret, default_mode=0o440)
    # Shared memory counts against the pod's: 64 MiB, the default, are too few for NCCL between four processes.
    size = job.config.shm_size if job.is_training else "64Mi"
    memory = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=size)
    return [
        client.V1Volume(name="tmp", empty_dir=client.V1EmptyDirVolumeSource()),
        client.V1Volume(name="shm", empty_dir=memory),
        *([client.V1Volume(name="keys", secret=secret)] if job.secret else []),
    ]


def _resources(job: StageJob) -> client.V1ResourceRequirements:
    asked = {
        "cpu": job.resources.cpu,
        "memory": job.resources.memory,
        "ephemeral-storage": job.resources.ephemeral_storage,
    }
    gpus = {GPU: str(job.gpus_per_node)} if job.gpus_per_node else {}
    requests = {name: value for name, value in asked.items() if value}
    # No limit on cores: a step that loads data or merges may use what nobody else does.
    limits = {name: value for name, value in requests.items() if name != "cpu"}
    return client.V1ResourceRequirements(requests={**requests, **gpus}, limits={**limits, **gpus})


def _environment(job: StageJob) -> list[client.V1EnvVar]:
    values = {
        "HOME": "/tmp",
        "OMP_NUM_THREADS": str(job.config.omp_num_threads or max(1, _cores(job.resources.cpu) // job.processes)),
        "PYTHONUNBUFFERED": "1",
        "RLHF_RUN_ID": job.run,
        "RLHF_STORE": job.root,
        "RLHF_STACKS_ON_SIGTERM": "1",
        "RLHF_TERMINATION_LOG": "/dev/termination-log",
        # torchrun kills its processes half a minute after it was told to stop, whatever grace the pod has.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, job.config.grace_period - 5)),
        **(_nccl(job) if job.gpus_per_node else {}),
        **job.environment,
        **job.config.env,
    }
    plain = [client.V1EnvVar(name=name, value=value) for name, value in sorted(values.items())]
    return [*plain, *_store_access(job), *_hub_access(job)]


def _cores(quantity: str) -> int:
    """Whole cores in `4`, `1500m` or `0.5`."""
    return int(quantity[:-1]) // 1000 if quantity.endswith("m") else int(float(quantity or 1))


def _nccl(job: StageJob) -> dict[str, str]:
    """T4 nodes have no InfiniBand; a collective that hangs must not hold the GPUs for NCCL's half hour."""
    shared = {"NCCL_DEBUG": "WARN", "NCCL_IB_DISABLE": "1", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300"}
    several = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
    return {**shared, **several} if job.nodes > 1 else shared


def _store_access(job: StageJob) -> list[client.V1EnvVar]:
    """Where an S3 store is and the keys to it, by reference: no secret is ever part of a job."""
    if not is_s3(job.root):
        return []
    endpoint = job.config.store.endpoint_url
    addresses = [
        client.V1EnvVar(name="AWS_ENDPOINT_URL", value=endpoint) if endpoint else _from_config_map("AWS_ENDPOINT_URL"),
        _from_config_map("AWS_REGION"),
    ]
    if job.secret:  # a file, since a variable stays as it was when the pod began
        return [*addresses, client.V1EnvVar(name=VARIABLE, value=f"{KEYS}/{KEYS_FILE}")]
    keys = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
    secret = job.config.store.secret
    return [*addresses, *(_from_secret(name, secret, optional) for name, optional in keys.items())]


def _hub_access(job: StageJob) -> list[client.V1EnvVar]:
    """The token for gated models and datasets, if there is one, for the steps that ask the hub."""
    return [_from_secret("HF_TOKEN", HUB_SECRET, optional=True)] if job.stage in ("prepare", "data") else []


def _from_config_map(name: str) -> client.V1EnvVar:
    selector = client.V1ConfigMapKeySelector(name=CONFIG_MAP, key=name, optional=True)
    return client.V1EnvVar(name=name, value_from=client.V1EnvVarSource(config_map_key_ref=selector))


def _from_secret(name: str, secret: str, optional: bool) -> client.V1EnvVar:
    selector = client.V1SecretKeySelector(name=secret, key=name, optional=optional or None)
    return client.V1EnvVar(name=name, value_from=client.V1EnvVarSource(secret_key_ref=selector))
