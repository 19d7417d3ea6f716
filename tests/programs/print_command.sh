#!/usr/bin/env bash
# In place of Python: writes what it was told to do, and its environment, into the folder PRINTED.
printf '%s\0' "$@" >"$PRINTED/arguments"
env -0 >"$PRINTED/environment"
