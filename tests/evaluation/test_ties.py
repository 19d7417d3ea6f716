"""Rows that rounding decides: LoRA and a merged copy answer them differently in bfloat16, and the
report names them.

The student's base stops at another token than the one with which its template ends answers.
"""

import json
import random

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.adapter import LORA, MERGED, TIE
from distill.evaluation.ties import LEAST, NAMED, closest_place, find_ties, ties_sentence, width
from distill.teacher.base import Completion, Prompt, Request, Sampling
from distill.tokens import decode, prompt_ids
from helpers import ROOT, python, read_jsonl
from small_models import small_model
from small_tokenizers import byte_tokenizer

A, B, C = byte_tokenizer().convert_tokens_to_ids(["a", "b", "c"])
CLOSE = 40
CLEAR = 20


def places(*pairs):
    """Logits of the tokens a and b at each place of an answer."""
    return [{A: best, B: second} for best, second in pairs]


def test_how_close_two_logits_are_a_tie():
    assert width(20.0, "bfloat16", 4) == width(-20.0, "bfloat16", 4) == 0.5
    assert width(3.0, "bfloat16", 4) == 0.0625 and width(0.01, "bfloat16", 4) == 0.03125
    # no more than the check with PEFT lets pass
    assert width(100.0, "bfloat16", 4) == TIE["bfloat16"]
    assert width(20.0, "float16", 4) == 0.0625
    assert width(20.0, "float32", 4) == LEAST
    assert width(20.0, "bfloat16", 0) == 0.0


def test_the_closest_place_is_found():
    place = closest_place([7, 8], places((20.0, 3.0), (18.5, 18.0)), "bfloat16", 4)
    assert (place.before, place.best, place.second, place.apart, place.within) == (
        [7],
        A,
        B,
        0.5,
        0.5,
    )
    place = closest_place([7, 8], places((3.0, 2.8), (18.5, 18.1)), "bfloat16", 4)
    assert place.before == [7]  # 0.4 apart, but there 0.5 is rounding
    equal = closest_place([7], places((2.0, 2.0)), "bfloat16", 0)
    assert (equal.best, equal.second, equal.apart, equal.within) == (A, B, 0.0, 0.0)


class Answered:
    """A teacher whose answers are given: (tokens, logits) for each row."""

    def __init__(self, given):
        self.given = given

    def spell(self, token_ids):
        return decode(byte_tokenizer(), token_ids)

    def ask(self, requests):
        for request in reversed(requests):
            assert request.sampling == Sampling(temperature=0, max_tokens=2, logprobs=2)
            tokens, logits = self.given[request.job]
            yield request.job, Completion("", "stop", tokens, logprobs=logits)


def test_tied_rows_are_counted_with_their_two_answers():
    given = {
        0: ([A, C], places((3.0, 1.0), (9.0, 1.0))),
        2: ([A, C], places((3.0, 2.96875), (9.0, 1.0))),
        3: ([C, A], places((9.0, 1.0), (3.0, 3.0))),
        5: ([A, C], places((3.0, 1.0), (9.0, 1.0))),
    }
    requests = [
        Request(row, Prompt([0], 1), Sampling(temperature=0, max_tokens=2)) for row in given
    ]
    # row 5 had another answer the first time
    answers = {0: [A, C], 2: [A, C], 3: [C, A], 5: [B, C]}
    ties = find_ties(Answered(given), requests, answers, "bfloat16")
    assert (ties["rows"], ties["of"], ties["apart"]) == ([2, 3, 5], 4, [0.03125, 0.0, 2.0])
    assert ties["answers"] == [["ac", "b..."], ["ca", "cb..."], ["bc", "ac"]]
    assert find_ties(Answered(given), requests, answers, "bfloat16", roundings=0)["rows"] == [3, 5]
    said = ties_sentence(ties)
    assert said.startswith("On 3 of 4 rows ")
    assert said.endswith(" (rows 4: 'ca' or 'cb...', 3: 'ac' or 'b...', 6: 'bc' or 'ac').")


def test_ties_are_named():
    # as an older evaluate.py kept them
    old = {"rows": [2, 16], "of": 40, "within": 0.5, "dtype": "bfloat16"}
    assert ties_sentence(old).startswith("On 2 of 40 rows ") and ties_sentence(old).endswith(
        "(rows 3, 17)."
    )
    assert ties_sentence({**old, "rows": list(range(NAMED + 5))}).endswith(f" {NAMED} and 5 more).")
    assert ties_sentence(None) == ties_sentence({**old, "rows": []}) == ""


