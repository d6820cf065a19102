"""Upload requests for tests that call a cloud directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import UploadRequest
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.config.models.images import Image


def upload_request(name: str = "test-image", *, upload: float = 120, **image: Any) -> UploadRequest:
    """Return a request for an image with these sections; ``upload`` is seconds."""
    settings = Image.model_validate({"filename": f"{name}.qcow2", **image})
    return UploadRequest(
        name=name,
        image=Entry(label=name, settings=settings, path=Path("images.yaml"), display_name="images.yaml"),
        deadlines=Deadlines(upload=upload),
    )
