"""What vLLM's worker does besides, without one. Engines show the rest in test_pipeline.py."""

from types import SimpleNamespace

from distill.teacher.worker_methods import WORKER_METHODS, WorkerMethods


def test_tokens_are_reported_otherwise_where_there_is_a_sampler():
    worker = WorkerMethods()
    worker.model_runner = SimpleNamespace(sampler=SimpleNamespace(logprobs_mode="raw_logprobs"))
    worker.report_as("raw_logits")
    assert worker.model_runner.sampler.logprobs_mode == "raw_logits"
    worker.model_runner.sampler = None  # of an earlier process of a pipeline
    worker.report_as("raw_logprobs")


def test_vllm_finds_it_by_its_name():
    assert f"{WorkerMethods.__module__}.{WorkerMethods.__qualname__}" == WORKER_METHODS
