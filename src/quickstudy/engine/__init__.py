"""Running the algebra: batches of tasks, derivatives, memory, devices, precision and workers."""
