"""Step 1: inputs in, labels out, nothing asked twice."""
