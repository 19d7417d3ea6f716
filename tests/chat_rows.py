"""Rows of chats as files of labels and gold hold them, for tests."""

import json


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(question, answer, **more):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        **more,
    }
