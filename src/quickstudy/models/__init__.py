"""What adapts: networks and cells, norms that are right under `vmap`, and functions that analyse or change a module."""
