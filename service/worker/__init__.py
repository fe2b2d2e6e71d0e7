"""What works on jobs: one process, one event loop, many jobs side by side."""
