"""Real models small enough to measure every strategy in minutes: tasks, tiny policies and reward models."""
