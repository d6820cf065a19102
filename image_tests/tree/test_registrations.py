"""No instance appears to a service as the machine that the image was made on.

Registered once, at a subscription, a configuration server or a cluster, all instances would be one machine
there. Names of files that are there on purpose go, as patterns between blanks, into REGISTRATIONS_ALLOWED in
``environment_variables`` of the image or the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from .findings import Sign, find

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

SUBSCRIPTIONS = (
    Sign(
        names=("/etc/pki/consumer/*.pem", "/etc/pki/entitlement/*.pem"),
        what="a subscription of Red Hat's; `subscription-manager unregister`, then `clean`",
    ),
    Sign(
        names=("/etc/sysconfig/rhn/systemid",),
        what="a machine registered with Satellite or Spacewalk; remove it",
    ),
    Sign(
        names=(
            *("/etc/insights-client/machine-id", "/etc/insights-client/.registered"),
            *("/etc/redhat-access-insights/machine-id", "/etc/redhat-access-insights/.registered"),
        ),
        what="a machine registered with Red Hat Insights; `insights-client --unregister`",
    ),
    Sign(
        names=("/var/lib/ubuntu-advantage/private/machine-token.json",),
        what="the token of an Ubuntu Pro subscription; `pro detach`",
    ),
    Sign(
        names=("/var/lib/landscape/client/broker.bpickle",),
        what="a machine registered with Landscape; remove it",
    ),
    Sign(
        names=("/var/lib/snapd/state.json",),
        pattern=rb'"(?:serial|session-macaroon)"[ \t]*:[ \t]*"[^"]',
        what="the serial of one device in the snap store; build with `snap-preseed`, without a running snapd",
    ),
    Sign(
        names=("/var/lib/snapd/device/private-keys-v1/*",),
        what="the key of one device in the snap store; remove it",
    ),
)

AGENTS = (
    Sign(
        names=tuple(
            f"/etc/{salt}/{name}"
            for salt in ("salt", "venv-salt-minion")
            for name in ("minion_id", "pki/minion/minion.pem", "pki/minion/minion.pub")
        ),
        what="one minion of Salt's; stop salt-minion during the build, and remove it",
    ),
    Sign(
        names=tuple(
            f"{folder}/{kind}/*.pem"
            for folder in ("/etc/puppetlabs/puppet/ssl", "/etc/puppet/ssl", "/var/lib/puppet/ssl")
            for kind in ("private_keys", "public_keys", "certificate_requests")
        ),
        what="one node of Puppet's; `puppet ssl clean`",
    ),
    Sign(names=("/etc/chef/client.pem", "/etc/cinc/client.pem"), what="one node of Chef's; remove it"),
    Sign(
        names=("/var/lib/amazon/ssm/Vault/Store/*", "/var/lib/amazon/ssm/registration"),
        what="a machine registered with AWS Systems Manager; `amazon-ssm-agent -register -clear`",
    ),
    Sign(
        names=(
            *("/var/lib/waagent/ovf-env.xml", "/var/lib/waagent/*.prv", "/var/lib/waagent/provisioned"),
            *("/var/lib/waagent/GoalState*.xml", "/var/lib/waagent/HostingEnvironmentConfig.xml"),
            "/var/lib/waagent/TransportPrivate.pem",
        ),
        what="one machine in Azure; `waagent -deprovision`",
    ),
    Sign(
        names=("/etc/default/instance_configs.cfg",),
        pattern=rb"^[ \t]*instance_id[ \t]*=[ \t]*[1-9]",
        what="one instance in Google's cloud; remove the line instance_id",
    ),
    Sign(names=("/etc/google_instance_id",), what="one instance in Google's cloud; remove it"),
    Sign(
        names=("/opt/CrowdStrike/falconstore", "/var/ossec/etc/client.keys", "/etc/elastic-agent/fleet.enc"),
        what="one machine to a security agent; remove it",
    ),
    Sign(
        names=("/opt/splunkforwarder/etc/instance.cfg", "/opt/splunk/etc/instance.cfg"),
        pattern=rb"^[ \t]*guid[ \t]*=[ \t]*\S",
        what="the id of one machine to Splunk; `splunk clone-prep-clear-config`",
    ),
)

NETWORKS = (
    Sign(
        names=("/var/lib/tailscale/tailscaled.state",),
        pattern=rb'"_machinekey"',
        what="one machine in a tailnet; `tailscale logout`, and remove it",
    ),
    Sign(
        names=("/var/lib/zerotier-one/identity.secret",),
        what="one machine in ZeroTier; remove it with identity.public",
    ),
    Sign(
        names=("/etc/docker/key.json", "/var/lib/docker/engine-id", "/var/lib/docker/swarm/certificates/*"),
        what="one Docker engine; remove it, dockerd makes one",
    ),
    Sign(
        names=("/var/lib/kubelet/pki/*.pem", "/var/lib/kubelet/pki/kubelet.key"),
        what="one node of a Kubernetes cluster; `kubeadm reset`, or install without starting kubelet",
    ),
    Sign(
        names=("/var/lib/rancher/k3s/server/token", "/var/lib/rancher/k3s/server/cred/*"),
        what="a Kubernetes cluster that all instances would be; install k3s without starting it",
    ),
    Sign(names=("/etc/rancher/node/password",), what="one node of a Kubernetes cluster; remove it"),
    Sign(names=("/opt/consul/node-id", "/var/lib/consul/node-id"), what="one node to Consul; remove it"),
    Sign(
        names=("/var/lib/samba/private/secrets.tdb",),
        what="the security id, or the domain account, of one Samba machine; remove it",
    ),
)


def test_no_subscriptions(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No subscription was left behind: everybody who boots the image would use it.

    If this fails, end the subscription as the last step of the build, or use the packages of the build
    machine's mirror.
    """
    refuse("subscriptions are in the image", find(image_tree, SUBSCRIPTIONS), "REGISTRATIONS_ALLOWED")


def test_no_agents(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No agent of a configuration server, a cloud or a monitoring service has introduced itself.

    If this fails, the agent ran while the image was made: keep it stopped, or
    remove what it wrote.
    """
    refuse("agents are registered in the image", find(image_tree, AGENTS), "REGISTRATIONS_ALLOWED")


def test_no_members(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No instance is already a member of a cluster, a domain or a private network.

    If this fails, have the instances join on their first boot, each with a name of its own.
    """
    refuse("memberships are in the image", find(image_tree, NETWORKS), "REGISTRATIONS_ALLOWED")
