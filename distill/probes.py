"""Whether step 3 gives a student exactly the tokens that it was trained on.

It is tried on texts that are nobody's data. Step 2 records the token ids of a few fixed chats in
run.json, and step 3 compares them with those of the tokenizer that serves the adapter. Another chat
template, other added tokens and other rules for white space all show.
"""

import json
from pathlib import Path

from distill.templates import FIRST_DATE, TemplateProblem
from distill.tokens import prompt_ids


def user(text: str) -> dict:
    return {"role": "user", "content": text}


PROBES = {
    "plain text": [user("The library opens at 7, and closes when it's dark.")],
    "a system message": [{"role": "system", "content": "Be brief."}, user("Why?")],
    "several turns": [user("One"), {"role": "assistant", "content": "Two"}, user("Three")],
    "white space": [
        user("  two,\ta tab,\n\none empty line,\n\n\n\nthree;    four \u00a0\u3000 end \n")
    ],
    "markup": [
        user(
            "<table><b>x</b></h1> "
            "<|im_end|><|eot_id|></s><end_of_turn>[/INST]<tool_call><think>a</think>"
        )
    ],
    "scripts": [user("Straße, e\u0301té, ﬁ １２, 日本語、ไทย हिन्दी العربية 🎉🏽")],
    "numbers and code": [user("1234567 3.14\nif x:\n        return [[1, 2]]  # WE'LL")],
}


def probe_tokens(tokenizer) -> dict[str, str | None]:
    """The token ids of each probe, on a fixed day, as a line of text.

    None for one that the chat template refuses.
    """
    found = {}
    for name, messages in PROBES.items():
        try:
            ids = prompt_ids(tokenizer, messages, strftime_now=FIRST_DATE.strftime)
        except TemplateProblem:
            found[name] = None
            continue
        found[name] = " ".join(str(token) for token in ids)
    return found


def check_probes(adapter: str | Path, tokenizer) -> None:
    """Raise ValueError if a probe has other tokens than when the adapter was trained.

    An adapter without recorded probes is older, and passes.
    """
    path = Path(adapter) / "run.json"
    recorded = {}
    if path.exists():
        recorded = json.loads(path.read_text("utf-8")).get("probe_tokens") or {}
    now = probe_tokens(tokenizer)
    differing = [name for name, ids in recorded.items() if name in now and now[name] != ids]
    if differing:
        names = ", ".join(differing)
        raise ValueError(
            f"{adapter}: was trained on other tokens than it would be asked with (probes: {names})"
        )
