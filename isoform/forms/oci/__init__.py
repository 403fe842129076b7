"""Containers as the OCI says: the bundle, the runtime under conmon, and conmon's log."""
