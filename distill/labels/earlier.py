"""What earlier runs of step 1 have left of an output, and whether a run may go on with it."""

from dataclasses import dataclass
from pathlib import Path

from distill.labels.changes import ASKING, Change, changes_between, has, in_words
from distill.locks import journals_of, own_journal
from distill.next_step import manifest_of
from distill.outputs import first_header

# what --reuse takes
SAME = "same"
CHANGED = "changed"
AFRESH = "--overwrite starts afresh"


@dataclass(frozen=True)
class Earlier:
    """What earlier runs have left of an output, compared with the run of today."""

    output: Path
    exists: bool  # the output
    has_manifest: bool
    same_ids: bool  # the output was written with the ids that the inputs have
    has_journal: bool
    made: list[Change]  # since the output was written, as its manifest says
    begun: list[Change]  # since its journals were begun

    @property
    def is_ours(self) -> bool:
        """Whether the output is there and today's run would have written it."""
        return self.exists and self.has_manifest and not self.made


def look_back(output: Path, header: dict, ids: str | None) -> Earlier:
    """Find what there is of an output.

    `header` is that of today's run, and `ids` Inputs.ids_sha256().
    """
    begun = []
    has_journal = False
    for before in first_headers(output):
        has_journal = True
        begun += [change for change in changes_between(before, header) if change not in begun]
    exists = output.exists()
    manifest = manifest_of(str(output)) if exists else {}
    made = {key: manifest[key] for key in header if key in manifest}
    return Earlier(
        output,
        exists=exists,
        has_manifest=bool(made),
        same_ids=manifest.get("ids") == ids,
        has_journal=has_journal,
        made=changes_between(made, header) if made else [],
        begun=begun,
    )


def first_headers(output: Path) -> list[dict]:
    """The first header of each journal of an output that has one.

    Without a lock, another run may just make one journal of several, or remove the empty one that
    it was refused with. Then what is there is looked at again.
    """
    while True:
        try:
            found = [first_header(path) for path in journals_of(output)]
        except FileNotFoundError:
            continue
        return [header for header in found if header is not None]


def stays_finished(earlier: Earlier, reuse: str, skip_finished: bool) -> bool:
    """Whether the output is finished and nothing is to be done.

    Raises ValueError, in one line that names the flag which would help, if without one (`reuse` is
    empty) the run may not go on with what is there, or if `reuse` is not enough.
    """
    if earlier.is_ours and earlier.begun and (reuse or skip_finished):
        return True  # its journal is that of a run with other flags, which may go on
    if reuse:
        if earlier.is_ours and earlier.same_ids and skip_finished:
            return True
        check_reuse(earlier, reuse)
        return False
    if earlier.exists and not earlier.has_manifest and earlier.has_journal and not earlier.begun:
        return False  # a run that was killed before its manifest was there writes all of it again
    if earlier.exists and not earlier.made and (earlier.has_manifest or not earlier.begun):
        if skip_finished:
            return True
        refuse_finished(earlier)
    refuse_another_run(earlier)
    return False  # what --reuse has begun goes on


def check_reuse(earlier: Earlier, reuse: str) -> None:
    """Raise ValueError if there is nothing to reuse, or more than `reuse` says has changed."""
    output = earlier.output
    if earlier.exists and not earlier.has_journal:
        raise ValueError(f"{output}: there is no journal beside it to reuse; {AFRESH}")
    if has(earlier.begun, ASKING) and reuse != CHANGED:
        raise ValueError(
            f"{output}: {in_words(earlier.begun)}, so answers may change; {remedy(earlier)}"
        )


def refuse_finished(earlier: Earlier) -> None:
    """Raise ValueError for an output that is finished, and was made as the flags say."""
    if earlier.has_manifest and not earlier.same_ids:
        raise ValueError(
            f"{earlier.output}: exists and is finished, with other ids than those of the inputs; "
            f"--reuse same writes it anew from its journal, {AFRESH}"
        )
    raise ValueError(f"{earlier.output}: exists and is finished; --overwrite replaces it")


def refuse_another_run(earlier: Earlier) -> None:
    """Raise ValueError if the output or its journal is of a run with other flags or inputs."""
    output = earlier.output
    if earlier.exists and (earlier.begun or not earlier.has_journal):
        changes = earlier.begun or earlier.made
        raise ValueError(
            f"{output}: exists and is finished, but {in_words(changes)}; {remedy(earlier)}"
        )
    if earlier.begun:
        raise ValueError(
            f"{own_journal(output)}: is of another run, {in_words(earlier.begun)}; "
            f"{remedy(earlier)}"
        )


def remedy(earlier: Earlier) -> str:
    """The flags that help."""
    if not earlier.has_journal:
        return AFRESH
    if has(earlier.begun, ASKING):
        return f"--reuse changed asks all anew and lists the labels that change, {AFRESH}"
    return f"--reuse same keeps the answers that still hold, {AFRESH}"
