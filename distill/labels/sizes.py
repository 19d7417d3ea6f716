"""How long the requests of step 1 are, found out without a model. No torch, no vLLM."""

from dataclasses import dataclass

import numpy as np

from distill.labels.inputs import Inputs
from distill.model_tokenizer import PROBE
from distill.task import Task
from distill.templates import TemplateProblem
from distill.tokens import prompt_ids

CHARACTERS_PER_TOKEN = 4  # of English, where no tokenizer is at hand
SAMPLED = 200  # inputs whose tokens are counted, spread over all that are asked


@dataclass(frozen=True)
class Sizes:
    """How long prompts are, in tokens: counted, or estimated where there is no tokenizer."""

    prompt: int  # that the task's prompt adds to each request; the same in all, so cached
    mean_input: float  # of an input in the chat template, without the prompt
    longest_input: int
    longest_index: int  # which of the inputs that is
    longest_characters: int


def measure_inputs(task: Task, inputs: Inputs, missing: np.ndarray, tokenizer) -> Sizes:
    """Count the characters of every input that is asked, and the tokens of some.

    `missing` says which are asked; if none is, all are measured. Without a tokenizer (None) tokens
    are characters divided by CHARACTERS_PER_TOKEN.
    """
    prompt = prompt_tokens_of(task, tokenizer)
    asked = int(missing.sum())
    every = max(asked // SAMPLED, 1)
    counted = []
    longest = None
    most = -1
    wanted = missing if asked else None
    for place, (index, messages) in enumerate(inputs.read(wanted)):
        characters = sum(len(message["content"]) for message in messages)
        if characters > most:
            most = characters
            longest = (index, messages)
        if place % every == 0:
            counted.append(tokens_of(task, messages, tokenizer) - prompt)
    longest_index, messages = longest
    return Sizes(
        prompt=prompt,
        mean_input=sum(counted) / len(counted),
        longest_input=tokens_of(task, messages, tokenizer) - prompt,
        longest_index=longest_index,
        longest_characters=most,
    )


def prompt_tokens_of(task: Task, tokenizer) -> int:
    """How many tokens the task's prompt adds to a request."""
    probe = [{"role": "user", "content": PROBE}]
    if tokenizer is None:
        return round(len(task.prompt) / CHARACTERS_PER_TOKEN)
    try:
        return len(prompt_ids(tokenizer, task.messages(probe))) - len(prompt_ids(tokenizer, probe))
    except TemplateProblem:  # a template that wants a system message
        return len(tokenizer(task.prompt, add_special_tokens=False)["input_ids"])


def tokens_of(task: Task, messages: list[dict], tokenizer) -> int:
    """How many tokens a request has before its answer, prompt and input together."""
    chat = task.messages(messages)
    if tokenizer is None:
        characters = sum(len(message["content"]) for message in chat)
        return round(characters / CHARACTERS_PER_TOKEN)
    try:
        return len(prompt_ids(tokenizer, chat))
    except TemplateProblem:  # such an input is rejected without being asked
        return prompt_tokens_of(task, tokenizer)
