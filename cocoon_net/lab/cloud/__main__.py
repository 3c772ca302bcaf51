"""Run the simulated cloud as a process of its own; prints its addresses as one line of JSON, ends on SIGTERM.

``python -m cocoon_net.lab.cloud --directory DIR [--listen HOST:PORT] [--fault api-latency=50ms] ...``
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from cocoon_net.errors import CocoonError, SpecError
from cocoon_net.lab.cloud.faults import parse_settings
from cocoon_net.lab.cloud.seed import Seed
from cocoon_net.lab.cloud.service import Cloud


def main(arguments: list[str] | None = None) -> int:
    """Run until asked to end; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cocoon_net.lab.cloud", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where the state is kept")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="the OpenAPI")
    parser.add_argument("--metadata", default="127.0.0.1:0", metavar="HOST:PORT", help="the metadata service")
    parser.add_argument("--nodes", type=int, default=2, help="instances node1 .. nodeN")
    parser.add_argument("--default-instance", default="", metavar="NODE", help="whom a stranger is taken for")
    parser.add_argument("--fault", action="append", default=[], metavar="KEY=VALUE", help="a knob, repeatable")
    options = parser.parse_args(arguments)
    try:
        with Cloud.start(
            options.directory,
            listen=_host_and_port(options.listen),
            metadata=_host_and_port(options.metadata),
            seed=Seed(nodes=options.nodes),
            faults=parse_settings(options.fault),
            default_instance=options.default_instance,
        ) as cloud:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: cloud.stopped.set())
            addresses = {
                "endpoint": cloud.endpoint,
                "metadata_url": cloud.metadata_url,
                "admin": str(cloud.admin.path),
                "region": cloud.region,
            }
            print(json.dumps(addresses), flush=True)
            cloud.stopped.wait()
    except CocoonError as error:
        print(f"{error}\n{error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code
    return 0


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SpecError(f"{text}: wanted HOST:PORT")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
