"""Where generation stops, and whether the student learns to end its answers there.

A student that ends each answer with a token at which nothing stops writes on until its tokens are
used up, and no answer is read from that.
"""

from transformers import GenerationConfig


def eos_in_generation_config(
    model_name: str, config, revision: str = "main"
) -> int | list[int] | None:
    """The ids in the model's generation_config.json, or where there is none in its config."""
    try:
        return GenerationConfig.from_pretrained(model_name, revision=revision).eos_token_id
    except OSError:
        return GenerationConfig.from_model_config(config).eos_token_id


def stop_tokens(eos: int | list[int] | None, tokenizer) -> set[int]:
    """Ids of the tokens at which vLLM, and servers like it, stop.

    They are generation_config's and the tokenizer's own eos.
    """
    stops = set(eos) if isinstance(eos, list) else {eos}
    stops.add(tokenizer.eos_token_id)
    return stops - {None}


def stop_at_eos(generation: GenerationConfig, tokenizer) -> None:
    """Let generation_config name the tokenizer's eos too.

    transformers' generate() looks at no other.
    """
    named = stop_tokens(generation.eos_token_id, tokenizer)
    before = (
        generation.eos_token_id
        if isinstance(generation.eos_token_id, list)
        else [generation.eos_token_id]
    )
    if not named.issubset(before):
        generation.eos_token_id = sorted(named)


def set_eos_token(tokenizer, token: str) -> None:
    """Let `token`, which --eos_token names, be the one that ends an answer.

    Raises ValueError if it is no such token. The tokenizer is saved beside the adapter, and in a
    merged model, and generation stops at its eos.
    """
    if token not in {str(added) for added in tokenizer.added_tokens_decoder.values()}:
        raise ValueError(f"--eos_token {token}: no special token of the student's tokenizer")
    tokenizer.eos_token = token


def check_answer_end(model_name: str, tokenizer, stops: set[int], learned: int) -> None:
    """Raise ValueError if generation does not stop where the student ends its answers.

    `learned` is the token with which it learns to.
    """
    if learned in stops:
        return
    token = tokenizer.convert_ids_to_tokens(learned)
    if learned in tokenizer.added_tokens_decoder:
        remedy = f"add --eos_token '{token}'"
    else:
        remedy = "its chat template must end answers with a special token"
    known = ", ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(stops))
    raise ValueError(
        f"{model_name}: answers end with {token!r}, "
        f"but generation stops at {known or 'no token'} only; {remedy}"
    )
