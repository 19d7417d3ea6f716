"""A student that a server has: its flags, which steps beside the teacher's, and what they say."""

from argparse import Namespace
from dataclasses import replace

from distill.teacher.server import (
    FlagNames,
    Server,
    named_server,
    refuse_engine_flags,
    refuse_together,
)

STUDENT = "student"  # what docs/serving.md calls it on a server
OF_STUDENT = FlagNames(
    url="--student_url",
    model="--student_name",
    api_key_env="--student_api_key_env",
    tokenizer="--student_tokenizer",
)


def add_student_flags(parser) -> None:
    """Which server has the student."""
    parser.add("student_url", "", "of an OpenAI-compatible server that has the student")
    parser.add("student_name", STUDENT, "what that server calls the merged model or the adapter")
    parser.add("student_api_key_env", "", "the environment variable that holds its key")
    parser.add("student_tokenizer", None, "keeps special tokens in inputs text (vLLM's server)")


def student_server_of(
    args: Namespace,
    script: str,
    not_together: dict | None = None,
    engine_flags: list[str] = (),
) -> Server | None:
    """The server that has the student, as the flags of a `script` say; None: it runs here.

    The others are as in server_of(), which raises the same.
    """
    flags = replace(OF_STUDENT, script=script)
    server = named_server(
        args,
        args.student_url,
        args.student_name,
        args.student_api_key_env,
        args.student_tokenizer,
        flags,
    )
    if server:
        refuse_engine_flags(engine_flags, flags)
        refuse_together(args, not_together or {}, flags)
    return server
