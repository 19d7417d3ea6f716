"""The systems of step 3 that a server has: the teacher, the student, or both."""

from dataclasses import dataclass
from datetime import UTC, datetime

from distill.evaluation.systems import System
from distill.model_tokenizer import load_tokenizer
from distill.system import commit
from distill.teacher.http import HTTPTeacher
from distill.teacher.server import About, Server, ask_about


@dataclass(frozen=True)
class BehindURL:
    """A system behind a URL, and what its server has said of itself."""

    server: Server
    about: About

    def open(self, system: System) -> HTTPTeacher:
        """What asks it; whoever opens it closes it."""
        tokenizer = load_tokenizer(self.server.tokenizer) if self.server.tokenizer else None
        return HTTPTeacher(self.server, self.about, system.thinks, tokenizer)


def find_server(server: Server) -> BehindURL:
    """Ask a server about itself, and try the tokenizer that the flags name. Raises ValueError."""
    about = ask_about(server)
    if server.tokenizer:
        load_tokenizer(server.tokenizer)
    return BehindURL(server, about)


def measured_at(server: Server, served_by: str | None) -> dict:
    """Where and when a system was asked, and as what its server has answered."""
    return {
        "machine": f"the server at {server.host}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "served_by": served_by,
    }


def identity_of(server: Server) -> list:
    """What of a server decides a result, beside the model's name."""
    return [server.url, server.tokenizer, server.special_tokens]
