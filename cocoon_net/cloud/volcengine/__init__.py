"""Volcengine (and BytePlus): VPC OpenAPI through the official SDK's core, instance metadata, credentials."""
