"""What a model's generation_config.json makes a server do that step 3 does not.

That is penalties and sampling by default.
"""

# settings of generation_config.json that vLLM's server applies where a request does not set them
APPLIED = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "max_new_tokens",
)
# a merged model's settings: sampling of the best token alone,
# in a form that transformers saves and every server reads
GREEDY = {"do_sample": True, "top_k": 1, "temperature": 1.0, "top_p": 1.0}


def greedy_settings(generation):
    """The GenerationConfig under which a server answers as step 3 does.

    It is transformers', with the model's own token ids. Nothing else is kept: a penalty changes
    answers, and what is invalid, such as a temperature without sampling, could not be saved.
    """
    from transformers import GenerationConfig

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(generation, name, None) for name in names}, **GREEDY)


def applied_by_server(model_config) -> dict:
    """What a server of a model applies and step 3 does not.

    `model_config`, vLLM's, describes the model.
    """
    if model_config.generation_config == "vllm":
        return {}
    found = model_config.try_get_generation_config()
    return {name: found[name] for name in APPLIED if found.get(name) is not None}


def server_sentence(applied: dict | None) -> str:
    """What the report says of it; empty if there is nothing."""
    if not applied:
        return ""
    settings = ", ".join(f"{name} {value}" for name, value in applied.items())
    return (
        f"The base's generation_config.json makes a server apply {settings}, "
        "without which the distilled student was evaluated: "
        "pass --generation-config vllm to vllm serve and temperature 0 with each request, "
        "or serve the merged model, whose settings are those of the evaluation."
    )
