"""Step 3: is the student as good as the teacher, and what did it save? Scores four systems on held-out gold rows.

    python evaluate.py --test_file example-data/heldout.jsonl --adapter models/prompt_distillation_trl

The systems are the teacher with its prompt and its thinking, the base student with and without the prompt, and the
distilled student without prompt. Every flag of vLLM's engine is accepted too. Writes report/ beside the adapter:
report.md and report.html, metrics.json, predictions.jsonl (every row, every system) and plots.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from create_data import ROOT, Parser, versions
from engine import EngineFailed, Stream, begin_child, engine_arguments, one_line, start_engine, stop_engine
from journal import check_writable, input_hash, read_answers, read_finished, read_inputs
from report import TITLES, markdown, sentences, tables, write_report
from scores import measure, quality
from task import NoAnswer, Task, check_model, load_task, prompt_ids, read_chat, read_lines

log = logging.getLogger("evaluate")
WARM_UP = 3  # requests before the clock starts; the first ones pay for the prefix cache and lazy set-up
# How far below PEFT's best token a served token may be, in nats: two ways of adding up differ by so much in a tie.
TIE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    # what is asked
    parser.add("test_file", default="./example-data/heldout.jsonl", help="chat JSONL; the answers are gold")
    parser.add("inputs_without_gold", default="", help="further inputs, as in create_data.py, for agreement only")
    parser.add("task", default=str(ROOT / "example-data/language_classification.yaml"), help="as in create_data.py")
    parser.add("limit", type=int, default=0, help="only the first N rows of each file (0: all)")
    # who is asked
    parser.add("systems", default=",".join(TITLES), help="which of them, with commas")
    parser.add("teacher_model", default="Qwen/Qwen3-30B-A3B-Thinking-2507", help="the teacher")
    parser.add("teacher_answers", default="", help="instead of asking it: what create_data.py wrote for these rows")
    parser.add("reasoning_parser", default="qwen3", help="none: the teacher does not think")
    parser.add("student_model", default="Qwen/Qwen3-30B-A3B-Instruct-2507", help="the student's base")
    parser.add("adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add("serve_adapter", default="auto", choices=["auto", "lora", "merged"], help="by vLLM, or a merged copy")
    # how it is asked
    parser.add("temperature", type=float, default=0.15, help="of the teacher; students answer greedily")
    parser.add("max_tokens", type=int, default=4096, help="under the prompt, thinking included")
    parser.add("student_max_tokens", type=int, default=64, help="of the students without prompt")
    parser.add("latency_rows", type=int, default=50, help="rows asked one at a time for the latency")
    parser.add("check_rows", type=int, default=8, help="rows whose served tokens must be PEFT's (0: no check)")
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs a model is split over")
    # prices for the cost of a million requests
    parser.add("price_input", type=float, default=0.0, help="of a million input tokens that are not cached")
    parser.add("price_cached", type=float, default=0.0, help="of a million cached input tokens")
    parser.add("price_output", type=float, default=0.0, help="of a million output tokens")
    parser.add("report_dir", default="", help="where the report goes (report/ in the adapter)")
    # instead: the labels of step 1 against gold, without any model
    parser.add("labels", default="", help="what create_data.py wrote")
    parser.add("gold", default="", help="the right answers for the same inputs, chat JSONL")
    args, engine_flags = parser.parse_known_args(argv)
    for name, least in {
        "latency_rows": 1,
        "limit": 0,
        "check_rows": 0,
        "max_tokens": 1,
        "student_max_tokens": 1,
    }.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    wanted = args.systems.split(",")
    if unknown := [name for name in wanted if name not in TITLES]:
        parser.error(f"--systems {args.systems}: {unknown[0]!r} is none of {','.join(TITLES)}")
    args.systems = [name for name in TITLES if name in wanted]  # in our order
    if args.teacher_answers and "teacher" not in args.systems:
        parser.error("--teacher_answers: --systems leaves the teacher out")
    if bool(args.labels) != bool(args.gold):
        parser.error("--labels and --gold go together")
    args.report_dir = Path(args.report_dir or Path(args.adapter) / "report")
    return args, engine_flags


def read_rows(args, task: Task) -> tuple[list[list[dict]], list[str], list[str | None]]:
    """All chats without their answers, those without gold last; the gold answers; and each gold row's `kind`, if any.

    Raises ValueError that names file and line.
    """
    chats, gold, kinds = [], [], []
    lines = read_lines(args.test_file)
    for number, messages in read_chat(args.test_file, last_role="assistant"):
        *chat, answer = messages
        if not chat:
            raise ValueError(f"{args.test_file}:{number}: an answer without a question")
        if task.labels and answer["content"] not in task.labels:
            raise ValueError(
                f"{args.test_file}:{number}: gold answer {answer['content']!r} is none of the task's labels"
            )
        chats.append(chat)
        gold.append(answer["content"])
        kinds.append(json.loads(next(lines)[1]).get("kind"))
        if not isinstance(kinds[-1], str | None):
            raise ValueError(f"{args.test_file}:{number}: 'kind' must be a text such as \"edge\"")
        if len(chats) == args.limit:
            break
    if not chats:
        raise ValueError(f"{args.test_file}: no rows")
    if args.inputs_without_gold:
        further = [messages for _, messages in read_inputs(args.inputs_without_gold)]
        if not further:
            raise ValueError(f"{args.inputs_without_gold}: no inputs")
        chats += further[: args.limit or None]
    return chats, gold, kinds


def read_teacher(path: Path, chats: list[list[dict]], task: Task) -> dict:
    """The teacher's results from what create_data.py wrote; tokens and responses if its journal lies beside it.

    Tokens are those of all attempts at a row. Raises ValueError if it was made under another task or lacks a row.
    """
    answers, attempts, manifest = read_finished(path)
    if manifest.get("task", task.hash) != task.hash:
        raise ValueError(f"{path}: made under another task ({manifest.get('task_file')}); pass that one with --task")
    hashes = [input_hash(chat) for chat in chats]
    for chat, key in zip(chats, hashes, strict=True):
        if key not in answers:
            text = chat[-1]["content"][:60]
            raise ValueError(f"{path}: has no answer for {text!r}; label these rows with create_data.py first")
    results = {"answers": [answers[key] for key in hashes], "responses": [answers[key] or "" for key in hashes]}
    if all(attempts.get(key) for key in hashes):
        results["responses"] = [attempts[key][-1]["response"] for key in hashes]
        for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
            results[name] = [sum(attempt[name] for attempt in attempts[key]) for key in hashes]
        results["rows_per_second"] = manifest.get("rows_per_second")
    return results


def adapter_settings(args) -> dict:
    """vLLM's settings for the adapter; empty if it needs a merged copy: on a CPU, vLLM has no LoRA for experts."""
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    config = json.loads((Path(args.adapter) / "adapter_config.json").read_text())
    base = AutoConfig.from_pretrained(args.student_model).get_text_config()
    experts_on_cpu = current_platform.is_cpu() and getattr(base, "num_experts_per_tok", None)
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    allowed = next((n for n in (8, 16, 32, 64, 128, 256, 320, 512) if n >= rank), None)  # vLLM takes only these
    if args.serve_adapter == "merged" or args.serve_adapter == "auto" and (experts_on_cpu or not allowed):
        return {}
    is_moe = bool(config.get("target_parameters"))
    return {"enable_lora": True, "max_lora_rank": allowed, "enable_mixed_moe_lora_format": is_moe}