def chat(text, answer):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture(scope="module")
def undecided(tmp_path_factory):
    """A folder with base, out, an adapter, and rows.jsonl: CLOSE rows between two answers, then
    CLEAR ones.

    The student has learned es for many letters a and pt for many z. Its answers end with
    <|im_end|>, and the base stops at <|endoftext|>.
    """
    folder = tmp_path_factory.mktemp("undecided")
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    small_model("llama", tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    letters = random.Random(0)
    words = sorted({"".join(letters.choices("az", k=12)) for _ in range(3000)})
    sure = [word for word in words if abs(word.count("a") - 6) >= 2]
    letters.shuffle(sure)
    with open(folder / "train.jsonl", "w") as file:
        for word in sure[:400]:
            file.write(chat(word, "es" if word.count("a") > 6 else "pt"))
    flags = [
        "--train_file",
        folder / "train.jsonl",
        "--output_dir",
        folder / "out",
        "--eos_token",
        "<|im_end|>",
    ]
    flags += [
        "--config",
        ROOT / "configs" / "tiny.yaml",
        "--num_train_epochs",
        2,
        "--learning_rate",
        "5e-3",
    ]
    python("train_sft_trl.py", "--model_name", folder / "base", *flags)
    ordered = closest_first(folder, words)
    with open(folder / "rows.jsonl", "w") as file:
        for word in ordered[:CLOSE] + ordered[-CLEAR:]:
            file.write(chat(word, "es"))
    return folder


def closest_first(folder, words):
    """Words in the order of how far PEFT, in float32, puts the two answers apart."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    student = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "out"
    ).eval()
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": word}]) for word in words]
    with torch.inference_mode():
        logits = student(torch.tensor(prompts), logits_to_keep=1).logits[:, -1]
    es, pt = tokenizer.convert_tokens_to_ids(["e", "p"])
    return [words[i] for i in (logits[:, es] - logits[:, pt]).abs().argsort()]


@pytest.fixture(scope="module")
def evaluated_both_ways(undecided):
    """metrics.json, with the student's responses, by how the adapter was served: lora, merged."""
    found = {}
    for way in ("lora", "merged"):
        flags = [
            "--systems",
            "student",
            "--student_model",
            undecided / "base",
            "--adapter",
            undecided / "out",
        ]
        flags += [
            "--test_file",
            undecided / "rows.jsonl",
            "--serve_adapter",
            way,
            "--report_dir",
            undecided / way,
        ]
        flags += ["--dtype", "bfloat16", "--latency_rows", 1, "--check_rows", CLOSE + CLEAR]
        python("evaluate.py", *flags)
        found[way] = json.loads((undecided / way / "metrics.json").read_text())
        responses = read_jsonl(undecided / way / "predictions.jsonl")
        found[way]["responses"] = [row["student"]["response"] for row in responses]
    return found


@pytest.mark.slow
def test_both_ways_stop_at_the_adapters_eos(evaluated_both_ways):
    """Which the base does not know: two letters and <|im_end|>."""
    served = [way["served_as"] for way in evaluated_both_ways.values()]
    assert served == [LORA, MERGED]
    for way in evaluated_both_ways.values():
        assert way["systems"]["student"]["output_tokens"] == 3
        assert {"es", "pt"} <= set(way["responses"]) and {
            len(response) for response in way["responses"]
        } == {2}


@pytest.mark.slow
def test_lora_and_a_merged_copy_differ_where_ties_are_named(undecided, evaluated_both_ways):
    lora = evaluated_both_ways["lora"]
    merged = evaluated_both_ways["merged"]
    pairs = list(zip(lora["responses"], merged["responses"], strict=True))
    differ = [i for i, (one, other) in enumerate(pairs) if one != other]
    assert differ
    for way in evaluated_both_ways.values():
        assert set(differ) <= set(way["ties"]["rows"]) <= set(range(CLOSE))
        answers = dict(zip(way["ties"]["rows"], way["ties"]["answers"], strict=True))
        for i in differ:
            assert (
                answers[i] in (["es", "p..."], ["pt", "e..."])
                and answers[i][0] == way["responses"][i]
            )
        assert way["check"]["differ"] == 0
    # PEFT takes one of the two answers, so it differs from LoRA or the merged copy on each of these
    # rows
    assert lora["check"]["ties"] + merged["check"]["ties"] >= len(differ)
    closest = lora["ties"]["rows"][lora["ties"]["apart"].index(min(lora["ties"]["apart"]))]
    report = (undecided / "lora" / "report.md").read_text()
    assert (
        f"On {len(lora['ties']['rows'])} of {CLOSE + CLEAR} rows "
        "the distilled student's two best tokens"
    ) in report
    assert f" (rows {closest + 1}: " in report
