"""A repository of images whose upload environments lie in the real cloud, and what is there of its images."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.openstack.belongings import ADMINS
from tests.openstack.site import Site
from tests.support.publishing import Commands, write_qcow2

MIB = 1 << 20
REGIONS = ("demo", "demo-two")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shelf(Commands):
    """The repository of the image "web"; all that tests make of it in the cloud has ``name`` in its own."""

    site: Site
    name: str

    @property
    def file(self) -> Path:
        return self.site.path / "image.qcow2"

    def write(
        self,
        environments: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        filename: Path | None = None,
        **glance: Any,
    ) -> None:
        """Write images.yaml, with the image "web", and upload.yaml: by default both regions of demo."""
        image = {
            "filename": str(filename or self.file),
            "glance": {"name": self.name, "upload_timeout": 120, **glance},
        }
        found = environments or {label: {"keystone": {"cloud": label}} for label in REGIONS}
        (self.site.path / "images.yaml").write_text(yaml.safe_dump({"web": image}))
        (self.site.path / "upload.yaml").write_text(yaml.safe_dump(dict(found)))

    def fill(self) -> str:
        """Write the image's file anew and return its digest."""
        write_qcow2(self.file, os.urandom(6 * MIB))
        return hashlib.sha512(self.file.read_bytes()).hexdigest()

    @contextlib.contextmanager
    def connected(self, cloud: str, **overrides: Any) -> Iterator[Any]:
        with self.site.cloud.connected(cloud, **overrides) as connection:
            yield connection

    def project(self, cloud: str = "demo") -> str:
        """Return the id of a project."""
        with self.connected(cloud) as connection:
            return str(connection.session.get_project_id())

    def glance(self, cloud: str = "demo") -> str:
        """Return the address of a region's Glance."""
        with self.connected(cloud) as connection:
            region = self.site.cloud.entry(cloud)["region_name"]
            return str(connection.session.get_endpoint(service_type="image", region_name=region))

    # -- what is there -------------------------------------------------------------------------

    def images(self, cloud: str = "demo", *, hidden: bool = False) -> dict[str, Any]:
        """Return the project's images of this test, by id."""
        with self.connected(cloud) as connection:
            owner = connection.session.get_project_id()
            return {
                image.id: image
                for image in connection.image.images(owner=owner, is_hidden=hidden)
                if self.name in image.name
            }

    def named(self, cloud: str = "demo") -> list[str]:
        """Return the ids of the images that have just the name."""
        return [one for one, image in self.images(cloud).items() if image.name == self.name]

    def stores(self, image_id: str) -> set[str]:
        """Return where an image is in demo's Glance."""
        with self.connected("demo") as demo:
            return set(demo.image.get(f"/images/{image_id}").json()["stores"].split(","))

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the images of this test, whoever has them, by the admin's entry for a region and by id."""
        found: dict[str, dict[str, Any]] = {}
        for cloud in ADMINS:
            with self.connected(cloud) as admin:
                found[cloud] = {
                    image["id"]: image
                    for hidden in ("false", "true")
                    for image in admin.image.get(
                        # Without a visibility other projects' community images are not listed.
                        "/images",
                        params={"visibility": "all", "os_hidden": hidden, "limit": "1000"},
                    ).json()["images"]
                    if self.name in image["name"]
                }
        return found

    # -- what others do ------------------------------------------------------------------------

    def put(
        self,
        cloud: str = "demo",
        *,
        name: str | None = None,
        content: bytes = b"some bytes",
        region: str | None = None,
        **said: Any,
    ) -> str:
        """Make an image past dibctl and return its id; ``said`` are more of Glance's keys."""
        document = {"name": name or self.name, "disk_format": "raw", "container_format": "bare", **said}
        with self.connected(cloud, **({"region_name": region} if region else {})) as connection:
            made = connection.image.post("/images", json=document)
            assert made.ok, made.text
            image_id = str(made.json()["id"])
            kind = {"Content-Type": "application/octet-stream"}
            sent = connection.image.put(f"/images/{image_id}/file", data=content, headers=kind)
            assert sent.ok, sent.text
        return image_id

    def put_obsolete(self, cloud: str = "demo", **said: Any) -> str:
        """Make an image that is marked and called as an obsolete one."""
        return self.put(cloud, name=f"Obsolete {self.name}", obsolete="true", **said)

    def give(self, image_id: str, *, owner: str, to: str) -> None:
        """Share an image of one project with another, which accepts it."""
        project = self.project(to)
        with self.connected(owner) as theirs, self.connected(to) as ours:
            offered = theirs.image.post(f"/images/{image_id}/members", json={"member": project})
            assert offered.ok, offered.text
            taken = ours.image.put(f"/images/{image_id}/members/{project}", json={"status": "accepted"})
            assert taken.ok, taken.text

    @contextlib.contextmanager
    def server(self, image_id: str) -> Iterator[Any]:
        """Run a server of the admin's that exists only in Nova's records."""
        with self.connected("admin") as admin:
            flavor = admin.compute.find_flavor(self.site.cloud.flavor_nano, ignore_missing=False)
            made = admin.compute.create_server(
                name=f"{self.name}-server",
                image_id=image_id,
                flavor_id=flavor.id,
                networks=[{"uuid": self.site.network()}],
                availability_zone=self.site.cloud.zone_fake,
            )
            try:
                admin.compute.wait_for_server(made, interval=0.3, wait=120)
                yield made
            finally:
                admin.compute.delete_server(made.id, ignore_missing=True)
                admin.compute.wait_for_delete(made, interval=0.3, wait=120)

    def remove(self) -> None:
        """Remove every image of this test, whoever has it."""
        for cloud, images in self.state().items():
            with self.connected(cloud) as admin:
                for image in images.values():
                    if image["protected"]:
                        admin.image.update_image(image["id"], is_protected=False)
                    admin.image.delete_image(image["id"])
