"""The methods: one file a paper, all entered in `registry`, all giving a `Learner`."""
