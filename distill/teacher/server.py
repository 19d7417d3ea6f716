"""A server that speaks the OpenAI protocol: which one the flags name, and what it says of itself.

Keys are read from the environment, so that they stand in no shell's history, and nothing writes
them.
"""

import logging
import os
import re
from argparse import Namespace
from dataclasses import dataclass
from urllib.parse import urlsplit

log = logging.getLogger("create_data")
# How a server is spoken to: what only vLLM's understands is left out for the others.
VLLM = "vllm"
OPENAI = "openai"
KINDS = ["auto", VLLM, OPENAI]
# What becomes of an input that spells a special token where the server would take it for one.
REJECT = "reject"
ASK = "ask"
SPECIAL_TOKENS = [REJECT, ASK]
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a name that the environment may have
# step 1's flags of a teacher on this machine, and what they are where they are not given
OF_AN_ENGINE = {"revision": None, "tensor_parallel_size": 1, "num_replicas": 0}
LISTED_WITHIN = 60.0  # seconds, the list of models
NO_KEY = "none"  # for servers that want none; the client wants some text


@dataclass(frozen=True)
class FlagNames:
    """Which flags name a server, and which script asks it, for messages."""

    url: str = "--teacher_url"
    model: str = "--model_name"
    api_key_env: str = "--api_key_env"
    tokenizer: str = "--teacher_tokenizer"
    script: str = "create_data.py"


OF_STEPS = FlagNames()  # 1 and 3


@dataclass(frozen=True)
class Server:
    """Whom the flags name as the teacher, or as the student, and how it is asked."""

    url: str  # up to /v1
    model: str  # as the server calls it
    api_key_env: str  # the environment variable that holds the key; empty: it wants none
    kind: str  # one of KINDS
    tokenizer: str | None  # the model's own, a directory or a name on the hub
    special_tokens: str  # REJECT or ASK
    concurrency: int  # requests that run at once, at most
    request_timeout: float  # seconds
    flags: FlagNames = OF_STEPS

    @property
    def host(self) -> str:
        """The name of the machine, without the port."""
        return urlsplit(self.url).hostname

    @property
    def key(self) -> str:
        """The key from the environment; NO_KEY where the server wants none."""
        return os.environ.get(self.api_key_env, "").strip() or NO_KEY


@dataclass(frozen=True)
class About:
    """What a server has said of itself before it was asked for a row."""

    kind: str  # VLLM or OPENAI
    context: int | None  # tokens of prompt and answer together; None: it does not say


class ServerRefused(ValueError):
    """A server that cannot be asked, and why, in one line."""


class Unreachable(ServerRefused):
    """A server that is not there, or not yet."""


def add_server_flags(parser) -> None:
    """The flags of a teacher that is a URL."""
    parser.group("or a server as the teacher")
    add_teacher_flags(parser)
    add_pace_flags(parser)


def add_teacher_flags(parser) -> None:
    """Which server has the teacher."""
    parser.add("teacher_url", "", "of an OpenAI-compatible server, such as https://host/v1")
    parser.add("api_key_env", "", "the environment variable that holds its key; empty: no key")
    parser.add("teacher_tokenizer", None, "keeps special tokens in inputs text (vLLM's server)")


def add_pace_flags(parser) -> None:
    """How any server is asked."""
    parser.add("server", "auto", "what it is; auto asks it", choices=KINDS, rare=True)
    otherwise = "inputs that spell one, otherwise"
    parser.add("special_tokens", REJECT, otherwise, choices=SPECIAL_TOKENS, rare=True)
    parser.add("concurrency", 64, "requests at once, fewer while it is busy", at_least=1)
    parser.add("request_timeout", 600.0, "seconds that a request may take", at_least=1, rare=True)


def server_of(
    args: Namespace,
    model: str,
    not_together: dict | None = None,
    engine_flags: list[str] = (),
    flags: FlagNames = OF_STEPS,
) -> Server | None:
    """The server that has the teacher; None: the teacher runs here.

    `not_together` are flags of a teacher that runs here with their defaults, and `engine_flags`
    vLLM's, where nobody else needs them. Messages name what is in `flags`. Raises ValueError for a
    URL that cannot be one, and for flags of the other kind of teacher.
    """
    tokenizer = args.teacher_tokenizer
    server = named_server(args, args.teacher_url, model, args.api_key_env, tokenizer, flags)
    if server:
        refuse_engine_flags(engine_flags, flags)
        refuse_together(args, not_together or {}, flags)
    return server


def named_server(
    args: Namespace, url: str, model: str, key: str, tokenizer: str | None, flags: FlagNames
) -> Server | None:
    """The server at a URL, asked as the flags say that all servers share; None without a URL.

    Raises ValueError for a URL or a `key`, a variable's name, that cannot be one.
    """
    if not url:
        if tokenizer:
            raise ValueError(f"{flags.tokenizer} is for {flags.url}; drop it")
        return None
    check_url(url, flags)
    check_key(key, flags.api_key_env)
    return Server(
        url=url,
        model=model,
        api_key_env=key,
        kind=args.server,
        tokenizer=tokenizer,
        special_tokens=args.special_tokens,
        concurrency=args.concurrency,
        request_timeout=args.request_timeout,
        flags=flags,
    )


