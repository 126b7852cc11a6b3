"""Every table and figure of the papers as rows of data, run, cached, and shown beside what the papers report."""
