"""The engine: it diffs what a step wants with what an inventory observes, and it alone acts."""
