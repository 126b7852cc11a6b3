"""Tasks from pictures: sets and their readers, splits, a store of decoded pictures, and how they are prepared."""
