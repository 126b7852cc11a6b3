"""Files that survive a kill: atomic writing, checkpoints, runs, results and versions."""
