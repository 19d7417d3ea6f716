"""What of an adapter's directory decides its answers. No torch, no vLLM."""

import hashlib
from pathlib import Path

# a merged copy takes the tokenizer from there
ADAPTER_FILES = (
    "adapter_*",
    "tokenizer*",
    "chat_template*",
    "special_tokens*",
    "added_tokens*",
    "vocab*",
    "merges*",
)


def adapter_identity(adapter: str | Path) -> str:
    """sha256 of the contents of an adapter's config, weights and tokenizer."""
    total = hashlib.sha256()
    paths = {
        path for pattern in ADAPTER_FILES for path in Path(adapter).glob(pattern) if path.is_file()
    }
    for path in sorted(paths):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()
