"""Against the recipe as published, written here from its description: generation, training and evaluation.

    python benchmarks/published.py --rows 1000 --repeats 3

Its way: one user message with the text in the middle of the prompt's last section; all rows handed over at once, those
that failed asked again in a second pass, results written at the end; every token of a chat in the loss, padded batches
in random order; evaluation of one row at a time with generate(). Models, rows, LoRA, hyperparameters and the number of
steps are the same on both sides. The tiny teacher knows our layout of the prompt only, so each answer is made to be as
long as ours was, and nothing is said about the published way's labels.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from figures import ROOT, apart_warm, finish, in_turn, ratios, show, spread, write_inputs
from generation import Stumbling, ours, start_teacher
from training import parsed, script

from distill.chats import read_chat
from distill.evaluation.apart import apart
from distill.labels.inputs import scan_inputs
from distill.teacher.engine import stop_engine
from distill.tokens import encode

ENDING = "Finish with exactly one line: Final Answer: xx, with one of the labels in place of xx."


def lengths_of(manifest: dict) -> dict[int, list[int]]:
    """Output tokens of every attempt at each row, from the journal of a run of ours."""
    lines = map(json.loads, manifest["journal"].read_text(encoding="utf-8").splitlines())
    return {r["index"]: [a["output_tokens"] for a in r["attempts"]] for r in lines if "index" in r}


def published_generation(engine, task, inputs, lengths: dict[int, list[int]], folder: Path) -> dict:
    """All rows at once, then those that failed; each attempt as long as ours was."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    engine.reset_prefix_cache()
    start, responses, tokenizer = time.perf_counter(), {}, engine.get_tokenizer()
    texts = {index: messages[0]["content"] for index, messages in inputs.read()}
    for attempt in range(max(map(len, lengths.values()))):
        for index, text in texts.items():
            if attempt < len(lengths[index]):
                message = {"role": "user", "content": f"{task.prompt}\n\n{text}\n\n{ENDING}"}
                chat = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
                tokens, ids = lengths[index][attempt], tokenizer(chat, add_special_tokens=False)["input_ids"]
                sampling = {"temperature": 0, "min_tokens": tokens, "max_tokens": tokens, "ignore_eos": True}
                params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
                engine.add_request(f"published-{index}", tokens_input(ids), params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                responses[int(output.request_id.rpartition("-")[2])] = output.outputs[0].text
    with open(folder / "published.jsonl", "w", encoding="utf-8") as file:
        for index, text in texts.items():
            found = re.findall(task.answer, responses[index])
            answer = {"role": "assistant", "content": found[-1] if found else ""}
            row = {"messages": [{"role": "user", "content": text}, answer]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"seconds": time.perf_counter() - start, "output_tokens": sum(map(sum, lengths.values()))}


def beside(rates: dict[str, list[float]]) -> dict:
    """Spreads of both ways' rates and of their ratio."""
    return {way: spread(rates[way]) for way in rates} | {"ratio": ratios(rates["ours"], rates["published"])}


def generation(mine, engine_flags: list[str]) -> dict:
    """Rows/s of both ways, without failures and with 5 % of the rows failing once."""
    args, task, engine = start_teacher(mine.teacher, mine.max_tokens, engine_flags)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder, found = Path(folder), {}
            inputs = scan_inputs(write_inputs(folder / "inputs.txt", mine.rows))
            failing = {"5 % run on": Stumbling(engine), "5 % loop": Stumbling(engine, loops=True)}
            for name, asked in {"none fails": engine, **failing}.items():
                step = partial(ours, args, asked, task, inputs, folder)
                lengths = lengths_of(step())  # and warms up
                for attempts in lengths.values():
                    attempts[:-1] = [mine.max_tokens] * (len(attempts) - 1)  # it notices no loop
                published = partial(published_generation, engine, task, inputs, lengths, folder)
                runs = in_turn({"ours": step, "published": published}, mine.repeats)
                found[name] = beside({way: [mine.rows / run["seconds"] for run in runs[way]] for way in runs})
                found[name]["output_tokens"] = {way: runs[way][-1]["output_tokens"] for way in runs}
    finally:
        stop_engine(engine)
    return found


def published_training(flags: list[str], folder: str) -> dict:
    """SFTTrainer on the chats as they are; seconds of training and saving, into `folder`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, ProgressCallback, set_seed
    from trl import SFTTrainer

    own, args, tokenizer, lora, _ = parsed(flags, folder)
    set_seed(args.seed)
    args.warmup_steps = own.warmup_ratio
    args.padding_free, args.train_sampling_strategy, args.save_strategy = False, "random", "no"
    rows = [{"messages": messages} for _, messages in read_chat(own.train_file, "assistant")]
    model = AutoModelForCausalLM.from_pretrained(own.model_name, dtype="float32" if not args.bf16 else "bfloat16")
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(ProgressCallback)  # it prints on stdout
    fed, real = 0, 0
    for batch in trainer.get_train_dataloader():
        fed, real = fed + batch["input_ids"].numel(), real + int(batch["attention_mask"].sum())
    start = time.perf_counter()
    trainer.train()
    trainer.save_model(folder)
    return {"seconds": time.perf_counter() - start, "steps": trainer.state.global_step, "padding": fed / real}


def generated_one_by_one(base: str, adapter: str, test_file: str, rows: int, repeats: int) -> dict:
    """Share of held-out rows whose answer is right, all by one forward pass each; rows/s of generate() on `rows`."""
    rates = []
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).eval()
    chats, right = [messages for _, messages in read_chat(test_file, "assistant")], 0
    with torch.inference_mode():
        for messages in chats:
            row = encode(tokenizer, messages)
            answer = [t for t in row["labels"] if t != -100]
            logits = model(torch.tensor([row["input_ids"]], device=model.device)).logits[0, -len(answer) - 1 : -1]
            right += logits.argmax(-1).tolist() == answer
        for _ in range(repeats):
            start = time.perf_counter()
            for messages in chats[:rows]:
                chat = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_tensors="pt")
                model.generate(**chat.to(model.device), max_new_tokens=64, do_sample=False)
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
    """evaluate.py's own way to ask the student: rows/s over everything but the start of engine and processes."""
    import evaluate
    from distill.adapter import plan_serving
    from distill.evaluation.ask import Asking
    from distill.evaluation.rows import read_rows

    flags = ["--student_model", mine.student, "--adapter", adapter, "--test_file", mine.test_file]
    args, engine_flags = evaluate.parse_args([*flags, "--check_rows", "0", "--systems", "student"])
    task = evaluate.load_task(args.task)
    chats = read_rows(args.test_file, "", args.limit, task).chats
    student = evaluate.describe("student", args, len(chats))
    engine = (engine_flags, args.tensor_parallel_size)
    ways = apart(plan_serving, args.serve_adapter, args.adapter, args.student_model, *engine)
    with tempfile.TemporaryDirectory() as folder:
        asking = Asking(task, chats, *engine, args.adapter, f"{folder}/merged", None)
        start = time.perf_counter()
        found = apart(asked, mine.repeats, [student], ways[0], asking)
        start_up = time.perf_counter() - start
    seconds = [sum(run["latencies"]) + len(chats) / run["rows_per_second"] for run in found]
    batch = statistics.median(run["rows_per_second"] for run in found)
    of_all = {"rates": [len(chats) / s for s in seconds], "batch": batch, "alone": args.latency_rows}
    return of_all | {"start_up": start_up - sum(seconds)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(ROOT / "models" / "tiny-thinking"), help="of the generation")
    parser.add_argument("--student", default=str(ROOT / "models" / "tiny-instruct"), help="of training and evaluation")
    parser.add_argument("--train_file", default=str(ROOT / "example-data" / "multilingual_gold.jsonl"), help="its rows")
    parser.add_argument("--test_file", default=str(ROOT / "example-data" / "heldout.jsonl"), help="only for measuring")
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.yaml"), help="hyperparameters of both ways")
    parser.add_argument("--num_train_epochs", default="3", help="of both ways")
    parser.add_argument("--rows", type=int, default=1000, help="to generate")
    parser.add_argument("--generated_rows", type=int, default=100, help="evaluated one at a time for the rate")
    parser.add_argument("--max_tokens", type=int, default=256, help="of the teacher; a failing row uses them up")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    mine, engine_flags = parser.parse_known_args()

    labelled = generation(mine, engine_flags)
    compared = {f"generation, rows/s, {name}": found for name, found in labelled.items()}

    flags = ["--model_name", mine.student, "--train_file", mine.train_file, "--config", mine.config]
    flags += ["--num_train_epochs", mine.num_train_epochs]
    with tempfile.TemporaryDirectory() as folder:
        adapters = {way: f"{folder}/{way}" for way in ("ours", "published")}
        step2 = partial(script, flags, adapters["ours"])
        ways = {"ours": step2, "published": partial(apart_warm, published_training, flags, adapters["published"])}
        runs = in_turn(ways, mine.repeats)
        effective = runs["ours"][0]["effective_batch_size"]
        files = (mine.test_file, mine.generated_rows)
        one_by_one = partial(apart_warm, generated_one_by_one, mine.student)
        own, other = evaluated(mine, adapters["ours"]), one_by_one(adapters["ours"], *files, mine.repeats)
        accuracy = {"ours": other["accuracy"], "published": one_by_one(adapters["published"], *files, 0)["accuracy"]}
    steps = {way: runs[way][-1]["steps"] for way in runs}
    trained = {way: [run["steps"] * effective / run["seconds"] for run in runs[way]] for way in runs}
    compared["training, rows/s"] = beside(trained)
    compared["evaluation, rows/s"] = beside({"ours": own["rates"], "published": other["rates"]})
    table = [[name, show(m["ours"]), show(m["published"]), show(m["ratio"], 2)] for name, m in compared.items()]
    table.insert(-1, ["held-out accuracy", *(f"{accuracy[way]:.1%}" for way in ("ours", "published")), ""])
    notes = [
        f"Median of {mine.repeats} (lowest to highest), generation and training taken in turn. "
        f"{steps['ours']} and {steps['published']} steps; "
        f"the published way feeds {runs['published'][-1]['padding']:.2f} tokens for each real one.",
        f"evaluate.py's time includes {own['alone']} requests one at a time for the latency; its batch alone "
        f"does {own['batch']:,.0f} rows/s. Processes and engine take {own['start_up']:.0f} s to start.",
    ]
    result = {**compared, "accuracy": accuracy, "steps": steps, "start_up_seconds": own["start_up"]}
    header = ["", "this repository", "published recipe", "ratio"]
    return finish("Against the recipe as published", header, table, notes, {"published": result})


if __name__ == "__main__":
    sys.exit(main())
