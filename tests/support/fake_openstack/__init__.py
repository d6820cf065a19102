"""An OpenStack for tests: Keystone, Glance, Nova, Neutron and Cinder in memory, as far as the project asks.

A ``FakeCloud`` keeps what it is told, pages its lists as the services do, and refuses what they refuse,
in their words. ``FakeCloud.handle`` turns a request into an answer and knows nothing of sockets; ``serving``
puts it behind HTTP on loopback, and ``faults.Plan`` says what goes wrong on the way. The tests on the real
services check that the fake tells the truth.
"""

from tests.support.fake_openstack.cloud import FakeCloud
from tests.support.fake_openstack.documents import stamp
from tests.support.fake_openstack.messages import Refusal
from tests.support.fake_openstack.server import serving

__all__ = ["FakeCloud", "Refusal", "serving", "stamp"]
