"""How step 3 asks its systems, and what follows if one fails.

Each model has an engine, in a process of its own. Each row is asked alone for the latency, and then
all of them in a batch.
"""

import logging
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from distill.adapter import (
    LORA,
    MERGED,
    Serving,
    check_room,
    compare_with_peft,
    disagreement,
)
from distill.adapter_files import adapter_identity
from distill.confidence import log_confidence
from distill.evaluation.apart import Apart
from distill.evaluation.further import Further, answer_of, ask_further, prompts_of, request_of
from distill.evaluation.scored import Scored
from distill.evaluation.served import BehindURL, measured_at
from distill.evaluation.systems import BASE_SYSTEMS, System, title_of
from distill.evaluation.ties import ROUNDINGS, find_ties
from distill.outputs import TOKEN_COUNTS
from distill.progress import bar
from distill.revisions import resolve
from distill.server_settings import applied_by_server
from distill.serving import start_student
from distill.system import commit, cpu_name
from distill.task import Task
from distill.teacher.base import Completion, Request, Teacher, TeacherEnded
from distill.teacher.engine import EngineFailed, stop_engine
from distill.teacher.engine_flags import further_gpus
from distill.teacher.http import ServerEnded
from distill.teacher.vllm_engine import LOGPROBS, VLLMTeacher

log = logging.getLogger("evaluate")
# requests before the clock starts; the first ones pay for the prefix cache and lazy set-up
WARM_UP = 3


@dataclass(frozen=True)
class Asking:
    """What all systems share while they are asked."""

    task: Task
    chats: list[list[dict]]
    engine_flags: list[str]
    tensor_parallel_size: int
    adapter: str
    merged: str  # where a merged copy goes
    scored: Scored | None  # where results are kept
    behind_url: dict[str, BehindURL] = field(default_factory=dict)  # systems that a server has
    further: Further = Further()  # what is asked for the calibration


class SystemFailed(Exception):
    """A system could not be scored: `who`, the `reason` in a few words, and what helps.

    The message is one line. `exit_code` is the script's: 2 where an engine could not start, which
    flags or the machine decide, and else 1.
    """

    def __init__(self, who: str, reason: str, remedy: str = "", exit_code: int = 1):
        super().__init__(f"{who} {reason}{remedy}")
        self.reason = reason
        self.exit_code = exit_code


class AdapterFailed(SystemFailed):
    """The adapter could not be served in the way that was tried.

    Or vLLM's tokens are not PEFT's.
    """


def run_apart(process: Apart, who: str, function, *arguments):
    """Call a function in a process of its own, which ends with it; raises SystemFailed."""
    try:
        return process.run(function, *arguments)
    except BrokenProcessPool:
        raise SystemFailed(who, "was killed, most likely for memory; see --max_model_len") from None
    except EngineFailed as error:
        raise SystemFailed(who, f"failed: {error}", exit_code=2) from None
    except ServerEnded as error:
        raise SystemFailed(who, f"failed: {error}", exit_code=error.exit_code) from None
    except RuntimeError as error:
        raise SystemFailed(who, f"failed with {error}") from None
    finally:
        process.end()


def score_systems(
    process: Apart,
    systems: list[System],
    ways: list[Serving],
    asking: Asking,
    taken_over: dict[str, dict],
) -> tuple[dict[str, dict], dict | None]:
    """Each system's result, asked for or taken over, and the student's comparison with PEFT.

    It is None where there is none. Raises SystemFailed.
    """
    results = dict(taken_over)
    check = None
    student = systems[-1] if systems else None
    if student and (student.name != "student" or student.server):  # it is always the last one
        student = None  # none that is served here
    for group in (["teacher"], BASE_SYSTEMS, ["student"]):  # systems on one model share an engine
        missing = [
            system
            for system in systems
            if system.name in group and system.name not in results and system != student
        ]
        if missing:
            announce(missing)
            names = [system.name for system in missing]
            if missing[0].server:
                run = (run_server, missing[0], asking)
            else:
                run = (run_model, missing, None, asking)
            results.update(run_apart(process, ", ".join(names), *run))
    if student:
        known = taken_over.get("student")
        if known is None:
            announce([student])
        results["student"], check = score_student(process, student, ways, asking, known)
    return {system.name: results[system.name] for system in systems}, check


def announce(systems: list[System]) -> None:
    log.info(
        "evaluating: %s", "; ".join(title_of(system.name, system.thinks) for system in systems)
    )


