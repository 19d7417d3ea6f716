"""A stand-in for a server of the OpenAI protocol on loopback, which misbehaves as it is told.

    with LoopbackTeacher(answer) as server:
        python("create_data.py", "--teacher_url", server.url, "--model_name", "teacher", ...)

`answer` makes the message of a reply out of the input, the last user message. `faults` gives an
input's first replies something else: a name of FAULTS, or None for a good one. It keeps every
request, by input.
"""

import json
import threading
import time
from collections import Counter, defaultdict
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

from loopback import Loopback

KEY = "sk-of-the-test-0123456789"
MODEL = "teacher"
# what a fault does: status, headers, body; the others are in Handler.misbehave()
REFUSALS = {
    "429": (
        429,
        {"Retry-After": "0.05"},
        {"error": {"message": "slow down", "code": "rate_limit"}},
    ),
    "429 ms": (429, {"retry-after-ms": "50"}, {"error": {"message": "slow down"}}),
    "429 bare": (429, {}, {"error": {"message": "slow down"}}),
    "500": (500, {}, {"error": {"message": "it broke"}}),
    "503": (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "<html>busy</html>"),
    "tomorrow": (429, {"Retry-After": "86400"}, {"error": {"message": "come back tomorrow"}}),
    "quota 400": (400, {}, {"error": {"message": "no money", "type": "insufficient_quota"}}),
    "schema": (400, {}, {"error": {"message": "not supported", "param": "response_format"}}),
    "no room": (
        400,
        {},
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, you "
                "requested 4200 tokens (104 in the messages, 4096 in the completion)."
            }
        },
    ),
    "quota": (429, {}, {"error": {"message": "no money", "code": "insufficient_quota"}}),
    "key": (401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
    "unknown": (404, {}, {"error": {"message": "The model does not exist"}}),
    "too long": (
        400,
        {},
        {"error": {"message": "This model's maximum context length is 8 tokens", "code": None}},
    ),
    "too long for llama.cpp": (
        400,
        {},
        {
            "error": {
                "message": "9000 tokens are more than the context size (4096 tokens)",
                "type": "exceed_context_size_error",
                "code": 400,
                "n_ctx": 4096,
            }
        },
    ),
    "too long behind LiteLLM": (
        400,
        {},
        {
            "error": {
                "message": 'litellm: its server says {"message": "the maximum context length is 8'
                ' tokens", "param": "input_tokens"}; model group teacher, no fallback',
                "type": "invalid_request_error",
                "param": None,
                "code": "400",
            }
        },
    ),
    "LiteLLM without a database": (
        400,
        {},
        {"error": {"message": "no db", "type": "no_db_connection", "param": None, "code": "400"}},
    ),
    "refused": (400, {}, {"error": {"message": "we do not talk about that"}}),
}


# what a server has beside an answer, as (token, log-probability); ANSWER stands for all of its text
ANSWER = "ANSWER"
LOGPROBS = {
    "whole": [(ANSWER, -0.25), ("<|im_end|>", -0.05)],
    "without the end": [(ANSWER, -0.25)],
    "not known": [(ANSWER, -9999.0), ("<|im_end|>", -0.05)],
}


class LoopbackTeacher(Loopback):
    """The server; `stop` makes it unreachable and `start` brings it back at the same address."""

    def __init__(
        self, answer, faults=None, models=(MODEL,), usage=True, served_by=MODEL, logprobs=None
    ):
        self.answer = answer
        # of an answer's tokens: a name of LOGPROBS, "refused", or None for a server without them
        self.logprobs = logprobs
        self.faults = {text: list(each) for text, each in (faults or {}).items()}
        self.models = models  # None: it has no list of models
        self.usage = usage
        self.served_by = served_by
        self.wants_other_name = False  # for the limit of tokens
        self.takes_top_p = True
        self.bodies = defaultdict(list)  # what was asked, by input
        self.keys = set()  # that came with requests
        self.answered = Counter()  # good replies, by input
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def requests(self):
        """How many requests each input has had."""
        return Counter({text: len(bodies) for text, bodies in self.bodies.items()})


