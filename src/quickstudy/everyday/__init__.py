"""Everyday use: from a few examples to predictions. A base is taught by a user's examples, answers, and is saved."""
