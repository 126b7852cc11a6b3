"""HyperMAML (Przewiezlikowski et al., 2022): items, measures, claims and figures of its own."""
