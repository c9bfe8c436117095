"""System checks, and those of `--deploy`."""
