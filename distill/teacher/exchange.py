"""One request to a server of the OpenAI protocol: how it is put, and how its reply is read.

vLLM's server is given token ids where the tokenizer is known, so that what an input spells stays
text; others are given the chat. When to ask, and what to do about failures, is the callers'.
"""

import json
import logging
from dataclasses import dataclass

from distill.model_tokenizer import ids_or_reason
from distill.teacher.base import Completion, Prompt, Sampling
from distill.teacher.bodies import chat_log_probabilities, schema_format, vllm_body
from distill.teacher.refusals import parameter_of, refuses_logprobs
from distill.teacher.reply import read_chat, read_text
from distill.teacher.server import ASK, NO_KEY, VLLM, About, Server
from distill.teacher.spelled import spells_special
from distill.teacher.written import text_of, thinking_tokens
from distill.tokens import think_end_id

log = logging.getLogger("create_data")
SPECIAL_TOKEN = "special_token"  # a reason in the journal


@dataclass(frozen=True)
class Learned:
    """What of a request servers want differently."""

    length_name: str  # of its limit of tokens
    with_top_p: bool
    with_logprobs: bool


class Exchange:
    """How one server is spoken to; it learns what the server wants otherwise.

    `about` is what the server has said of itself. `thinks`: its answers follow a thought.
    `tokenizer` is its model's own, None where it is not named.
    """

    def __init__(
        self,
        server: Server,
        about: About,
        thinks: bool,
        tokenizer=None,
    ):
        import openai

        self.server = server
        self.about = about
        self.thinks = thinks
        self.tokenizer = tokenizer
        self.by_ids = tokenizer is not None and about.kind == VLLM
        self.think_end = think_end_id(tokenizer) if self.by_ids and thinks else None
        self.length_name = "max_tokens"  # until the server wants another one
        self.takes_top_p = True  # until it says otherwise
        self.takes_logprobs = True
        # its own retries are off: whoever asks counts every request that was answered
        self.client = openai.AsyncOpenAI(
            base_url=server.url,
            api_key=server.key,
            max_retries=0,
            timeout=server.request_timeout,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    def prompt_of(self, chat: list[dict]) -> Prompt:
        """A chat as token ids for vLLM's server, or as it is.

        One that spells a special token which the server would take for one has a problem.
        """
        if self.by_ids:
            longest = self.about.context
            ids, problem = ids_or_reason(self.tokenizer, chat, longest or 2**31)
            room = None if longest is None else longest - len(ids)
            return Prompt(ids, len(ids), room, problem)
        problem = None
        if self.server.special_tokens != ASK and spells_special(chat, self.tokenizer):
            problem = SPECIAL_TOKEN
        return Prompt(chat, tokens=0, problem=problem)

    def able(self, sampling: Sampling) -> Sampling:
        """What of a sampling the server can do; vLLM's all, others what the protocol has."""
        if self.about.kind == VLLM:
            return sampling
        return sampling.without("loop", "top_k", "thinking_budget", "guard")

    async def ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """One completion, asked for once. Raises openai's errors, and ValueError (BadReply)."""
        return self._read(await self._send(prompt, sampling))

    def settings_sent(self) -> Learned:
        """How a request is sent now, for learned_from(): others may teach meanwhile."""
        return Learned(self.length_name, self.takes_top_p, self.takes_logprobs)

    def learned_from(self, error, sent_as: Learned) -> bool:
        """Whether a refusal says what the server wants otherwise, so that it is asked so.

        `sent_as` says how this request was sent; what was sent with it may have taught the same.
        """
        if sent_as.with_logprobs and refuses_logprobs(error):
            self.takes_logprobs = False
            return True
        if error.status_code != 400 or self.by_ids:
            return False
        wanted = "max_completion_tokens"
        if wanted in error.message and sent_as.length_name != wanted:
            self.length_name = wanted
            return True
        if parameter_of(error) == "top_p" and sent_as.with_top_p:
            if self.takes_top_p:
                script = self.server.flags.script
                log.warning("%s: the server takes no top_p; retries are sent without it", script)
            self.takes_top_p = False
            return True
        return False

    def without_key(self, text: str) -> str:
        """What a server has said, without the key, on one line."""
        if self.server.key != NO_KEY:
            text = text.replace(self.server.key, "KEY")
        return " ".join(text.split())

    async def _send(self, prompt: Prompt, sampling: Sampling) -> object:
        """The server's reply, from JSON. Raises openai's errors, and ValueError for no JSON."""
        # not by the client's methods of each parameter, which look at every token id of a prompt:
        # 40 ms of a core for 2,300 of them
        path = "/completions" if self.by_ids else "/chat/completions"
        reply = await self.client.post(path, cast_to=object, body=self._body(prompt, sampling))
        # the client parses what its server calls JSON
        return json.loads(reply) if isinstance(reply, str) else reply

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict:
        """What a request holds."""
        body = {"model": self.server.model, "temperature": sampling.temperature}
        if self.about.kind == VLLM:
            body.update(vllm_body(sampling))
        if sampling.top_p is not None and self.takes_top_p:
            body["top_p"] = sampling.top_p
        with_logprobs = sampling.logprobs is not None and self.takes_logprobs
        if self.by_ids:
            body["prompt"] = prompt.content
            body["max_tokens"] = sampling.max_tokens
            body["return_token_ids"] = True
            if with_logprobs:
                body["logprobs"] = sampling.logprobs
            return body
        body["messages"] = prompt.content
        body[self.length_name] = sampling.max_tokens
        if with_logprobs:
            if self.about.kind == VLLM:  # they tell whether the end of turn is among them
                body["return_token_ids"] = True
            body.update(chat_log_probabilities(sampling.logprobs))
        if sampling.json_schema is not None and self.about.kind != VLLM:
            body["response_format"] = schema_format(sampling.json_schema)
        return body

    def _read(self, body: object) -> Completion:
        """The completion in a reply."""
        if not self.by_ids:
            return read_chat(body, self.thinks)
        found = read_text(body, lambda ids, finish: text_of(self.tokenizer, ids, finish))
        if self.think_end is not None:
            found.thinking_tokens = thinking_tokens(found.token_ids, self.think_end)
        return found
