"""Tasks from formulas: sines, polynomials, thresholds, wavelets and mixtures of Gaussians."""
