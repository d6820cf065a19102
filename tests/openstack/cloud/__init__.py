"""A real OpenStack for tests: from a machine with nothing to Keystone, Glance, Nova, Neutron, and back.

``python -m tests.openstack.cloud up`` starts it, ``down`` removes it, ``run`` does both around a Ctrl-C.
"""

from tests.openstack.cloud.devcloud import DevCloud

__all__ = ["DevCloud"]
