"""The ways to serve an adapter on a machine with a GPU, for tests on one without."""

from distill.adapter import plan_serving


def plan_as_on_a_gpu(choice, *arguments):
    """plan_serving() for --serve_adapter auto where vLLM serves the adapter first."""
    return [*plan_serving("lora", *arguments), *plan_serving("merged", *arguments)]
