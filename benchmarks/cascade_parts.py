"""What benchmarks/cascade.py puts around serve.py: a stand-in for both servers, and a bare proxy.

    python benchmarks/cascade_parts.py stand_in PORT
    python benchmarks/cascade_parts.py bare PORT URL

The stand-in answers at once, in the protocol's plainest form, so that it is not what is measured.
An input that begins with "hard" is one of which the student is not sure.
"""

import asyncio
import json
import math
import sys

HARD = "hard"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def reply_of(body: dict) -> dict:
    """What the stand-in answers: with a thought under a system message, else with `en`."""
    usage = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    if "prompt" in body:  # token ids, of which nobody sees whether they are hard
        logprobs = {"token_logprobs": [-0.01, 0.0]}
        choice = {"index": 0, "text": "", "token_ids": [70, 1], "logprobs": logprobs}
        return {**head, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}
    messages = body["messages"]
    message = {"role": "assistant", "content": "en"}
    if messages[0]["role"] == "system":
        message = {"role": "assistant", "reasoning": "Hm.", "content": "Final Answer: en"}
    sure = 0.4 if messages[-1]["content"].startswith(HARD) else 0.99
    places = [{"token": "en", "logprob": math.log(sure)}, {"token": "end", "logprob": 0.0}]
    choice = {"index": 0, "message": message, "logprobs": {"content": places}}
    return {**head, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}


class StandIn(asyncio.Protocol):
    """Reads requests of HTTP/1.1 with a Content-Length, and answers each."""

    def connection_made(self, transport):
        self.transport = transport
        self.waiting = b""

    def data_received(self, data):
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, _, rest = self.waiting.partition(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if len(rest) < length:
                return
            self.waiting = rest[length:]
            if head.startswith(b"GET"):
                model = {"id": "model", "object": "model", "owned_by": "vllm"}
                found = {"object": "list", "data": [{**model, "max_model_len": 4096}]}
            else:
                found = reply_of(json.loads(rest[:length]))
            content = json.dumps(found).encode()
            self.transport.write(HEAD % len(content) + content)


async def stand_in(port: int) -> None:
    """Serve the stand-in."""
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", port)
    await server.serve_forever()


def bare(port: int, url: str) -> None:
    """The least that stands between a client and a server: FastAPI and openai's client."""
    import openai
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

    app = FastAPI()
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

    @app.post("/v1/chat/completions")
    async def complete(request: Request):
        body = await request.json()
        reply = await client.chat.completions.with_raw_response.create(**body)
        return Response(reply.content, media_type="application/json")

    uvicorn.run(app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(int(sys.argv[2]), sys.argv[3])
    else:
        asyncio.run(stand_in(int(sys.argv[2])))
