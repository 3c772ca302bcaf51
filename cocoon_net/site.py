"""Where things are for this process: directories, sockets and endpoints, from flags and the environment.

Nothing else in the product differs between a live node and the lab.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STATE_DIR = Path("/var/lib/cocoon/net")
CNI_CONF_DIR = Path("/etc/cni/net.d")
RUN_DIR = Path("/run")
METADATA_URL = "http://100.96.0.96"
CONFLIST = "30-cocoon-dhcp.conflist"


@dataclass(frozen=True, slots=True)
class Site:
    """The places that are ours; defaults are those of the Go cocoon-net."""

    state_dir: Path = STATE_DIR
    cni_conf_dir: Path = CNI_CONF_DIR
    run_dir: Path = RUN_DIR
    metadata_url: str = METADATA_URL
    endpoint: str = ""
    """Of the cloud's API, e.g. ``http://100.96.0.97``; empty lets the SDK choose by region."""
    workflow_dir: Path | None = None
    """Of the workflow files; None takes the shipped ones."""
    lease_file_override: Path | None = None
    control_socket_override: Path | None = None
    dhcp_settings_override: Path | None = None

    @property
    def database(self) -> Path:
        """The one SQLite database."""
        return self.state_dir / "cocoon-net.db"

    @property
    def run_lock(self) -> Path:
        """Held by the one command that acts on this node."""
        return self.state_dir / "run.lock"

    @property
    def daemon_lock(self) -> Path:
        """Held by the one daemon of this state directory."""
        return self.state_dir / "daemon.lock"

    @property
    def pool_file(self) -> Path:
        """The projection that a Go cocoon-net would read."""
        return self.state_dir / "pool.json"

    @property
    def lease_file(self) -> Path:
        """The projection that vk-cocoon reads."""
        return self.lease_file_override or self.state_dir / "leases.json"

    @property
    def dhcp_settings(self) -> Path:
        """What the operator sets about DHCP; need not be there."""
        return self.dhcp_settings_override or self.state_dir / "dhcp.toml"

    @property
    def conflist(self) -> Path:
        """The CNI configuration that cocoon loads."""
        return self.cni_conf_dir / CONFLIST

    @property
    def pid_file(self) -> Path:
        """The daemon's PID, in decimal."""
        return self.run_dir / "cocoon-net.pid"

    @property
    def control_socket(self) -> Path:
        """The daemon's socket for vk-cocoon and for our own commands."""
        return self.control_socket_override or self.run_dir / "cocoon-net" / "control.sock"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Site:
        """Read ``COCOON_NET_{STATE_DIR,CNI_CONF_DIR,RUN_DIR,METADATA_URL,WORKFLOW_DIR}`` and ``VOLCENGINE_ENDPOINT``.

        Flags are laid over the result with ``dataclasses.replace``.
        """
        workflows = environ.get("COCOON_NET_WORKFLOW_DIR")
        return cls(
            state_dir=Path(environ.get("COCOON_NET_STATE_DIR") or STATE_DIR),
            cni_conf_dir=Path(environ.get("COCOON_NET_CNI_CONF_DIR") or CNI_CONF_DIR),
            run_dir=Path(environ.get("COCOON_NET_RUN_DIR") or RUN_DIR),
            metadata_url=(environ.get("COCOON_NET_METADATA_URL") or METADATA_URL).rstrip("/"),
            endpoint=(environ.get("VOLCENGINE_ENDPOINT") or "").rstrip("/"),
            workflow_dir=Path(workflows) if workflows else None,
        )
