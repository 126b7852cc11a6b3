"""What runs the papers' items: rows, trainings, readings, verdicts and pages."""
