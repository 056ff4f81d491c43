"""A bucket of a server on loopback that speaks S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import boto3
import httpx
from moto.server import ThreadedMotoServer

SECRET = "a-secret-of-tests"


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """Yield the name of an empty bucket; the environment says where it is."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # what other tests of this process left
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET}
    try:
        with patch.dict(os.environ, settings):
            boto3.Session().client("s3").create_bucket(Bucket=name)
            yield name
    finally:
        server.stop()
