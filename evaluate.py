"""Step 3: is the student as good as the teacher, and what did it save? Scores four systems on held-out gold rows.

    python evaluate.py --test_file example-data/heldout.jsonl --adapter models/prompt_distillation_trl

The systems are the teacher with its prompt and its thinking, the base student with and without the prompt, and the
distilled student without prompt. Every flag of vLLM's engine is accepted too. Writes report/ beside the adapter:
report.md, metrics.json and predictions.jsonl (every row, every system).
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from create_data import ROOT, Parser, Stream, engine_arguments, start_engine
from journal import Replacing, end_with_parent
from task import NoAnswer, Task, check_model, load_task, prompt_ids, read_chat

log = logging.getLogger("evaluate")
WARM_UP = 3  # requests before the clock starts; the first ones pay for the prefix cache and lazy set-up
TITLES = {
    "teacher": "teacher, prompt and thinking",
    "base_prompt": "base student, prompt",
    "base": "base student, no prompt",
    "student": "distilled student",
}


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add("test_file", default="./example-data/heldout.jsonl", help="chat JSONL; the answers are gold")
    parser.add("task", default=str(ROOT / "example-data/language_classification.yaml"), help="as in create_data.py")
    parser.add("teacher_model", default="Qwen/Qwen3-30B-A3B-Thinking-2507", help="the teacher")
    parser.add("student_model", default="Qwen/Qwen3-30B-A3B-Instruct-2507", help="the student's base")
    parser.add("adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add("temperature", type=float, default=0.15, help="of the teacher; students answer greedily")
    parser.add("max_tokens", type=int, default=4096, help="under the prompt, thinking included")
    parser.add("student_max_tokens", type=int, default=64, help="of the students without prompt")
    parser.add("latency_rows", type=int, default=50, help="rows asked one at a time for the latency")
    parser.add("limit", type=int, default=0, help="only the first N rows (0: all)")
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs a model is split over")
    parser.add("systems", default=",".join(TITLES), help="which of them, with commas")
    # instead: the labels of step 1 against gold, without any model
    parser.add("labels", default="", help="what create_data.py wrote")
    parser.add("gold", default="", help="the right answers for the same inputs, chat JSONL")
    # prices for the cost of a million requests
    parser.add("price_input", type=float, default=0.0, help="of a million input tokens that are not cached")
    parser.add("price_cached", type=float, default=0.0, help="of a million cached input tokens")
    parser.add("price_output", type=float, default=0.0, help="of a million output tokens")
    args, engine_flags = parser.parse_known_args(argv)
    if args.latency_rows < 1:
        parser.error(f"--latency_rows {args.latency_rows}: must be at least 1")
    args.systems = [name for name in TITLES if name in args.systems.split(",")]  # in our order
    if not {"teacher", "student"} <= set(args.systems):
        parser.error(f"--systems: must hold teacher and student, of {','.join(TITLES)}")
    return args, engine_flags


def run_system(name: str, args, engine_flags: list[str], task: Task, chats: list[list[dict]]) -> dict:
    """Ask one system for every chat, then some of them one at a time. Runs in a process of its own.

    Returns answers (None: unreadable), responses, tokens per request, rows/s in a batch and seconds per request.
    """
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    model, lora = {"teacher": args.teacher_model}.get(name, args.student_model), None
    settings = {"tensor_parallel_size": args.tensor_parallel_size}
    with tempfile.TemporaryDirectory() as merged:
        if name == "student" and current_platform.is_cpu():
            from merge_adapter import merge

            merge(args.adapter, merged)  # vLLM's kernel for expert LoRA needs a GPU
            model = merged
        elif name == "student":
            config = json.loads((Path(args.adapter) / "adapter_config.json").read_text())
            is_moe = bool(config.get("target_parameters"))
            rank = max([config["r"], *config["rank_pattern"].values()])
            allowed = next(n for n in (8, 16, 32, 64, 128, 256, 320, 512) if n >= rank)  # vLLM takes only these
            settings |= {"enable_lora": True, "max_lora_rank": allowed, "enable_mixed_moe_lora_format": is_moe}
            lora = LoRARequest("student", 1, args.adapter, is_3d_lora_weight=is_moe)
        engine = start_engine(engine_arguments(model, engine_flags, **settings))

    tokenizer, longest = engine.get_tokenizer(), engine.model_config.max_model_len
    is_teacher = name == "teacher"
    prompted = name in ("teacher", "base_prompt")  # who may think aloud under the prompt gets room for it
    limit = args.max_tokens if prompted else args.student_max_tokens
    temperature = args.temperature if is_teacher else 0.0
    prompts = [prompt_ids(tokenizer, task.messages(chat) if prompted else chat) for chat in chats]
    stream = Stream(engine)

    def request(i):
        room = max(1, longest - len(prompts[i]))
        return i, prompts[i], {"temperature": temperature, "max_tokens": min(limit, room)}, lora

    latencies, warm_up = [], range(min(WARM_UP, len(prompts)))
    for i in [*warm_up, *range(min(args.latency_rows, len(prompts)))]:
        start = time.perf_counter()
        list(stream.run([request(i)]))
        latencies.append(time.perf_counter() - start)
    del latencies[: len(warm_up)]
    start = time.perf_counter()
    outputs = dict(stream.run(map(request, range(len(prompts)))))
    seconds = time.perf_counter() - start
    engine.engine_core.shutdown()  # otherwise this process waits for the engine's at its exit, for ever

    results = {"answers": [], "responses": [], "output_tokens": [], "cached_tokens": []}
    reader = task if prompted else replace(task, answer="")  # without the prompt, the answer and nothing else counts
    for i in range(len(prompts)):
        completion = outputs[i].outputs[0]
        try:
            read = reader.read_answer if is_teacher else lambda text, _: reader.read_content(text)
            results["answers"].append(read(completion.text, completion.finish_reason))
        except NoAnswer:
            results["answers"].append(None)
        results["responses"].append(completion.text)
        results["output_tokens"].append(len(completion.token_ids))
        results["cached_tokens"].append(outputs[i].num_cached_tokens or 0)
    results["prompt_tokens"] = [len(ids) for ids in prompts]
    return {**results, "rows_per_second": len(prompts) / seconds, "latencies": latencies}


def quality(answers: list[str | None], gold: list[str]) -> dict:
    """How good answers are on gold; None counts as wrong."""
    from scipy.stats import binomtest
    from sklearn.metrics import precision_recall_fscore_support

    correct = sum(a == g for a, g in zip(answers, gold, strict=True))
    interval = binomtest(correct, len(gold)).proportion_ci(method="wilson")
    labels = sorted(set(gold))
    per_label = precision_recall_fscore_support(gold, [a or "" for a in answers], labels=labels, zero_division=0)
    return {
        "correct": correct,
        "accuracy": correct / len(gold),
        "accuracy_interval": [interval.low, interval.high],  # 95 %, Wilson
        "macro_f1": float(per_label[2].mean()),
        "unreadable": answers.count(None),
        "per_label": {
            label: dict(zip(("precision", "recall", "f1", "rows"), map(float, values), strict=True))
            for label, *values in zip(labels, *per_label, strict=True)
        },
    }


def score(result: dict, gold: list[str], teacher: list[str | None], args) -> dict:
    """Quality on gold, agreement with the teacher, and cost per request of one system; tokens are means per request."""
    pairs = [(a, t) for a, t in zip(result["answers"], teacher, strict=True) if t is not None]
    prompt, cached, output = (
        statistics.mean(result[key]) for key in ("prompt_tokens", "cached_tokens", "output_tokens")
    )
    p50, p95 = map(float, np.percentile(result["latencies"], [50, 95]))
    cost = (prompt - cached) * args.price_input + cached * args.price_cached + output * args.price_output
    return {
        **quality(result["answers"], gold),
        "agreement": sum(a == t for a, t in pairs) / max(len(pairs), 1),
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "output_tokens": output,
        "tokens": prompt + output,
        "latency_s": p50,
        "latency_p95_s": p95,
        "rows_per_second": result["rows_per_second"],
        "cost_per_million": cost,
    }


def label_quality(labels_file: str, gold_file: str) -> dict:
    """The teacher's training labels against gold, matched by input; an input without a label counts as wrong."""
    labels, gold = (
        {json.dumps(m[:-1]): m[-1]["content"] for _, m in read_chat(f, "assistant")} for f in (labels_file, gold_file)
    )
    if not labels.keys() & gold.keys():
        raise ValueError(f"{labels_file}: has no input of {gold_file}; pass the gold answers of the same inputs")
    return {"rows": len(gold), **quality([labels.get(key) for key in gold], list(gold.values()))}


