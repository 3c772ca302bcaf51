"""The DHCP server: pure decisions inside, one commit per batch, sockets and routes at the edge."""
