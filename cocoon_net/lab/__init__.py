"""A VPC on one machine: the cloud's API over HTTP, instance metadata, the fabric in network namespaces, guests."""
