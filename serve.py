r"""The student as one URL, which asks the teacher where the student is not sure.

    python serve.py --student_url http://127.0.0.1:8001/v1 --student_name student \
        --student_tokenizer models/merged --adapter models/my_adapter --task my_task.yaml \
        --teacher_url http://127.0.0.1:8002/v1 --teacher_name teacher

POST /v1/chat/completions with the input and nothing else, as any client of OpenAI's does; also
GET /v1/models, /health and /metrics (Prometheus). The reply's `model` is who answered; its field
`cascade` and the headers x-answered-by, x-confidence, x-handed-over and x-unsure say how sure the
student was. Both servers speak the OpenAI protocol; the student's must give log-probabilities.
The threshold is that of calibration.json beside the adapter, or --temperature and --threshold.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import json
import logging
import sys
from argparse import Namespace

from distill.cascade.asked import Limits
from distill.cascade.cascade import GIVE_STUDENTS, REFUSE
from distill.cascade.choices import Choices
from distill.cascade.metrics import Metrics
from distill.cascade.start import check_choices, run_to_the_end, serve
from distill.cli import (
    ADAPTER,
    ANSWER_TOKENS,
    MAX_TOKENS,
    REASONING_PARSER,
    TASK,
    TEMPERATURE,
    Parser,
    from_flags,
    one_line,
)
from distill.stopping import UnwindAtSignals
from distill.streams import lasting_streams
from distill.teacher.attempts import (
    MAX_REPEATS,
    MAX_RETRIES,
    AttemptSettings,
    default_thinking_budget,
)
from distill.teacher.server import (
    KINDS,
    REJECT,
    SPECIAL_TOKENS,
    FlagNames,
    Server,
    check_key,
    check_url,
)

log = logging.getLogger("serve")
GUARDS = ["retry", "always", "never"]
WHEN_TEACHER_FAILS = [GIVE_STUDENTS, REFUSE]


def parse_args(argv: list[str] | None = None) -> Choices:
    """What the flags choose."""
    parser = Parser(__doc__)
    parser.group("the student")
    add_upstream(parser, "student")
    parser.add("student_max_tokens", ANSWER_TOKENS, "of an answer", at_least=1)
    parser.add("student_timeout", 30.0, "seconds; then it counts as down", at_least=0.001)
    parser.group("the teacher")
    add_upstream(parser, "teacher")
    parser.add("task", TASK, "its prompt, labels and how an answer is read")
    parser.add("teacher_timeout", 120.0, "seconds, of all attempts together", at_least=0.001)
    parser.add("reasoning_parser", REASONING_PARSER, "as in step 1; none: it does not think")
    parser.add("teacher_temperature", TEMPERATURE, "of the first attempt", at_least=0)
    parser.add("max_tokens", MAX_TOKENS, "of its thinking and answer together", at_least=2)
    parser.add("max_retries", MAX_RETRIES, "further attempts without a valid answer", at_least=0)
    parser.add("structured_outputs", "retry", "which attempts are guarded", choices=GUARDS)
    parser.add("wait_for_servers", 0.0, "seconds until both must be there", at_least=0)
    parser.group("when the teacher is asked")
    parser.add("adapter", ADAPTER, "the student's, whose calibration.json says when")
    parser.add("temperature", None, "of the confidence, instead of that", 1e-6, kind=float)
    parser.add("threshold", None, "confidence below which it is", 0, 1, kind=float)
    meaning = "share of the last 1,000 requests; others get the student's answer"
    parser.add("max_handed_over", 1.0, meaning, at_least=0, at_most=1)
    meaning = "what an unsure request gets then: the student's answer, or an error"
    parser.add("when_teacher_fails", GIVE_STUDENTS, meaning, choices=WHEN_TEACHER_FAILS)
    parser.add("handed_over_file", "", "chat JSONL of it with the teacher's answers (users' texts)")
    parser.group("the URL")
    parser.add("host", "127.0.0.1", "the address it is bound to")
    parser.add("port", 8000, "0: any that is free", at_least=0, at_most=65535)
    parser.add("allowed_hosts", "", "further names in clients' URLs, separated by commas")
    parser.add("api_key_env", "", "the environment variable with the key that clients need")
    parser.add("served_name", "cascade", "of the model that clients ask for")
    parser.add("concurrency", 256, "requests at once; further ones get a 429", at_least=1)
    parser.add("max_body_bytes", 262144, "of a request", at_least=1)
    parser.add("max_messages", 64, "of a request", at_least=1)
    parser.add("max_input_tokens", 0, "with --student_tokenizer (0: its context)", at_least=0)
    parser.switch("allow_system", "the training rows had system messages; so may requests")
    args = parser.parse_args(argv)
    try:
        return choices_of(args)
    except ValueError as error:
        parser.error(str(error))


def add_upstream(parser: Parser, who: str) -> None:
    """The flags of one of the two servers."""
    parser.add(f"{who}_url", None, "its server, such as http://host:8001/v1", required=True)
    parser.add(f"{who}_name", None, "as its server calls it", required=True)
    parser.add(f"{who}_tokenizer", None, "keeps special tokens in inputs text (vLLM's server)")
    parser.add(f"{who}_key_env", "", "the environment variable with its key; empty: no key")
    parser.add(f"{who}_server", "auto", "what it is; auto asks it", choices=KINDS)
    meaning = "inputs that spell one, without tokenizer"
    parser.add(f"{who}_special_tokens", REJECT, meaning, choices=SPECIAL_TOKENS)


def server_named(args: Namespace, who: str, timeout: float) -> Server:
    """One of the two servers. Raises ValueError."""
    flags = FlagNames(
        url=f"--{who}_url",
        model=f"--{who}_name",
        api_key_env=f"--{who}_key_env",
        tokenizer=f"--{who}_tokenizer",
        script="serve.py",
    )
    url = getattr(args, f"{who}_url")
    key = getattr(args, f"{who}_key_env")
    check_url(url, flags)
    check_key(key, flags.api_key_env)
    return Server(
        url=url,
        model=getattr(args, f"{who}_name"),
        api_key_env=key,
        kind=getattr(args, f"{who}_server"),
        tokenizer=getattr(args, f"{who}_tokenizer"),
        special_tokens=getattr(args, f"{who}_special_tokens"),
        concurrency=args.concurrency,
        request_timeout=timeout,
        flags=flags,
    )


def choices_of(args: Namespace) -> Choices:
    """The flags, checked as far as they say something alone. Raises ValueError."""
    check_key(args.api_key_env)
    settings = from_flags(
        AttemptSettings,
        args,
        temperature=args.teacher_temperature,
        max_repeats=MAX_REPEATS,
        thinking_token_budget=default_thinking_budget(args.max_tokens),
    )
    return from_flags(
        Choices,
        args,
        student=server_named(args, "student", args.student_timeout),
        teacher=server_named(args, "teacher", args.teacher_timeout),
        settings=settings,
        task_file=args.task,
        allowed_hosts=[host.strip() for host in args.allowed_hosts.split(",") if host.strip()],
        limits=from_flags(Limits, args),
    )


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    UnwindAtSignals("serve.py: stopped").listen()
    choices = parse_args()
    metrics = Metrics()
    try:
        task, threshold = check_choices(choices)
        run_to_the_end(serve(choices, task, threshold, metrics))
    except (ValueError, OSError) as error:
        print(f"serve.py: {one_line(error)}", file=sys.stderr)
        return 2
    except SystemExit:  # at a signal, which is how a server ends
        print(json.dumps(metrics.totals), flush=True)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
