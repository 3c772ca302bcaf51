"""The options that commands share: where this node's things are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from cocoon_net.site import CNI_CONF_DIR, METADATA_URL, RUN_DIR, STATE_DIR, Site

F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """Add ``--state-dir``."""
    return click.option(
        "--state-dir",
        metavar="DIR",
        help=f"Where state is kept (COCOON_NET_STATE_DIR; default {STATE_DIR}).",
    )(command)


def site_options(command: F) -> F:
    """Add the options of every place that is not the state directory's."""
    for option in (
        click.option("--run-dir", metavar="DIR", help=f"For PID file and socket (COCOON_NET_RUN_DIR; {RUN_DIR})."),
        click.option("--cni-conf-dir", metavar="DIR", help=f"(COCOON_NET_CNI_CONF_DIR; {CNI_CONF_DIR})."),
        click.option("--metadata-url", metavar="URL", help=f"(COCOON_NET_METADATA_URL; {METADATA_URL})."),
    ):
        command = option(command)
    return state_option(command)


def site_from(**flags: str | None) -> Site:
    """Return the site of the environment with the flags that were given laid over it.

    Flags: ``state_dir``, ``run_dir``, ``cni_conf_dir``, ``metadata_url``, ``lease_file``, ``control_socket``,
    ``dhcp_settings``.
    """
    site = Site.from_environment(os.environ)
    paths = {"state_dir", "run_dir", "cni_conf_dir"}
    given: dict[str, Any] = {k: Path(v) for k, v in flags.items() if k in paths and v}
    if flags.get("metadata_url"):
        given["metadata_url"] = str(flags["metadata_url"]).rstrip("/")
    if flags.get("lease_file"):
        given["lease_file_override"] = Path(str(flags["lease_file"]))
    if flags.get("dhcp_settings"):
        given["dhcp_settings_override"] = Path(str(flags["dhcp_settings"]))
    if flags.get("control_socket"):
        given["control_socket_override"] = Path(str(flags["control_socket"]))
    return replace(site, **given)
