"""Methods that vLLM adds to its worker (--worker_extension_cls), for VLLMTeacher to call.

It imports this file in the worker's process, by the name in WORKER_METHODS.
"""

WORKER_METHODS = "distill.teacher.worker_methods.WorkerMethods"


class WorkerMethods:
    """What a worker can do besides."""

    def report_as(self, logprobs_mode: str) -> None:
        """Report tokens from now on as raw_logprobs or as raw_logits.

        vLLM has it as a setting of the engine alone, and to start one takes minutes where models
        are large. Of a pipeline's processes only the last one has a sampler.
        """
        sampler = self.model_runner.sampler
        if sampler is not None:
            sampler.logprobs_mode = logprobs_mode
