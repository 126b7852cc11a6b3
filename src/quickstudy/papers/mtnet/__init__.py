"""The T-net and MT-net thesis (Lee, 2018): items, measures and figures of its own."""
