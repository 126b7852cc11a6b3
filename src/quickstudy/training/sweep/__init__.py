"""A search over settings: the space, the plan, an Optuna study and its figure."""