def run_model(names: list[str], args, engine_flags: list[str], task: Task, chats: list[list[dict]]) -> dict[str, dict]:
    """Ask the systems that run on one model, one after the other; returns what ask_system() does for each, by name."""
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    model, lora, served_as = args.teacher_model if names == ["teacher"] else args.student_model, None, None
    settings = {"tensor_parallel_size": args.tensor_parallel_size}
    with tempfile.TemporaryDirectory() as merged:
        if names == ["student"] and (adapter := adapter_settings(args)):
            settings |= adapter
            is_3d = adapter["enable_mixed_moe_lora_format"]
            lora, served_as = LoRARequest("student", 1, args.adapter, is_3d_lora_weight=is_3d), "LoRA in vLLM"
        elif names == ["student"]:
            from merge_adapter import merge

            served_in = engine_arguments(model, engine_flags, **settings).dtype
            merge(args.adapter, merged, "float32" if served_in == "float32" else "bfloat16", args.student_model)
            model, served_as = merged, "a merged copy"
        engine = start_engine(engine_arguments(model, engine_flags, **settings))
    try:
        device = None if current_platform.is_cpu() else current_platform.get_device_name()
        of_model = {"served_as": served_as, "dtype": str(engine.model_config.dtype).split(".")[-1], "device": device}
        return {name: ask_system(name, args, engine, lora, task, chats) | of_model for name in names}
    finally:
        stop_engine(engine)


