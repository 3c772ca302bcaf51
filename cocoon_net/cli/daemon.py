"""``daemon``: serve DHCP and keep the routes of the leases, until told to stop."""

from __future__ import annotations

import click

from cocoon_net.cli.options import site_from, site_options
from cocoon_net.dhcp.limits import AT_ONCE, Limits
from cocoon_net.supervisor.daemon import METRICS_ADDRESS


@click.command()
@site_options
@click.option("--lease-file", metavar="FILE", help="What vk-cocoon reads; default DIR/leases.json.")
@click.option("--skip-iptables", is_flag=True, help="Leave the iptables rules of this node as they are.")
@click.option(
    "--metrics-addr",
    metavar="[HOST]:PORT",
    default=METRICS_ADDRESS,
    show_default=True,
    envvar="COCOON_NET_METRICS_ADDR",
    show_envvar=True,
    help="Of /metrics, /healthz, /readyz and the status page, never for guests; '' turns it off.",
)
@click.option(
    "--control-socket",
    metavar="PATH",
    envvar="COCOON_NET_CONTROL_SOCKET",
    show_envvar=True,
    help="Where vk-cocoon gives leases back; default RUN/cocoon-net/control.sock, '' turns it off.",
)
@click.option(
    "--dhcp-settings",
    metavar="FILE",
    envvar="COCOON_NET_DHCP_SETTINGS",
    show_envvar=True,
    help="Lease time, domain and options for the guests (TOML, read again on SIGHUP); default DIR/dhcp.toml.",
)
@click.option(
    "--addresses-per-port",
    metavar="N",
    type=click.IntRange(min=0),
    default=Limits.addresses,
    show_default=True,
    help="Addresses that the guests of one bridge port may hold together, more while enough is left; 0: no limit.",
)
@click.option(
    "--messages-per-second",
    metavar="N",
    type=click.IntRange(min=0),
    default=int(Limits.rate),
    show_default=True,
    help="DHCP messages of one bridge port that are read while others speak, "
    f"{AT_ONCE} times as many at once; 0: no limit.",
)
@click.option(
    "--audit-every",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=180.0,
    show_default=True,
    envvar="COCOON_NET_AUDIT_EVERY",
    show_envvar=True,
    help="Between two audits of cloud and node, each in a process of its own; 0 has none.",
)
@click.option(
    "--check-conflicts",
    is_flag=True,
    help="Ask by ARP whether somebody uses an address before it is first offered; each such offer waits 0.3 s.",
)
@click.option(
    "--trusted-port",
    "trusted_ports",
    metavar="NAME",
    multiple=True,
    help="A bridge port without these two limits, for a DHCP relay or another bridge; name or pattern, repeatable.",
)
def daemon(
    lease_file: str | None,
    skip_iptables: bool,
    metrics_addr: str,
    control_socket: str | None,
    dhcp_settings: str | None,
    addresses_per_port: int,
    messages_per_second: int,
    audit_every: float,
    check_conflicts: bool,
    trusted_ports: tuple[str, ...],
    **places: str | None,
) -> None:
    """Serve DHCP on cni0 from the pool that init or adopt made, and route each lease to its guest.

    A state directory that holds nothing but the Go cocoon-net's pool.json and leases.json is taken over as it is.
    SIGTERM stops it within a second and loses no lease; SIGHUP makes it read the pool, the
    reservations and the settings of DHCP again.
    """
    from cocoon_net.runs import require_root
    from cocoon_net.supervisor import log
    from cocoon_net.supervisor.daemon import DaemonOptions, serve

    log.configure()
    require_root("daemon")
    site = site_from(**places, lease_file=lease_file, control_socket=control_socket, dhcp_settings=dhcp_settings)
    limits = Limits(addresses_per_port, messages_per_second, AT_ONCE * messages_per_second, trusted_ports)
    options = DaemonOptions(
        skip_iptables,
        metrics_addr,
        control=control_socket != "",
        check_conflicts=check_conflicts,
        limits=limits,
        audit_every=audit_every,
    )
    serve(site, options)
