"""A Cinder back end whose volumes are sparse files, handed to Nova on this machine as loop devices.

None of those that come with Cinder works without the device mapper, iSCSI or a kernel's NFS server. Run by
the services' Python. Cinder gives the arguments their names.
"""

# ruff: noqa: ARG002

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cinder import interface
from cinder.image import image_utils
from cinder.volume import configuration, driver
from oslo_config import cfg

GIB = 1 << 30
OPTIONS = [cfg.StrOpt("volumes_directory", required=True, help="where the files are")]
cfg.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)


@interface.volumedriver
class FileDriver(driver.VolumeDriver):  # type: ignore[misc]
    """Volumes of this machine's Nova hosts."""

    VERSION = "1.0"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)

    def _path(self, name: str) -> Path:
        return Path(self.configuration.volumes_directory) / name

    def check_for_setup_error(self) -> None:
        """Raise when the directory is not there."""
        self._path(".").stat()

    def _update_volume_stats(self) -> None:
        self._stats = {
            "volume_backend_name": self.configuration.volume_backend_name,
            "vendor_name": "pytest-dibctl",
            "driver_version": self.VERSION,
            "storage_protocol": "local",
            "pools": [
                {
                    "pool_name": "files",
                    "total_capacity_gb": "infinite",
                    "free_capacity_gb": "infinite",
                    "reserved_percentage": 0,
                    "thin_provisioning_support": True,
                    "QoS_support": False,
                }
            ],
        }

    # -- volumes and snapshots

    def create_volume(self, volume: Any) -> None:
        with self._path(volume.name).open("wb") as file:
            file.truncate(volume.size * GIB)

    def delete_volume(self, volume: Any) -> None:
        self._detach(self._path(volume.name))
        self._path(volume.name).unlink(missing_ok=True)

    def create_snapshot(self, snapshot: Any) -> None:
        self._copy(snapshot.volume_name, snapshot.name)

    def delete_snapshot(self, snapshot: Any) -> None:
        self._path(snapshot.name).unlink(missing_ok=True)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        self._copy(snapshot.name, volume.name)
        self.extend_volume(volume, volume.size)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        self._copy(src_vref.name, volume.name)
        self.extend_volume(volume, volume.size)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        with self._path(volume.name).open("r+b") as file:
            file.truncate(new_size * GIB)

    def _copy(self, source: str, target: str) -> None:
        subprocess.run(["cp", "--sparse=always", self._path(source), self._path(target)], check=True)

    # -- images

    def copy_image_to_volume(
        self, context: Any, volume: Any, image_service: Any, image_id: str, disable_sparse: bool = False
    ) -> None:
        path = self._path(volume.name)
        image_utils.fetch_to_raw(
            context, image_service, image_id, str(path), "1M", size=volume.size, run_as_root=False
        )
        self.extend_volume(volume, volume.size)

    def copy_volume_to_image(self, context: Any, volume: Any, image_service: Any, image_meta: Any) -> None:
        path = str(self._path(volume.name))
        image_utils.upload_volume(
            context, image_service, image_meta, path, "raw", run_as_root=False, volume_fd=None
        )

    # -- attachments

    def ensure_export(self, context: Any, volume: Any) -> None:
        pass

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        pass

    def remove_export(self, context: Any, volume: Any) -> None:
        pass

    def initialize_connection(self, volume: Any, connector: Any) -> dict[str, Any]:
        path = self._path(volume.name)
        device = self._device(path)
        if device is None:
            made = subprocess.run(
                ["losetup", "--find", "--show", path], check=True, capture_output=True, text=True
            )
            device = made.stdout.strip()
        return {"driver_volume_type": "local", "data": {"device_path": device}}

    def terminate_connection(self, volume: Any, connector: Any, **kwargs: Any) -> None:
        self._detach(self._path(volume.name))

    def _device(self, path: Path) -> str | None:
        found = subprocess.run(
            ["losetup", "--noheadings", "--output", "NAME", "--associated", path],
            check=True,
            capture_output=True,
            text=True,
        )
        return found.stdout.split()[0] if found.stdout.strip() else None

    def _detach(self, path: Path) -> None:
        if path.exists() and (device := self._device(path)) is not None:
            subprocess.run(["losetup", "--detach", device], check=False)
