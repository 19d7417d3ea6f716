"""The rows that predict.py writes: what the input file holds, and beside it what the student says.

A user with a table wants the table back with an answer in each row, so that nothing has to be
joined: all of the input's columns are kept, under their names and in their order, the id among
them, and rows stand in the order of the inputs. Of Parquet, columns that hold no text are not kept,
which console.py says. No torch, no vLLM.
"""

import json
from decimal import Decimal

from distill.chats import InputRow, has_columns, records
from distill.columns import Columns
from distill.input_files import FLAT, ending_of
from distill.labels.inputs import Inputs
from distill.prediction.calibrated import Used, confidence_of, is_unsure
from distill.prediction.table_files import INTEGER, JSON, NUMBER, TEXT, TRUTH, Column
from distill.task import Task

TEXT_COLUMN = "text"  # of the lines of a file without columns
# before the name of a column of ours that the input has too
PREFIX = "predicted_"
DIGITS = 6  # decimals of a confidence


def input_columns(path: str, columns: Columns, rows: int) -> list[str]:
    """The names of the columns of the first `rows` rows of an input file, in their order.

    Rows of JSON may have different ones.
    """
    if not has_columns(path):
        return [TEXT_COLUMN]
    names = {}
    for count, (_, row) in enumerate(records(path, columns.encoding), 1):
        for name in row:
            names[name] = None
        if count == rows or ending_of(path) in FLAT:  # whose rows have the same ones
            break
    return list(names)


def output_columns(of_input: list[str], task: Task, used: Used | None = None) -> list[Column]:
    """The columns of the output: the number of the input, its own ones, and the student's.

    With a calibration there is one more.
    """
    answer = JSON if task.schema else TEXT
    ours = {
        "answer": answer,
        "confidence": NUMBER,
        "valid": TRUTH,
        "reason": TEXT,
        "response": TEXT,
    }
    if used:
        ours["unsure"] = TRUTH
    found = [Column(free_name("index", of_input), INTEGER)]
    for name in of_input:
        found.append(Column(name))
    for name, kind in ours.items():
        found.append(Column(free_name(name, of_input), kind))
    return found


def free_name(name: str, taken: list[str]) -> str:
    """The name of a column of ours, with PREFIX as often as the input has it itself."""
    while name in taken:
        name = PREFIX + name
    return name


def cells_of(
    index: int, row: InputRow, record: dict, of_input: list[str], used: Used | None = None
) -> list:
    """The cells of one row, in the order of output_columns().

    `record` is the input's line of the journal, or that of the first input that is equal to it.
    """
    cells = [index]
    if row.cells is None:
        cells.append(row.messages[-1]["content"])
    else:
        for name in of_input:
            cells.append(kept(row.cells.get(name)))
    is_valid = record["answer"] is not None
    response = None
    if not is_valid and record["attempts"]:
        response = record["attempts"][-1]["response"]
    cells += [
        record["answer"],
        rounded_confidence(record, used),
        is_valid,
        record["reason"],
        response,
    ]
    if used:
        cells.append(is_unsure(record, used))
    return cells


def rounded_confidence(record: dict, used: Used | None) -> float | None:
    """The confidence of a row as files show it."""
    found = confidence_of(record, used)
    return None if found is None else round(found, DIGITS)


def kept(value) -> str | None:
    """A cell of the input as text, as it stands there; None for nothing, and for bytes."""
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=plain)
    return str(value)


def plain(value):
    """A value within a cell that JSON has no form for."""
    return float(value) if isinstance(value, Decimal) else str(value)


def columns_of(inputs: Inputs) -> list[str]:
    """The names of the columns of a run's inputs."""
    return input_columns(inputs.path, inputs.columns, len(inputs))