def score_student(
    process: Apart, student: System, ways: list[Serving], asking: Asking, result: dict | None
) -> tuple[dict, dict | None]:
    """The student's result, which may be known, and its comparison with PEFT.

    Without check rows it is None. Where one way to serve the adapter fails or gives other
    tokens than PEFT, the next one follows. Raises SystemFailed.
    """
    if result and result["served_as"] == MERGED:
        ways = ways[-1:]
    instead_of = ""
    for way in ways:
        try:
            if result is None:
                result = serve_student(
                    process, student, replace(way, instead_of=instead_of), asking
                )
            check = check_student(process, student, asking, result)
            refuse_changed_adapter(asking)
            return result, check
        except AdapterFailed as error:
            refuse_changed_adapter(asking)
            asking.scored.drop("student")
            if way == ways[-1]:
                raise
            instead_of = f"{way.served_as} {error.reason.rstrip('.')}"
            log.warning("evaluate.py: %s; going on with %s", instead_of, MERGED)
            result = None


def refuse_changed_adapter(asking: Asking) -> None:
    """Raise SystemFailed if step 2 has written another adapter in its place meanwhile.

    The answers may then be one's and the comparison with PEFT the other's, so they are forgotten.
    """
    if adapter_identity(asking.adapter) == asking.scored.keys["student"]["adapter"]:
        return
    asking.scored.drop("student")
    raise SystemFailed(
        asking.adapter,
        "has changed since this run began",
        "; the same command evaluates what is there",
    )


def serve_student(process: Apart, student: System, serving: Serving, asking: Asking) -> dict:
    """The student's result under one way to serve its adapter; raises AdapterFailed."""
    try:
        if serving.served_as == MERGED:
            # hours may have passed since the start
            check_room(Path(asking.merged).parent, serving.copy_bytes)
        return run_apart(process, student.name, run_model, [student], serving, asking)["student"]
    except SystemFailed as error:
        raise AdapterFailed(student.name, error.reason, exit_code=error.exit_code) from None
    except ValueError as no_room:
        raise AdapterFailed(student.name, f"failed: {no_room}") from None


def check_student(process: Apart, student: System, asking: Asking, result: dict) -> dict | None:
    """What comparing the student's tokens with PEFT's found; None without check rows.

    Raises AdapterFailed if they differ, and SystemFailed if PEFT fails, which is not the served
    adapter's fault.
    """
    if not student.check_rows:
        return None
    log.info("comparing %d rows with PEFT", student.check_rows)
    compared = (student.model, asking.adapter, result["tokens"], result["dtype"], student.revision)
    check = run_apart(process, "the comparison with PEFT", compare_with_peft, *compared)
    problem = disagreement(check)
    if problem:
        remedy = "; no report. "
        if result["served_as"] == LORA:
            remedy += "--serve_adapter merged serves a merged copy; "
        remedy += "--check_rows 0 leaves the check out"
        raise AdapterFailed(f"the adapter served as {result['served_as']}", problem, remedy)
    return check


def run_model(systems: list[System], serving: Serving | None, asking: Asking) -> dict[str, dict]:
    """Ask the systems that run on one model, one after the other.

    Returns what ask_system() does for each, by name. `serving` is the student's. Each result also
    says how and on what it was measured, and is kept at once.
    """
    from vllm.platforms import current_platform

    model = systems[0].model
    of_base = resolve(model, systems[0].revision)  # its commit, if it is on the hub
    settings = {"tensor_parallel_size": asking.tensor_parallel_size}
    if serving:
        settings.update(LOGPROBS)
    engine, lora = start_student(
        model, of_base, asking.adapter, serving, asking.merged, asking.engine_flags, **settings
    )
    try:
        device = None if current_platform.is_cpu() else current_platform.get_device_name()
        gpus = asking.tensor_parallel_size * further_gpus(asking.engine_flags)
        measured = {
            "served_as": serving.served_as if serving else None,
            "instead_of": serving.instead_of if serving else "",
            "dtype": dtype_of(engine),
            # a merged copy has settings under which servers answer as it does here
            "server_settings": applied_by_server(engine.model_config) if lora else {},
            "machine": f"{gpus} x {device}" if device else cpu_name(),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
        }
        results = {}
        for system in systems:
            teacher = VLLMTeacher(engine, lora_request=lora)
            found = ask_system(system, teacher, asking.task, asking.chats, measured["dtype"])
            further = ask_further(system, teacher, asking.task, asking.further)
            results[system.name] = {**found, **further, **measured}
            if asking.scored:
                asking.scored.write(system.name, results[system.name])
        return results
    except TeacherEnded as error:
        raise RuntimeError(str(error)) from None
    finally:
        stop_engine(engine)


