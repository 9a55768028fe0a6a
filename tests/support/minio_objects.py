"""What a MinIO is in Kubernetes' words."""

from __future__ import annotations

from tests.support.cluster import RESTRICTED, Object

PORT = 9000


def minio_objects(image: str, user: str, password: str, size: str) -> list[Object]:
    """A claim, a Service and a Deployment; the arguments are those of `running_minio`, and the keys of root."""
    labels = {"app.kubernetes.io/name": "minio"}
    root = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password}
    container = {
        "name": "minio",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["server", "/data"],
        "env": [{"name": key, "value": value} for key, value in {"HOME": "/tmp", **root}.items()],
        "securityContext": RESTRICTED,
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/minio/health/ready", "port": PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    claim = {"persistentVolumeClaim": {"claimName": "minio"}}
    disk = {"emptyDir": {"medium": "Memory", "sizeLimit": size}} if size else claim
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"fsGroup": 1000},
            "terminationGracePeriodSeconds": 2,
            "containers": [container],
            "volumes": [
                {"name": "data", **disk},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "minio"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "minio"},
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "minio"},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": template,
            },
        },
    ]
