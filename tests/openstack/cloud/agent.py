"""Neutron's macvtap agent, run by the services' Python: ``agent.py --config-file FILE``.

It differs from the program that comes with Neutron in two ways. It does not fork: the program has used
its privileged helper by then, and the child waits for it for ever. And it tells Neutron of an agent on
each host in DIBCTL_CLOUD_SILENT_HOSTS too, so that ports of servers on Nova's fake host can be bound;
these have no device that an agent could see to.
"""

from __future__ import annotations

import os
from typing import Any

from neutron.agent import rpc
from neutron.cmd.plugins import macvtap_neutron_agent as program
from neutron.plugins.ml2.drivers.macvtap.agent import macvtap_neutron_agent as macvtap
from neutron_lib import constants, context
from neutron_lib.agent import topics

launch = macvtap.service.launch


def launch_unforked(conf: Any, loop: Any, **options: Any) -> Any:
    """Stand in for oslo.service's function of the same purpose."""
    for host in os.environ["DIBCTL_CLOUD_SILENT_HOSTS"].split():
        report(host, loop.mgr.get_agent_configurations())
    return launch(conf, loop, no_fork=True, **options)


def report(host: str, configurations: dict[str, Any]) -> None:
    """Tell Neutron once that a host has a macvtap agent; its ``agent_down_time`` must be long."""
    state = {
        "binary": constants.AGENT_PROCESS_MACVTAP,
        "host": host,
        "topic": constants.L2_AGENT_TOPIC,
        "configurations": configurations,
        "agent_type": constants.AGENT_TYPE_MACVTAP,
        "start_flag": True,
    }
    reports = rpc.PluginReportStateAPI(topics.REPORTS)
    reports.report_state(context.get_admin_context_without_session(), state, use_call=True)


if __name__ == "__main__":
    macvtap.service.launch = launch_unforked
    program.main()
