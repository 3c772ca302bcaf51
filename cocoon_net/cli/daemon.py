"""``daemon``: serve DHCP and keep the routes of the leases, until told to stop."""

from __future__ import annotations

import click

from cocoon_net.cli.options import site_from, site_options


@click.command()
@site_options
@click.option("--lease-file", metavar="FILE", help="What vk-cocoon reads; default DIR/leases.json.")
@click.option("--skip-iptables", is_flag=True, help="Leave the iptables rules of this node as they are.")
@click.option(
    "--metrics-addr",
    metavar="[HOST]:PORT",
    default=":9092",
    show_default=True,
    envvar="COCOON_NET_METRICS_ADDR",
    show_envvar=True,
    help="Where Prometheus reads /metrics; '' turns it off.",
)
@click.option(
    "--control-socket",
    metavar="PATH",
    envvar="COCOON_NET_CONTROL_SOCKET",
    show_envvar=True,
    help="Where vk-cocoon gives leases back; default RUN/cocoon-net/control.sock, '' turns it off.",
)
def daemon(
    lease_file: str | None, skip_iptables: bool, metrics_addr: str, control_socket: str | None, **places: str | None
) -> None:
    """Serve DHCP on cni0 from the pool that init or adopt made, and route each lease to its guest.

    A state directory that holds nothing but the Go cocoon-net's pool.json and leases.json is taken over as it is.
    SIGTERM stops it within a second and loses no lease; SIGHUP makes it read the pool again.
    """
    from cocoon_net.runs import require_root
    from cocoon_net.supervisor import log
    from cocoon_net.supervisor.daemon import DaemonOptions, serve

    log.configure()
    require_root("daemon")
    site = site_from(**places, lease_file=lease_file, control_socket=control_socket)
    serve(site, DaemonOptions(skip_iptables, metrics_addr, control=control_socket != ""))
