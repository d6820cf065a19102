"""One image's whole way through a real cloud: a pytest run against a script of the ``openstack`` command.

Both upload the micro image with its kernel and initrd, import a new key, boot a guest that really runs, wait
until it lets one log in, run one command in it, and remove all of it. The cloud is that of the tests; it is
started if none runs, and its start is not measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import paired
from benchmarks.rows import Row
from tests.openstack.belongings import looking
from tests.openstack.cloud import environment, sessions
from tests.openstack.cloud.layout import Layout
from tests.openstack.site import Site
from tests.support import micro

ROUNDS = 3

TEST = """
def test_it(host, instance):
    assert host.check_output("hostname") == instance.name
"""

SCRIPT = r"""
set -eu
name=bench-$(openssl rand -hex 4)
trap 'rm -f $name.key $name.key.pub' EXIT
ssh-keygen -q -t ed25519 -N "" -f $name.key
upload() {
    openstack image create -f value -c id --private --file "$@"
}
kernel=$(upload "$IMAGE.vmlinuz" --disk-format aki --container-format aki $name-kernel)
initrd=$(upload "$IMAGE.initrd" --disk-format ari --container-format ari $name-initrd)
image=$(upload "$IMAGE.qcow2" --disk-format qcow2 --property kernel_id=$kernel --property ramdisk_id=$initrd \
    --property os_command_line="root=/dev/vda rw console=ttyS0" $name)
openstack keypair create -f value -c name --public-key $name.key.pub $name > /dev/null
server=$(openstack server create -f value -c id --wait --image $image --flavor $FLAVOR --key-name $name \
    --availability-zone $ZONE --nic net-id=$NETWORK $name)
# The list's whole JSON: its columns are called otherwise from version to version of the client.
address=$(openstack port list -f json --server $server | grep -oE '([0-9]+\.){3}[0-9]+' | head -n1)
until said=$(ssh -q -i $name.key -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null root@$address hostname); do
    sleep 0.5
done
[ "$said" = $name ]
openstack server delete --wait $server
openstack keypair delete $name
openstack image delete $image $initrd $kernel
"""


def rows() -> Iterator[Row]:
    """Compare the two, in turn."""
    layout = Layout.at(None)
    keep = os.environ.get("DIBCTL_TEST_CLOUD") == "keep"
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        sessions.using(layout, keep=keep) as cloud,
        looking(cloud) as belongings,
    ):
        image = Path(shutil.copytree(micro.cached(), Path(directory, "image"))) / "micro"
        site = Site(
            path=Path(directory),
            cloud=cloud,
            image=image.with_suffix(".qcow2"),
            belongings=belongings,
            before=frozenset(belongings.known()),
        )
        (site.path / "test_it.py").write_text(TEST)
        site.write({"here": site.live()}, [{"pytest": "test_it.py"}])
        clients = environment.path(layout) / "bin"
        variables = {
            **site.environ(),
            "PATH": f"{clients}:{os.environ['PATH']}",
            "OS_CLOUD": "demo",
            "IMAGE": str(image),
            "FLAVOR": cloud.flavor_nano,
            "ZONE": cloud.zone_live,
            "NETWORK": site.network(),
        }

        def ours() -> None:
            run = site.pytest("-q")
            if "1 passed" not in run.stdout:
                raise SystemExit(run.stdout)

        def theirs() -> None:
            argv = ["bash", "-c", SCRIPT]
            done = subprocess.run(
                argv, cwd=site.path, env=variables, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)

        pair = paired.measure(ours, theirs, rounds=ROUNDS)
        if left := site.left_at_last():
            raise SystemExit(f"left behind: {', '.join(sorted(left))}")
    yield Row.of_pair("OpenStack flow", pair, peer="openstack commands")
