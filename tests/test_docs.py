"""What the documents say of files that are here: links lead somewhere, tables of flags are those of
the scripts.
"""

import re
import sys

import pytest

import create_data
import evaluate
import merge_adapter
import predict
import report
import serve
from helpers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
from make_options import OPTIONS, parser_of, write_tables  # noqa: E402

README = ROOT / "README.md"
TOP_LEVEL = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BENCHMARKS = [ROOT / "benchmarks" / "RESULTS.md", ROOT / "benchmarks" / "LOG.md"]
PAGES = [*TOP_LEVEL, *BENCHMARKS, *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(page):
    """A page's text without its code blocks, in which # is a comment."""
    return FENCED.sub("", page.read_text("utf-8"))


def anchors(page):
    """What a link to a heading may name: its words in lower case, joined by hyphens, without
    punctuation.
    """
    found = []
    for heading in re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.append(words.replace(" ", "-"))
    return found


def links(page):
    """The page's links to files of the repository, as (file, anchor)."""
    found = []
    for target in LINK.findall(without_code(page)):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            found.append((path, anchor))
    return found


def commands(page):
    """The lines of a page's shell blocks."""
    lines = []
    for language, block in FENCED.findall(page.read_text("utf-8")):
        if language == "bash":
            lines += block.replace("\\\n", " ").splitlines()
    return lines


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_files_and_headings(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: no file {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: no heading #{anchor} in {target.name}"


def test_a_newcomer_reads_the_readme_in_five_minutes():
    assert len(README.read_text("utf-8").splitlines()) <= 250


def test_the_readme_leads_to_each_page_once():
    targets = [path for path, _ in links(README)]
    pages = [*TOP_LEVEL[1:], *BENCHMARKS, *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        assert targets.count(str(page.relative_to(ROOT))) == 1, page.name


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_name_scripts_that_are_there(page):
    for line in commands(page):
        for script in re.findall(r"(?:^|\s)([\w./-]+\.(?:py|sh|sbatch))\b", line):
            assert (ROOT / script).is_file(), f"{page.name}: {line}"


def test_commands_of_the_readme_have_flags_that_are_documented():
    documented = "".join(
        (ROOT / "docs" / name).read_text("utf-8") for name in ("options.md", "training_flags.md")
    )
    for line in commands(README):
        for flag in re.findall(r"\s(--\w+)", line):
            assert f"`{flag}`" in documented, line


def test_the_tables_of_flags_are_those_of_the_scripts(tmp_path):
    text = OPTIONS.read_text("utf-8")
    emptied = re.sub(r"(<!-- flags of .+? -->\n).*?(<!-- end)", r"\1\2", text, flags=re.DOTALL)
    copy = tmp_path / "options.md"
    copy.write_text(emptied, "utf-8")
    assert "`--num_samples`" not in emptied
    write_tables(copy)
    assert copy.read_text("utf-8") == text, "run python docs/make_options.py"


def test_every_module_has_its_line_in_the_map():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for module in (ROOT / "distill").rglob("*.py"):
        if module.name != "__init__.py":
            assert f"`{module.name}`" in text, (
                f"CONTRIBUTING.md does not say what {module.relative_to(ROOT)} is"
            )


@pytest.mark.parametrize(
    "read_flags",
    [
        create_data.parse_args,
        evaluate.parse_args,
        predict.parse_args,
        serve.parse_args,
        merge_adapter.main,
        report.main,
    ],
)
def test_flags_have_two_spellings(read_flags):
    for action in parser_of(read_flags)._actions:
        for flag in action.option_strings:
            if flag.startswith("--"):
                assert "--" + flag[2:].replace("_", "-") in action.option_strings
