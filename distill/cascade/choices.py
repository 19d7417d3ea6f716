"""What the flags of serve.py choose, for whoever works by it."""

from dataclasses import dataclass

from distill.cascade.asked import Limits
from distill.teacher.attempts import AttemptSettings
from distill.teacher.server import Server


@dataclass(frozen=True)
class Choices:
    """Which two servers are behind the URL, and how it is served."""

    student: Server
    student_max_tokens: int  # of an answer
    student_timeout: float  # seconds
    teacher: Server
    teacher_timeout: float  # seconds, of all attempts together
    settings: AttemptSettings  # how the teacher is asked
    task_file: str
    wait_for_servers: float  # seconds that they may take to be there

    adapter: str  # whose calibration.json is read, unless both values below are given
    temperature: float | None
    threshold: float | None
    when_teacher_fails: str
    max_handed_over: float  # share of the requests
    handed_over_file: str  # empty: nothing is kept

    host: str
    port: int  # 0: any that is free
    allowed_hosts: list[str]
    api_key_env: str  # empty: clients need no key
    served_name: str
    concurrency: int  # requests at once
    limits: Limits
