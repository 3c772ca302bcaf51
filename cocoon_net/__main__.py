"""``python -m cocoon_net``: the same as ``cocoon-net``."""

from cocoon_net.cli.main import main

main()
