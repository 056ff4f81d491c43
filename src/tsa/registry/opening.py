"""Open the place of a registry from its URL."""

from __future__ import annotations

from tsa.registry.place import ObjectPlace, RegistryPlace
from tsa.registry.storage import open_storage


def open_place(url: str) -> RegistryPlace:
    """Open the place at a URL.

    Args:
        url: A folder, `file:///FOLDER`, `s3://BUCKET/PREFIX`, `mlflow://HOST:PORT/NAME` or
            `sagemaker://GROUP`.

    Raises:
        RegistryError: For any other URL.
        ConfigError: If a library is missing.
    """
    if url.startswith(("mlflow://", "mlflow+")):
        from tsa.registry.mlflow import MLflowPlace

        return MLflowPlace.open(url)
    if url.startswith("sagemaker://"):
        from tsa.registry.sagemaker import SageMakerPlace

        return SageMakerPlace.open(url)
    return ObjectPlace(open_storage(url))