def refuse_engine_flags(engine_flags: list[str], flags: FlagNames) -> None:
    """Raise ValueError for flags of vLLM's engine where no engine of ours is started.

    A server's key among them would land in what a run writes of itself.
    """
    if engine_flags:
        name = engine_flags[0].partition("=")[0]
        raise ValueError(f"{name} does not go with {flags.url}: the server has its own; drop it")


def refuse_together(args: Namespace, not_together: dict, flags: FlagNames) -> None:
    """Raise ValueError for a flag that is not at its default, of a model that runs here."""
    for flag, left_out in not_together.items():
        if getattr(args, flag) != left_out:
            raise ValueError(f"--{flag} does not go with {flags.url}; drop it")


def check_key(variable: str, flag: str = OF_STEPS.api_key_env) -> None:
    """Raise ValueError for what names no key in the environment; `flag` is where it is named.

    It may be the key itself, given by mistake, so the message does not repeat it.
    """
    if not variable:
        return
    if not VARIABLE.fullmatch(variable) or not os.environ.get(variable, "").strip():
        raise ValueError(
            f"{flag}: there is no environment variable of this name; it takes the name of "
            "the one that holds the key, which must be exported"
        )
    key = os.environ[variable].strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"{flag}: what this variable holds is no key; it has odd characters")


def check_url(url: str, flags: FlagNames = OF_STEPS) -> None:
    """Raise ValueError for what is no URL of a server, or holds what must not be written down."""
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None
    except ValueError as error:
        raise ValueError(f"{flags.url}: is no URL ({error})") from None
    if parts.username is not None or parts.password is not None:
        # without the URL, which holds them
        raise ValueError(
            f"{flags.url}: holds a name or a password; keys come from the variable that "
            f"{flags.api_key_env} names"
        )
    if parts.query or parts.fragment:
        raise ValueError(
            f"{flags.url}: ends in a query or a fragment, where keys would be written down; "
            "leave it out"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        host = "HOST:PORT" if has_port else "HOST"
        raise ValueError(f"{flags.url} {url}: expected http(s)://{host}/v1")


def ask_about(server: Server) -> About:
    """Ask a server which models it has. Raises ServerRefused.

    One without a list of models is taken as it is.
    """
    import openai

    within = min(server.request_timeout, LISTED_WITHIN)
    listed = {}
    try:
        settings = {"base_url": server.url, "api_key": server.key, "timeout": within}
        with openai.OpenAI(**settings, max_retries=0) as client:
            reply = client.models.with_raw_response.list()
            listed = models_of(reply.http_response.json())
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ServerRefused(wrong_key(server, error.status_code)) from None
    except openai.APIStatusError:
        pass  # some gateways have no such list
    except openai.APIConnectionError as error:
        raise Unreachable(
            f"{server.url}: cannot be reached ({reason_of(error)}); start the server, or mend "
            f"{server.flags.url}"
        ) from None
    except ImportError as error:  # of a proxy that the environment names
        raise ServerRefused(f"{server.url}: cannot be reached ({error})") from None
    except ValueError:  # it is no JSON
        pass
    model = listed.get(server.model, {})
    is_vllm = any(other.get("owned_by") == VLLM for other in listed.values())
    if listed and not model:
        known = ", ".join(sorted(listed)[:10])
        said = f"{server.flags.model} {server.model}: not in the server's list of models: {known}"
        if is_vllm:
            raise ServerRefused(said)
        # gateways know more than they list; servers with one model may answer with that one
        log.warning("%s; it is asked all the same", said)
    kind = server.kind
    if kind == "auto":
        kind = VLLM if is_vllm else OPENAI
    return About(kind, context_of(model, listed))


def context_of(model: dict, listed: dict[str, dict]) -> int | None:
    """Tokens that fit into a listed model; vLLM's server says them of an adapter's base alone."""
    context = model.get("max_model_len")
    base = model.get("parent")
    if context is None and isinstance(base, str):
        context = listed.get(base, {}).get("max_model_len")
    return context if isinstance(context, int) else None


def models_of(body: object) -> dict[str, dict]:
    """The models in a server's list by their names; empty where it is no list of models."""
    found = {}
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        return found
    for model in body["data"]:
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            found[model["id"]] = model
    return found


def wrong_key(server: Server, status: int) -> str:
    """What to say of a key that a server does not take."""
    if server.key == NO_KEY:
        remedy = f"{server.flags.api_key_env} names the environment variable that holds one"
    else:
        remedy = f"the environment variable {server.api_key_env} holds another one"
    return f"{server.url}: refuses the key ({status}); {remedy}"


def reason_of(error: Exception) -> str:
    """Why a connection failed, in a few words, which are in its innermost cause."""
    inner = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return " ".join(str(inner).split()) or type(inner).__name__
