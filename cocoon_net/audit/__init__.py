"""The audit: every inventory is looked at, and what differs from the ledger and the workflow becomes a finding."""
