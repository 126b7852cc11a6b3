"""Questions that the papers leave open: items, and methods made of parts."""
