"""The long-running service of a node: lifecycle, DHCP, control socket, metrics, and a look at the kernel."""
