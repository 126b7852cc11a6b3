"""Meta-training: the loop, where it starts, how it resumes, and the settings of a run."""
