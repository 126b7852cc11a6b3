"""The algebra: parameters, objectives and the rules that change them, each as long as its equation."""
