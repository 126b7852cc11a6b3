"""The methods, one file for each paper: each makes a `Learner`, and `registry` lists them all."""
