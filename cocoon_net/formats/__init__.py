"""The texts that other programs read and write: pure rendering and parsing, no I/O."""
