"""The clouds: facts of this instance, and inventories of what a cloud holds for it."""
