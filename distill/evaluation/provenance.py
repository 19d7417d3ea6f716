"""What step 3 says beside its scores.

Where they come from, how the student was served, each row, and the last line.
"""

from datetime import UTC, datetime
from pathlib import Path

from distill.evaluation.choices import Choices
from distill.evaluation.models import Revisions
from distill.evaluation.systems import labels_from_elsewhere
from distill.system import commit, cpu_name, versions
from distill.task import Task
from distill.tokens import THINK_END


def origin(choices: Choices, revisions: Revisions, task: Task, results: dict[str, dict]) -> dict:
    """Where and with what the figures were measured."""
    machines = [result["machine"] for result in results.values() if "machine" in result]
    teacher = results.get("teacher", {})  # answers from a file know whose they are
    servers = choices.servers
    served = "student" in servers
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        # the last one is the least likely to be taken over
        "machine": machines[-1] if machines else cpu_name(),
        "versions": versions(),
        "task_hash": task.hash,
        "task_file": str(Path(choices.task_file).absolute()),
        "teacher_model": teacher.get("model", choices.teacher_model),
        "teacher_revision": teacher.get("revision", revisions.teacher),
        "teacher_server": servers["teacher"].host if "teacher" in servers else None,
        "teacher_answers": choices.teacher_answers or None,
        "labels_from_elsewhere": teacher.get("from_elsewhere", False),
        "student_model": None if served and not choices.asks_student else choices.student_model,
        "student_revision": revisions.student,
        "student_server": servers["student"].host if served else None,
        "student_name": servers["student"].model if served else None,
        "adapter": None if served else choices.adapter,  # nobody knows which one a server has
        "test_file": choices.test_file,
        "temperature": choices.temperature,
        "max_tokens": choices.max_tokens,
    }


def how_measured(results: dict[str, dict], check: dict | None, taken_over: dict[str, dict]) -> dict:
    """How the student was served for its figures, and instead of what.

    With the figures that an earlier run has measured.
    """
    student = results.get("student", {})
    earlier = {}
    for name, result in taken_over.items():
        if results[name] is result:  # a student that was taken over may have been served again
            earlier[name] = {key: result[key] for key in ("machine", "date", "commit")}
    return {
        "served_as": student.get("served_as"),
        "instead_of": student.get("instead_of") or None,
        "check": check,
        "ties": student.get("ties"),
        "server_settings": student.get("server_settings"),
        "taken_over": earlier,
    }


def thinking(teacher: dict, thinks: bool, from_file: bool, rows: int) -> dict:
    """Whether the teacher thinks, and how many thoughts on the gold rows have no end.

    `thinks` says what the flags say, which answers from a file may know better.
    """
    thinks = teacher.get("thinks", thinks)
    unfinished = None
    if thinks and not from_file:  # the responses of a file may be answers alone
        unfinished = sum(THINK_END not in response for response in teacher["responses"][:rows])
    return {"teacher_thinks": thinks, "unfinished_thinking": unfinished}


def predictions(
    chats: list[list[dict]],
    gold: list[str],
    results: dict[str, dict],
    ids: list[str | None] | None = None,
) -> list[dict]:
    """The lines of predictions.jsonl; inputs without gold come last.

    `ids` are those of all rows, None where a row has none.
    """
    rows = []
    tied = {name: set(result.get("ties", {}).get("rows", [])) for name, result in results.items()}
    for i, chat in enumerate(chats):
        row = {"messages": chat, "gold": gold[i] if i < len(gold) else None}
        if ids and ids[i] is not None:
            row = {"id": ids[i], **row}
        for name, result in results.items():
            row[name] = {"answer": result["answers"][i], "response": result["responses"][i]}
            if i in tied[name]:
                row[name]["tie"] = True  # see ties.py
            if "confidence" in result:
                row[name]["confidence"] = result["confidence"][i]
            if "handed_over" in result:
                row[name]["answered_by"] = "teacher" if result["handed_over"][i] else "student"
        rows.append(row)
    return rows


def shown_summary(metrics: dict, seconds: float) -> dict:
    """The last line of stdout; null is what is not known of labels from elsewhere."""
    systems = metrics["systems"]
    summary = {}
    for name, measured in systems.items():
        summary[f"{name}_accuracy"] = round(measured["accuracy"], 4)
    if labels_from_elsewhere(metrics):
        for key in ("latency_s", "tokens", "cost_per_million"):
            summary[f"teacher_{key}"] = None
    for name in ("teacher", "student"):
        for key, digits in (("latency_s", 4), ("tokens", 1)):
            value = systems.get(name, {}).get(key)
            if value is not None:
                summary[f"{name}_{key}"] = round(value, digits)
        money = systems.get(name, {}).get("cost_per_million")
        if money:  # without prices it is 0
            summary[f"{name}_cost_per_million"] = round(money, 4)
    speedup = systems.get("student", {}).get("speedup")
    if speedup:
        summary["speedup"] = round(speedup, 1)
    summary["rows"] = metrics["rows"]
    summary["seconds"] = round(seconds, 1)
    return summary
