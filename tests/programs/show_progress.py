"""A progress bar, a log and an exit code of its own (7), on streams that outlive their readers."""

import logging
import sys

from tqdm import tqdm

from distill.streams import lasting_streams

lasting_streams()
logging.basicConfig()
for _ in tqdm(range(1000), desc="三", mininterval=0):
    logging.error("三")
    tqdm.write("三")
sys.exit(7)
