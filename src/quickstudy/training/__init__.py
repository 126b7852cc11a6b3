"""Meta-training runs, restoring them, evaluating them, and sweeps over their settings."""
