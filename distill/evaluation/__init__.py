"""Step 3: systems asked, scored and shown."""