class Handler(BaseHTTPRequestHandler):
    owner: LoopbackTeacher
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, headers=None, kind="application/json"):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.owner.models is None:
            self.reply(404, {"detail": "Not Found"})
            return
        if self.headers["Authorization"] == "Bearer wrong":
            self.reply(401, {"error": {"message": "no such key"}})
            return
        listed = [{"id": name, "object": "model"} for name in self.owner.models]
        self.reply(200, {"object": "list", "data": listed})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.owner.lock:
            self.owner.bodies[text].append(body)
            self.owner.keys.add(self.headers["Authorization"])
            self.owner.at_once += 1
            self.owner.most_at_once = max(self.owner.most_at_once, self.owner.at_once)
            waiting = self.owner.faults.get(text)
            fault = waiting.pop(0) if waiting else None
        try:
            if fault is None:
                self.complete(text, body)
            else:
                self.misbehave(fault, text, body)
        except OSError:
            self.close_connection = True  # the client did not want to wait
        finally:
            with self.owner.lock:
                self.owner.at_once -= 1

    def complete(self, text, body, **changes):
        if self.owner.wants_other_name and "max_tokens" in body:
            message = "Unsupported parameter: use 'max_completion_tokens' instead."
            self.reply(400, {"error": {"message": message, "param": "max_tokens"}})
            return
        if not self.owner.takes_top_p and "top_p" in body:
            time.sleep(0.2)  # meanwhile others go out that are sent with it too
            self.reply(400, {"error": {"message": "not supported", "param": "top_p"}})
            return
        with_logprobs = body.get("logprobs") and self.owner.logprobs
        if with_logprobs == "refused":
            message = "You are not allowed to request logprobs from this model"
            self.reply(403, {"error": {"message": message}})
            return
        with self.owner.lock:
            self.owner.answered[text] += 1
        found = self.completion(text)
        if with_logprobs:
            [choice] = found["choices"]
            choice["logprobs"] = self.logprobs_of(choice["message"]["content"])
        self.reply(200, {**found, **changes})

    def logprobs_of(self, content):
        places = []
        for token, value in LOGPROBS[self.owner.logprobs]:
            token = content if token == ANSWER else token
            places.append({"token": token, "logprob": value, "bytes": list(token.encode())})
        return {"content": places}

    def completion(self, text):
        message = self.owner.answer(text)
        reason = message.pop("finish_reason", "stop")
        chosen = message.pop("logprobs", None)  # of each token, the end of turn included
        found = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": self.owner.served_by,
            "choices": [
                {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
            ],
        }
        if chosen is not None:
            # the answer is the first token, and the last one its end
            spelled = [message["content"], *[""] * (len(chosen) - 2), "<|im_end|>"]
            places = []
            for token, value in zip(spelled, chosen, strict=False):
                places.append({"token": token, "logprob": value})
            found["choices"][0]["logprobs"] = {"content": places}
        if self.owner.usage:
            found["usage"] = {
                "prompt_tokens": 50,
                "completion_tokens": 7 if chosen is None else len(chosen),
                "prompt_tokens_details": {"cached_tokens": 40},
            }
        return found

    def misbehave(self, fault, text, body):
        if fault in REFUSALS:
            status, headers, content = REFUSALS[fault]
            self.reply(status, content, headers)
        elif fault == "429 date":  # the next second but one, which is the least that can be said
            again = formatdate(time.time() + 2, usegmt=True)
            self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": again})
        elif fault == "half":  # the connection is closed in the middle of a reply
            content = json.dumps(self.completion(text)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif fault == "closed":
            self.close_connection = True
        elif fault == "no JSON":
            self.reply(200, "{'choices': [")
        elif fault == "HTML":
            self.reply(200, "<html>welcome</html>", kind="text/html")
        elif fault == "no choices":
            self.complete_nothing()
        elif fault == "slow":
            time.sleep(3)
            self.complete(text, body)
        elif fault == "other model":
            self.complete(text, body, model="another-model")
        else:
            raise ValueError(fault)

    def complete_nothing(self):
        self.reply(200, {"object": "chat.completion", "model": MODEL, "choices": []})


LoopbackTeacher.handler = Handler
