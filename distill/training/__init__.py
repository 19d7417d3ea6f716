"""Step 2: the student's training."""
