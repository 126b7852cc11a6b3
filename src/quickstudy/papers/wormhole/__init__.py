"""Wormhole MAML (Chang, Gao & Lou, 2022): items, measures, claims and figures of its own."""
