"""Makes the bucket of RLHF_STORE, and the user of AWS_ACCESS_KEY_ID who may read and write it. Safe to run again."""

from __future__ import annotations

import os
import time
import urllib.request
from urllib.parse import urlparse

POLICY = "rlhf-pipeline"
WAIT_SECONDS = 300


def policy(bucket: str) -> dict[str, object]:
    """What the pipeline's user may do: everything with objects, nothing with the bucket but list it."""
    on_bucket = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    on_objects = [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    ]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": on_bucket, "Resource": [f"arn:aws:s3:::{bucket}"]},
            {"Effect": "Allow", "Action": on_objects, "Resource": [f"arn:aws:s3:::{bucket}/*"]},
        ],
    }


def wait(url: str) -> None:
    """Waits until MinIO is ready."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/minio/health/ready", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            print(f"waiting for MinIO: {error}", flush=True)
        time.sleep(2)


def main() -> None:
    """Makes what is missing and sets the user's secret and rights."""
    from minio import Minio, MinioAdmin
    from minio.credentials import StaticProvider

    wait(os.environ["AWS_ENDPOINT_URL"])
    url = urlparse(os.environ["AWS_ENDPOINT_URL"])
    bucket = urlparse(os.environ["RLHF_STORE"]).netloc
    root, password = os.environ["MINIO_ROOT_USER"], os.environ["MINIO_ROOT_PASSWORD"]
    client = Minio(endpoint=url.netloc, access_key=root, secret_key=password, secure=False)
    if not client.bucket_exists(bucket_name=bucket):
        client.make_bucket(bucket_name=bucket)
    admin = MinioAdmin(endpoint=url.netloc, credentials=StaticProvider(root, password), secure=False)
    user = os.environ["AWS_ACCESS_KEY_ID"]
    admin.policy_add(POLICY, policy=policy(bucket))
    admin.user_add(user, os.environ["AWS_SECRET_ACCESS_KEY"])
    admin.policy_set(POLICY, user=user)
    print(f"bucket {bucket} and user {user} are ready", flush=True)


if __name__ == "__main__":
    main()
