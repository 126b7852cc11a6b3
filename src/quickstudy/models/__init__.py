"""What adapts: networks and cells, norms that stay right under `vmap`, and ways to look into a module."""
