"""Prints the commit of a model's main revision: resolve_revision.py MODEL"""

import sys

from distill.revisions import resolve

print(resolve(sys.argv[1]))
