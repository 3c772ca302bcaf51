"""This node's kernel and files: one inventory per file, and the two ways to talk to the kernel."""