def mcnemar(one: list, other: list, gold: list[str]) -> dict:
    """Exact test of whether two systems differ in accuracy, by the rows that only one of them answers correctly."""
    from scipy.stats import binomtest

    right = [(a == g, b == g) for a, b, g in zip(one, other, gold, strict=True)]
    only_one, only_other = right.count((True, False)), right.count((False, True))
    p_value = binomtest(only_one, only_one + only_other).pvalue if only_one + only_other else 1.0
    return {"only_student": only_one, "only_teacher": only_other, "p_value": float(p_value)}


def table(metrics: dict, rows: int) -> str:
    """The result as a Markdown table."""
    lines = [
        f"| system | accuracy on {rows} gold rows (95 % interval) | macro-F1 | agrees with teacher "
        "| tokens per request (prompt + output) | seconds per request (median, p95) | rows/s in a batch | speed-up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, m in metrics.items():
        speedup = metrics["teacher"]["latency_s"] / m["latency_s"]
        low, high = m["accuracy_interval"]
        lines.append(
            f"| {TITLES[name]} | {m['accuracy']:.1%} ({m['correct']}; {low:.1%} to {high:.1%}) | {m['macro_f1']:.3f} "
            f"| {m['agreement']:.1%} | {m['tokens']:.1f} ({m['prompt_tokens']:.1f} + {m['output_tokens']:.1f}) "
            f"| {m['latency_s']:.4f}, {m['latency_p95_s']:.4f} | {m['rows_per_second']:.0f} | {speedup:.1f}x |"
        )
    return "\n".join(lines)


def main() -> int:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    args, engine_flags = parse_args()
    start = time.perf_counter()
    try:
        if args.labels or args.gold:
            print(json.dumps(label_quality(args.labels, args.gold), ensure_ascii=False))
            return 0
        task = load_task(args.task)
        chats = []
        for number, messages in read_chat(args.test_file, last_role="assistant"):
            if len(messages) < 2 or task.labels and messages[-1]["content"] not in task.labels:
                gold = messages[-1]["content"]
                raise ValueError(f"{args.test_file}:{number}: gold answer {gold!r} is not one of the task's labels")
            chats.append(messages)
        if not chats:
            raise ValueError(f"{args.test_file}: no rows")
        check_model(args.teacher_model)
        check_model(args.student_model)
        config_path = Path(args.adapter) / "adapter_config.json"
        if not config_path.is_file():
            raise ValueError(f"{args.adapter}: no adapter here (adapter_config.json is missing); train one first")
        base = json.loads(config_path.read_text())["base_model_name_or_path"]
        if Path(base).name != Path(args.student_model).name:
            raise ValueError(f"{args.adapter}: adapter of {base}, not of --student_model {args.student_model}")
        if engine_flags:
            engine_arguments(args.student_model, engine_flags)  # refuses a bad flag now, not in a child process
    except (ValueError, KeyError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2

    chats = chats[: args.limit or None]
    gold = [chat[-1]["content"] for chat in chats]
    questions = [chat[:-1] for chat in chats]
    results = {}
    for name in args.systems:
        log.info("evaluating: %s", TITLES[name])
        # a process per system, so that an engine gives all its memory back
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            results[name] = pool.submit(run_system, name, args, engine_flags, task, questions).result()
    metrics = {name: score(r, gold, results["teacher"]["answers"], args) for name, r in results.items()}
    test = mcnemar(results["student"]["answers"], results["teacher"]["answers"], gold)

    report = Path(args.adapter) / "report"
    report.mkdir(exist_ok=True)
    with Replacing(report / "metrics.json") as file:
        file.write(json.dumps({"rows": len(gold), "systems": metrics, "mcnemar": test}, indent=2) + "\n")
    with Replacing(report / "predictions.jsonl") as file:
        for i, chat in enumerate(questions):
            row = {"messages": chat, "gold": gold[i]}
            row |= {name: {"answer": r["answers"][i], "response": r["responses"][i]} for name, r in results.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with Replacing(report / "report.md") as file:
        file.write(table(metrics, len(gold)) + "\n\n")
        file.write(
            f"Right where the other is wrong: student {test['only_student']} rows, teacher {test['only_teacher']} "
            f"(McNemar's exact test: p = {test['p_value']:.3f}).\n"
        )

    print(table(metrics, len(gold)))
    teacher, student = metrics["teacher"], metrics["student"]
    summary = {f"{name}_accuracy": round(m["accuracy"], 4) for name, m in metrics.items()}
    summary |= {
        "teacher_latency_s": round(teacher["latency_s"], 4),
        "student_latency_s": round(student["latency_s"], 4),
    }
    summary["speedup"] = round(teacher["latency_s"] / student["latency_s"], 1)
    summary |= {"teacher_tokens": round(teacher["tokens"], 1), "student_tokens": round(student["tokens"], 1)}
    print(json.dumps({**summary, "rows": len(gold), "seconds": round(time.perf_counter() - start, 1)}))
    return 0


if __name__ == "__mp_main__":  # one system's process
    end_with_parent()
if __name__ == "__main__":
    sys.exit(main())
