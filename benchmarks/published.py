"""Against the recipe as published, written from its description: all three steps.

    python benchmarks/published.py --rows 1000 --repeats 3

Its way: one user message with the text in the middle of the prompt's last section; all rows handed
over at once, those that failed asked again in a second pass, results written at the end; every
token of a chat in the loss, padded batches in random order; evaluation of one row at a time with
generate(). Models, rows, LoRA, hyperparameters and the number of steps are the same on both sides.
The tiny teacher knows our layout of the prompt only, so each answer is made to be as long as ours
was, and nothing is said about the published way's labels.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import (
    ROOT,
    apart_warm,
    figures_of,
    finish,
    in_turn,
    parser_of,
    ratios,
    show,
    spread,
    write_inputs,
)
from generation import Stumbling, ours, start_teacher

from distill.chats import read_chat
from distill.evaluation.apart import apart
from distill.labels.inputs import scan_inputs
from distill.teacher.engine import stop_engine
from distill.tokens import encode
from training import parsed, script

ENDING = "Finish with exactly one line: Final Answer: xx, with one of the labels in place of xx."


def lengths_of(manifest: dict) -> dict[int, list[int]]:
    """Output tokens of every attempt at each row, from the journal of a run of ours."""
    lengths = {}
    for line in manifest["journal"].read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "index" in record:
            attempts = record["attempts"]
            lengths[record["index"]] = [attempt["output_tokens"] for attempt in attempts]
    return lengths


def published_generation(engine, task, inputs, lengths: dict[int, list[int]], folder: Path) -> dict:
    """All rows at once, then those that failed; each attempt as long as ours was."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    def ask(index: int, text: str, tokens: int) -> None:
        """Ask for one row, for exactly so many tokens."""
        message = {"role": "user", "content": f"{task.prompt}\n\n{text}\n\n{ENDING}"}
        chat = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
        params = SamplingParams(
            temperature=0,
            min_tokens=tokens,
            max_tokens=tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(f"published-{index}", tokens_input(ids), params)

    engine.reset_prefix_cache()
    start = time.perf_counter()
    tokenizer = engine.get_tokenizer()
    texts = {index: messages[0]["content"] for index, messages in inputs.read()}
    responses = {}
    passes = max(len(attempts) for attempts in lengths.values())
    for attempt in range(passes):
        for index, text in texts.items():
            if attempt < len(lengths[index]):
                ask(index, text, lengths[index][attempt])
        while engine.has_unfinished_requests():
            for output in engine.step():
                index = int(output.request_id.rpartition("-")[2])
                responses[index] = output.outputs[0].text
    with open(folder / "published.jsonl", "w", encoding="utf-8") as file:
        for index, text in texts.items():
            found = re.findall(task.answer, responses[index])
            answer = {"role": "assistant", "content": found[-1] if found else ""}
            row = {"messages": [{"role": "user", "content": text}, answer]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    output_tokens = sum(sum(attempts) for attempts in lengths.values())
    return {"seconds": time.perf_counter() - start, "output_tokens": output_tokens}


def beside(rates: dict[str, list[float]]) -> dict:
    """Spreads of both ways' rates and of their ratio."""
    found = {way: spread(values) for way, values in rates.items()}
    found["ratio"] = ratios(rates["ours"], rates["published"])
    return found


def generation(mine, engine_flags: list[str]) -> dict:
    """Rows/s of both ways, without failures and with 5 % of the rows failing once."""
    settings, task, engine = start_teacher(mine.teacher, mine.max_tokens, engine_flags)
    found = {}
    try:
        engines = {
            "none fails": engine,
            "5 % run on": Stumbling(engine, "runs on"),
            "5 % loop": Stumbling(engine, "loops"),
        }
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            inputs = scan_inputs(write_inputs(folder / "inputs.txt", mine.rows))
            for name, asked_engine in engines.items():
                step = partial(ours, settings, asked_engine, task, inputs, folder)
                lengths = lengths_of(step())  # and warms up
                for attempts in lengths.values():
                    # the published way notices no loop
                    attempts[:-1] = [mine.max_tokens] * (len(attempts) - 1)
                published = partial(published_generation, engine, task, inputs, lengths, folder)
                runs = in_turn({"ours": step, "published": published}, mine.repeats)
                found[name] = compared_runs(runs, mine.rows)
    finally:
        stop_engine(engine)
    return found


def compared_runs(runs: dict[str, list[dict]], rows: int) -> dict:
    """Both ways' rates and the output tokens of their last runs."""
    rates = {}
    output_tokens = {}
    for way, found in runs.items():
        rates[way] = [rows / run["seconds"] for run in found]
        output_tokens[way] = found[-1]["output_tokens"]
    return {**beside(rates), "output_tokens": output_tokens}


def published_training(flags: list[str], folder: str) -> dict:
    """SFTTrainer on the chats as they are; seconds of training and saving, into `folder`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, ProgressCallback, set_seed
    from trl import SFTTrainer

    own, args, tokenizer, lora, _ = parsed(flags, folder)
    set_seed(args.seed)
    args.warmup_steps = own.warmup_ratio
    args.padding_free = False
    args.train_sampling_strategy = "random"
    args.save_strategy = "no"
    rows = [{"messages": messages} for _, messages in read_chat(own.train_file, "assistant")]
    dtype = "bfloat16" if args.bf16 else "float32"
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(own.model_name, dtype=dtype),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(ProgressCallback)  # it prints on stdout
    fed = 0
    real = 0
    for batch in trainer.get_train_dataloader():
        fed += batch["input_ids"].numel()
        real += int(batch["attention_mask"].sum())
    start = time.perf_counter()
    trainer.train()
    trainer.save_model(folder)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "steps": trainer.state.global_step, "padding": fed / real}


def generated_one_by_one(base: str, adapter: str, test_file: str, rows: int, repeats: int) -> dict:
    """Share of held-out rows whose answer is right, and rows/s of generate() on some `rows`.

    Of all rows it is seen by one forward pass each whether the answer would be generated.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model = PeftModel.from_pretrained(model, adapter).eval()
    chats = [messages for _, messages in read_chat(test_file, "assistant")]

    def is_right(messages: list[dict]) -> bool:
        row = encode(tokenizer, messages)
        answer = [token for token in row["labels"] if token != -100]
        ids = torch.tensor([row["input_ids"]], device=model.device)
        logits = model(ids).logits[0, -len(answer) - 1 : -1]
        return logits.argmax(-1).tolist() == answer

    def generate(messages: list[dict]) -> None:
        chat = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt"
        )
        model.generate(**chat.to(model.device), max_new_tokens=64, do_sample=False)

    rates = []
    with torch.inference_mode():
        right = sum(is_right(messages) for messages in chats)
        for _ in range(repeats):
            start = time.perf_counter()
            for messages in chats[:rows]:
                generate(messages)
            rates.append(rows / (time.perf_counter() - start))
    return {"accuracy": right / len(chats), "rates": rates}


def asked(repeats: int, *arguments) -> list[dict]:
    """ask.run_model() with its one engine asked several times: what each found."""
    from distill.evaluation import ask

    ask_once = ask.ask_system
    found = []

    def again(system, teacher, *further):
        for _ in range(repeats):
            teacher.forget()
            found.append(ask_once(system, teacher, *further))
        return found[-1]

    ask.ask_system = again
    ask.run_model(*arguments)
    return found


def evaluated(mine, adapter: str) -> dict:
    """evaluate.py's own way to ask the student: rows/s.

    Everything is timed but the start of engine and processes.
    """
    import evaluate
    from distill.adapter import plan_serving
    from distill.evaluation.ask import Asking
    from distill.evaluation.models import Models, Revisions
    from distill.evaluation.rows import read_rows
    from distill.evaluation.run import describe
    from distill.task import load_task

    flags = ["--student_model", mine.student, "--adapter", adapter, "--test_file", mine.test_file]
    flags += ["--check_rows", "0", "--systems", "student"]
    choices = evaluate.parse_args(flags)
    task = load_task(choices.task_file)
    chats = read_rows(choices.test_file, "", choices.limit, task).chats
    student = describe("student", choices, Models(Revisions(None, None), None, None), len(chats))
    engine = (choices.engine_flags, choices.tensor_parallel_size)
    serving = (choices.serve_adapter, choices.adapter, choices.student_model, *engine)
    ways = apart(plan_serving, *serving)
    with tempfile.TemporaryDirectory() as folder:
        asking = Asking(task, chats, *engine, choices.adapter, f"{folder}/merged", None)
        start = time.perf_counter()
        found = apart(asked, mine.repeats, [student], ways[0], asking)
        whole = time.perf_counter() - start
    seconds = []
    for run in found:
        one_at_a_time = sum(run["latencies"])
        in_a_batch = len(chats) / run["rows_per_second"]
        seconds.append(one_at_a_time + in_a_batch)
    return {
        "rates": [len(chats) / one for one in seconds],
        "batch": statistics.median(figures_of(found, "rows_per_second")),
        "alone": choices.latency_rows,
        "start_up": whole - sum(seconds),
    }


def parse_args():
    """(the flags below, those of the engine)"""
    parser = parser_of(__doc__)
    models = ROOT / "models"
    data = ROOT / "example-data"

    def add(name: str, default, help: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=help)

    add("--teacher", str(models / "tiny-thinking"), "of the generation")
    add("--student", str(models / "tiny-instruct"), "of training and evaluation")
    add("--train_file", str(data / "multilingual_gold.jsonl"), "its rows")
    add("--test_file", str(data / "heldout.jsonl"), "only for measuring")
    add("--config", str(ROOT / "configs" / "tiny.yaml"), "hyperparameters of both ways")
    add("--num_train_epochs", "3", "of both ways")
    add("--rows", 1000, "to generate")
    add("--generated_rows", 100, "evaluated one at a time for the rate")
    add("--max_tokens", 256, "of the teacher; a failing row uses them up")
    add("--repeats", 3, "of each way, taken in turn")
    return parser.parse_known_args()


@dataclass
class Students:
    """What came of training both students and of evaluating them."""

    training: dict[str, list[dict]]  # runs of each way
    own: dict  # evaluate.py's way
    other: dict  # generate()
    accuracy: dict[str, float]


def train_and_evaluate(mine) -> Students:
    """Train both students in turn, and evaluate ours in both ways; of the other the accuracy."""
    flags = ["--model_name", mine.student, "--train_file", mine.train_file]
    flags += ["--config", mine.config, "--num_train_epochs", mine.num_train_epochs]
    with tempfile.TemporaryDirectory() as folder:
        own_adapter = f"{folder}/ours"
        other_adapter = f"{folder}/published"
        ways = {
            "ours": partial(script, flags, own_adapter),
            "published": partial(apart_warm, published_training, flags, other_adapter),
        }
        runs = in_turn(ways, mine.repeats)
        one_by_one = partial(apart_warm, generated_one_by_one, mine.student)
        files = (mine.test_file, mine.generated_rows)
        own = evaluated(mine, own_adapter)
        other = one_by_one(own_adapter, *files, mine.repeats)
        of_other_adapter = one_by_one(other_adapter, *files, 0)
    accuracy = {"ours": other["accuracy"], "published": of_other_adapter["accuracy"]}
    return Students(runs, own, other, accuracy)


def main() -> int:
    mine, engine_flags = parse_args()
    labelled = generation(mine, engine_flags)
    compared = {f"generation, rows/s, {name}": found for name, found in labelled.items()}

    students = train_and_evaluate(mine)
    effective = students.training["ours"][0]["effective_batch_size"]
    steps = {}
    trained = {}
    for way, runs in students.training.items():
        steps[way] = runs[-1]["steps"]
        trained[way] = [run["steps"] * effective / run["seconds"] for run in runs]
    own = students.own
    compared["training, rows/s"] = beside(trained)
    rates = {"ours": own["rates"], "published": students.other["rates"]}
    compared["evaluation, rows/s"] = beside(rates)

    table = []
    for name, found in compared.items():
        cells = [show(found["ours"]), show(found["published"]), show(found["ratio"], 2)]
        table.append([name, *cells])
    accuracy = students.accuracy
    cells = [f"{accuracy['ours']:.1%}", f"{accuracy['published']:.1%}", ""]
    table.insert(-1, ["held-out accuracy", *cells])
    padding = students.training["published"][-1]["padding"]
    notes = [
        f"Median of {mine.repeats} (lowest to highest), generation and training taken in turn. "
        f"{steps['ours']} and {steps['published']} steps; "
        f"the published way feeds {padding:.2f} tokens for each real one.",
        f"evaluate.py's time includes {own['alone']} requests one at a time for the latency; "
        f"its batch alone does {own['batch']:,.0f} rows/s. "
        f"Processes and engine take {own['start_up']:.0f} s to start.",
    ]
    result = {
        **compared,
        "accuracy": accuracy,
        "steps": steps,
        "start_up_seconds": own["start_up"],
    }
    header = ["", "this repository", "published recipe", "ratio"]
    title = "Against the recipe as published"
    return finish(title, header, table, notes, {"published": result})


if __name__ == "__main__":
    sys.exit(main())
