"""VPC-native addresses for VMs on a bare-metal node."""

__version__ = "0.1.0"