def ask_system(name: str, args, engine, lora, task: Task, chats: list[list[dict]]) -> dict:
    """Ask one system for some chats one at a time, then for all of them in a batch.

    Returns answers (None: unreadable), responses, tokens per request, rows/s in a batch and seconds per request.
    """
    tokenizer, longest = engine.get_tokenizer(), engine.model_config.max_model_len
    thinks = name == "teacher" and args.reasoning_parser != "none"
    prompted = name in ("teacher", "base_prompt")  # who may think aloud under the prompt gets room for it
    limit = args.max_tokens if prompted else args.student_max_tokens
    temperature = args.temperature if name == "teacher" else 0.0
    prompts = [prompt_ids(tokenizer, task.messages(chat) if prompted else chat) for chat in chats]
    rows = [i for i, ids in enumerate(prompts) if len(ids) < longest]  # a longer one is unreadable to this system
    if not rows:
        raise ValueError(f"every row is longer than the model's context of {longest} tokens")
    stream = Stream(engine)

    def request(i):
        sampling = {"temperature": temperature, "max_tokens": min(limit, longest - len(prompts[i]))}
        return i, prompts[i], sampling, lora

    def ask_alone(i):
        start = time.perf_counter()
        list(stream.run([request(i)]))
        return time.perf_counter() - start

    for i in rows[-WARM_UP:]:
        ask_alone(i)
    latencies = [ask_alone(i) for i in rows[: args.latency_rows]]
    engine.reset_prefix_cache()  # otherwise the batch would find these rows cached
    ask_alone(rows[-1])
    start = time.perf_counter()
    outputs = dict(stream.run(map(request, rows)))
    seconds = time.perf_counter() - start

    none = [0] * len(prompts)
    results = {"answers": [None] * len(prompts), "responses": [""] * len(prompts), "output_tokens": none}
    results |= {"cached_tokens": none.copy(), "prompt_tokens": [len(ids) for ids in prompts]}
    reader = task if prompted else replace(task, answer="")  # without the prompt, the answer and nothing else counts
    for i in rows:
        completion = outputs[i].outputs[0]
        with contextlib.suppress(NoAnswer):
            results["answers"][i] = reader.read_answer(completion.text, completion.finish_reason, thinks)
        results["responses"][i] = completion.text
        results["output_tokens"][i] = len(completion.token_ids)
        results["cached_tokens"][i] = outputs[i].num_cached_tokens or 0
    checked = [rows[len(rows) * k // args.check_rows] for k in range(args.check_rows)]  # from the whole file
    results["tokens"] = [(prompts[i], list(outputs[i].outputs[0].token_ids)) for i in checked]
    return {**results, "rows_per_second": len(rows) / seconds, "latencies": latencies}


def compare_with_peft(args, rows: list[tuple[list[int], list[int]]], dtype: str) -> dict:
    """How far the served tokens of (prompt, tokens) rows are from PEFT's greedy ones, in log-probability (nats).

    Each token is judged by PEFT's own distribution after the tokens before it: 0 where it is PEFT's choice.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    place = {"device_map": "auto"} if torch.cuda.is_available() else {}
    base = AutoModelForCausalLM.from_pretrained(args.student_model, dtype=getattr(torch, dtype), **place)
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    gaps = []
    with torch.inference_mode():
        for prompt, served in rows:
            logits = model(torch.tensor([prompt + served], device=model.device)).logits[0, len(prompt) - 1 : -1]
            found = logits.float().log_softmax(-1)
            chosen = found.gather(-1, torch.tensor(served, device=found.device)[:, None])[:, 0]
            gaps.append(float((found.max(-1).values - chosen).max()))
    differ = sum(gap > TIE[dtype] for gap in gaps)
    tokens = sum(len(served) for _, served in rows)
    return {"rows": len(rows), "tokens": tokens, "dtype": dtype, "largest_gap": max(gaps), "differ": differ}


def apart(function, *arguments):
    """Run a function in a process of its own, so that it gives all its memory back.

    Raises EngineFailed if an engine in it cannot start, and RuntimeError if it fails otherwise.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(in_child, function, *arguments).result()


def in_child(function, *arguments):
    try:
        return function(*arguments)
    except EngineFailed:
        raise
    except Exception as error:  # some of vLLM's cannot be sent to the parent
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {one_line(error)}") from None


def label_quality(labels_file: str, gold_file: str, limit: int) -> dict:
    """The teacher's training labels against gold, matched by input; an input without a label counts as wrong."""
    labels, gold = read_answers(labels_file), read_answers(gold_file)
    gold = dict(list(gold.items())[: limit or None])
    if not labels.keys() & gold.keys():
        raise ValueError(f"{labels_file}: has no input of {gold_file}; pass the gold answers of the same inputs")
    return quality([labels.get(key) for key in gold], list(gold.values()))


def check_models(args, engine_flags: list[str]) -> None:
    """Refuse models, an adapter or flags that cannot work, before anything is loaded."""
    if "teacher" in args.systems and not args.teacher_answers:
        check_model(args.teacher_model)
    if args.systems != ["teacher"]:
        check_model(args.student_model)
    if "student" in args.systems:
        config_path = Path(args.adapter) / "adapter_config.json"
        if not config_path.is_file():
            raise ValueError(f"{args.adapter}: no adapter here (adapter_config.json is missing); train one first")
        base = json.loads(config_path.read_text())["base_model_name_or_path"]
        if Path(base).name != Path(args.student_model).name:
            raise ValueError(f"{args.adapter}: adapter of {base}, not of --student_model {args.student_model}")
    check_writable(args.report_dir / "report.md")
    if engine_flags:
        engine_arguments(args.student_model, engine_flags)  # refuses a bad flag now, not in a child process


def origin(args, task: Task, results: dict) -> dict:
    """Where and with what the figures were measured."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    devices = [result["device"] for result in results.values() if result.get("device")]
    machine = f"{args.tensor_parallel_size} x {devices[0]}" if devices else cpu_name()
    names = ("teacher_model", "student_model", "adapter", "test_file", "temperature", "max_tokens")
    found = {"date": datetime.now(UTC).date().isoformat(), "commit": commit, "machine": machine, "versions": versions()}
    return {**found, "task_hash": task.hash, **{name: getattr(args, name) for name in names}}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in info if line.startswith("model name")), "CPU")
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def main() -> int:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    args, engine_flags = parse_args()
    start, results = time.perf_counter(), {}
    try:
        if args.labels:
            print(json.dumps(label_quality(args.labels, args.gold, args.limit), ensure_ascii=False))
            return 0
        task = load_task(args.task)
        chats, gold, kinds = read_rows(args, task)
        if args.teacher_answers:
            results["teacher"] = read_teacher(Path(args.teacher_answers), chats, task)
        check_models(args, engine_flags)
    except (ValueError, KeyError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2

    args.check_rows = min(args.check_rows, len(chats))
    check = None
    try:
        for model in (["teacher"], ["base_prompt", "base"], ["student"]):
            names = [name for name in model if name in args.systems and name not in results]
            if names:
                log.info("evaluating: %s", "; ".join(TITLES[name] for name in names))
                results |= apart(run_model, names, args, engine_flags, task, chats)
        if "student" in names and args.check_rows:
            log.info("comparing %d rows with PEFT", args.check_rows)
            check = apart(compare_with_peft, args, results["student"]["tokens"], results["student"]["dtype"])
    except BrokenProcessPool:
        log.error("evaluate.py: the process of %s was killed, most likely for memory; see --max_model_len", names)
        return 1
    except EngineFailed as error:
        log.error("evaluate.py: %s: %s", ", ".join(names), error)
        return 2
    except RuntimeError as error:
        log.error("evaluate.py: %s failed with %s", names, error)
        return 1
    if check and check["differ"]:
        where = f"{check['differ']} of {check['rows']} rows ({check['dtype']}, up to {check['largest_gap']:.2f} nats)"
        served = results["student"]["served_as"]
        log.error("evaluate.py: %s, the adapter served as %s gives other tokens than PEFT; no report", where, served)
        log.error("--serve_adapter merged serves a merged copy; --check_rows 0 leaves the check out")
        return 1

    metrics = measure(results, gold, kinds, bool(task.labels), args) | origin(args, task, results)
    metrics |= {"served_as": results.get("student", {}).get("served_as"), "check": check}
    gold += [None] * (len(chats) - len(gold))
    predictions = [{"messages": chat, "gold": answer} for chat, answer in zip(chats, gold, strict=True)]
    for name, result in results.items():
        for i, row in enumerate(predictions):
            row[name] = {"answer": result["answers"][i], "response": result["responses"][i]}
    write_report(args.report_dir, metrics, predictions)

    _, header, rows = tables(metrics)[0]
    print(markdown(header, rows), *sentences(metrics), f"Report: {args.report_dir / 'report.html'}", sep="\n")
    summary = {f"{name}_accuracy": round(m["accuracy"], 4) for name, m in metrics["systems"].items()}
    for name in ("teacher", "student"):
        for key, digits in (("latency_s", 4), ("tokens", 1)):
            if (value := metrics["systems"].get(name, {}).get(key)) is not None:
                summary[f"{name}_{key}"] = round(value, digits)
    if speedup := metrics["systems"].get("student", {}).get("speedup"):
        summary["speedup"] = round(speedup, 1)
    print(json.dumps({**summary, "rows": metrics["rows"], "seconds": round(time.perf_counter() - start, 1)}))
    return 0


if __name__ == "__mp_main__":  # one system's process, or its engine's
    begin_child()
if __name__ == "__main__":
    sys.exit(main())
