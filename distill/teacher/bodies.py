"""What a request to a server holds beside its messages, from a Sampling."""

import json
from dataclasses import asdict

from distill.teacher.base import Sampling


def vllm_body(sampling: Sampling) -> dict:
    """What vLLM's server understands beside the protocol: what the local engine is given too."""
    body = {}
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.loop:
        body["repetition_detection"] = asdict(sampling.loop)
    if sampling.thinking_budget is not None:
        body["thinking_token_budget"] = sampling.thinking_budget
    if sampling.guard is not None:
        body["structured_outputs"] = {"regex": sampling.guard}
    if sampling.json_schema is not None:
        body["structured_outputs"] = {"json": sampling.json_schema}
    return body


def schema_format(schema: str) -> dict:
    """A JSON Schema, given as JSON text, as the protocol wants it."""
    named = {"name": "answer", "schema": json.loads(schema)}
    return {"type": "json_schema", "json_schema": named}


def chat_log_probabilities(likeliest: int) -> dict:
    """What asks a chat's reply for log-probabilities: of the chosen tokens, and so many others."""
    found = {"logprobs": True}
    if likeliest:
        found["top_logprobs"] = likeliest
    return found
