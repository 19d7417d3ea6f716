"""A bar of ours over three seconds and one of a library over less, as a script shows them."""

import time

from distill.quiet import leave_out_noise

leave_out_noise()

from tqdm import tqdm  # noqa: E402, it reads the environment

from distill.progress import bar  # noqa: E402
from distill.streams import lasting_streams  # noqa: E402

lasting_streams()
for _ in tqdm(range(3), desc="library"):
    pass
steps = bar(range(300), desc="working", unit="step")
for _ in steps:
    time.sleep(0.01)
    steps.set_postfix_str("end", refresh=False)