def run_server(system: System, asking: Asking) -> dict[str, dict]:
    """Ask a system behind a URL; its result by its name, as of run_model()."""
    behind_url = asking.behind_url[system.name]
    teacher = behind_url.open(system)
    try:
        found = ask_system(system, teacher, asking.task, asking.chats, dtype="")
        found.update(ask_further(system, teacher, asking.task, asking.further))
    finally:
        teacher.close()
    result = {**found, **measured_at(behind_url.server, teacher.served_by)}
    if asking.scored:
        asking.scored.write(system.name, result)
    return {system.name: result}


def ask_system(
    system: System, teacher: Teacher, task: Task, chats: list[list[dict]], dtype: str
) -> dict:
    """Ask one system for some chats one at a time, then for all of them in a batch.

    `dtype` is that of its weights. Returns answers (None: unreadable), responses, tokens per
    request, rows/s in a batch and seconds per request.
    """
    prompts = prompts_of(system, teacher, task, chats)
    # what the template refuses, or is longer than the context, is unreadable to this system
    rows = [i for i, prompt in enumerate(prompts) if not prompt.problem]
    if not rows:
        context = prompts[0].tokens + (prompts[0].room or 0)
        raise ValueError(
            f"every row is longer than the model's context of {context} tokens, "
            "or not for its template"
        )
    requests = {i: request_of(system, i, prompts[i]) for i in rows}
    latencies = measure_alone(system, teacher, [requests[i] for i in rows])
    start = time.perf_counter()
    asking = bar(
        teacher.ask(requests.values()),
        total=len(requests),
        desc=title_of(system.name, system.thinks),
        unit="row",
    )
    completions = dict(asking)
    seconds = time.perf_counter() - start

    results = {
        "answers": [None] * len(chats),
        "responses": [""] * len(chats),
        "output_tokens": [0] * len(chats),
        "cached_tokens": [0] * len(chats),
        "prompt_tokens": [prompt.tokens for prompt in prompts],
        "log_confidence": [None] * len(chats),
    }
    for i, completion in completions.items():
        if completion.problem:  # a server has refused this row
            continue
        results["answers"][i] = answer_of(system, task, completion)
        results["responses"][i] = completion.text
        if system.logprobs is not None:
            results["log_confidence"][i] = log_confidence(completion)
        results["output_tokens"][i] = completion.output_tokens
        results["cached_tokens"][i] = completion.cached_tokens
        if completion.prompt_tokens is not None:
            results["prompt_tokens"][i] = completion.prompt_tokens
    if system.server and not all(map(is_counted, completions.values())):
        for name in TOKEN_COUNTS:  # not known
            del results[name]
    if system.check_rows:
        tokens = {i: completion.token_ids for i, completion in completions.items()}
        # in a free text nearly every row has a place where two words are about as good
        roundings = ROUNDINGS if task.labels else 0
        with teacher.giving_logits():
            results["ties"] = find_ties(teacher, list(requests.values()), tokens, dtype, roundings)
    # from the whole file
    checked = [rows[len(rows) * k // system.check_rows] for k in range(system.check_rows)]
    results["tokens"] = [[prompts[i].content, completions[i].token_ids] for i in checked]
    results["rows_per_second"] = len(rows) / seconds
    results["latencies"] = latencies
    return results


def is_counted(completion: Completion) -> bool:
    """Whether a server has counted the tokens of an answer; what it has refused has none."""
    return completion.problem is not None or completion.prompt_tokens is not None


def measure_alone(system: System, teacher: Teacher, requests: list[Request]) -> list[float]:
    """Seconds of each of the first requests, asked one at a time.

    Afterwards one prompt's prefix is cached.
    """

    def ask_alone(request: Request) -> float:
        start = time.perf_counter()
        list(teacher.ask([request]))
        return time.perf_counter() - start

    for request in requests[-WARM_UP:]:
        ask_alone(request)
    title = title_of(system.name, system.thinks)
    first = requests[: system.latency_rows]
    alone = bar(first, later=True, desc=f"{title}, one at a time", unit="row")
    latencies = [ask_alone(request) for request in alone]
    teacher.forget()  # otherwise the batch would find these rows cached
    ask_alone(requests[-1])
    return latencies


def dtype_of(engine) -> str:
    """The type of an engine's weights, such as bfloat16."""
    return str(engine.model_config.dtype).split(".")[-1]
