"""The student at work: answers for any number of inputs."""
