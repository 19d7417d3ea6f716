"""Whether a teacher can be asked, before one is loaded."""

import pytest

from create_data import parse_args
from distill.task import load_task
from distill.teacher.check import check_reasoning_parser, check_teacher, refuse_empty_guard
from helpers import ROOT, TEACHER

TASK = load_task(ROOT / "example-data" / "language_classification.yaml")


@pytest.mark.slow
def test_vllms_parser_agrees_on_well_formed_responses(pair):
    """It guards the engine.

    The answer is read by the stricter rule, for it would stop at the first </think>.
    """
    from transformers import AutoTokenizer
    from vllm.reasoning import ReasoningParserManager

    parser = ReasoningParserManager.get_reasoning_parser("qwen3")(
        AutoTokenizer.from_pretrained(TEACHER)
    )
    for response in (
        "The words are English.\n</think>\n\nFinal Answer: en",
        "</think>Final Answer: ot",
    ):
        _, content = parser.extract_reasoning(response, request=None)
        assert TASK.read_content(content) == TASK.read_answer(response)
    twice = "a</think>Final Answer: fr</think>Final Answer: en"
    assert (
        "fr" in parser.extract_reasoning(twice, request=None)[1] and TASK.read_answer(twice) == "en"
    )


@pytest.mark.slow
def test_a_teacher_over_nodes_is_vllms_affair(pair):
    flags = [
        "--model_name",
        str(TEACHER),
        "--tensor_parallel_size",
        "8",
        "--pipeline_parallel_size",
        "2",
    ]
    choices = parse_args([*flags, "--distributed_executor_backend", "ray"])
    task = load_task(choices.task_file)
    asked = check_teacher(choices.teacher, choices.task_file, task, choices.settings.guards)
    assert (asked.tensor_parallel_size, asked.pipeline_parallel_size) == (8, 2)
    assert asked.distributed_executor_backend == "ray"


def test_an_unknown_reasoning_parser_is_refused_with_the_known_ones():
    check_reasoning_parser("none")
    check_reasoning_parser("qwen3")
    message = (
        "^--reasoning_parser qwen9: vLLM has none of this name; "
        "it knows .*deepseek_r1, .*qwen3, .*, and none is"
    )
    with pytest.raises(ValueError, match=message):
        check_reasoning_parser("qwen9")


def test_a_guard_of_nothing_is_refused_where_it_was_asked_for():
    free = load_task(ROOT / "example-data" / "plain_words.yaml")
    with pytest.raises(ValueError, match="--structured_outputs always: my.yaml has neither"):
        refuse_empty_guard("my.yaml", free, "always")
    refuse_empty_guard("my.yaml", free, "retry")
    refuse_empty_guard("my.yaml", TASK, "always")
    json_task = load_task(ROOT / "example-data" / "notice_facts.yaml")
    refuse_empty_guard("my.yaml", json_task, "always")
