"""Imports without optional packages: hidden inside the block only, and without effect on images."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys

import pytest

from scedit_cli.utils.quick_start import quick_imports


def test_unused_packages_seem_not_to_be_installed_inside_the_block_only():
    assert "this" not in sys.modules
    with quick_imports("this", "json"):
        assert importlib.util.find_spec("this") is None and not gc.isenabled()
        with pytest.raises(ImportError):
            import this  # noqa: F401
        assert importlib.util.find_spec("json")  # which is imported already
    assert importlib.util.find_spec("this") and gc.isenabled()


def test_an_error_inside_the_block_hides_nothing_for_longer():
    with pytest.raises(ValueError), quick_imports("this"):
        raise ValueError
    assert importlib.util.find_spec("this") and gc.isenabled()


PROGRAM = """
import sys
sys.argv[1:] = ["generate", "-p", "a red cube", "--steps", "1", "--out", "new.png", "--quiet"]
from scedit_cli.cli import app
try:
    app()
except SystemExit as end:
    unused = "bitsandbytes", "onnxruntime", "peft", "scipy", "sklearn", "torchao", "torchvision"
    print(end.code, *sorted({*unused} & {*sys.modules}))
import scipy, sklearn
"""


def test_generate_imports_no_optional_package_and_draws_the_same(tmp_path):
    """Nor scikit-learn, which some releases of transformers import where it is installed, and which needs scipy."""
    other = tmp_path / "installed"
    (other / "scikit_learn-1.0.dist-info").mkdir(parents=True)
    (other / "scikit_learn-1.0.dist-info" / "METADATA").write_text("Name: scikit-learn\nVersion: 1.0\n")
    (other / "sklearn.py").write_text("import scipy.sparse\n")
    found = os.environ | {"PYTHONPATH": os.pathsep.join([str(other), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=found, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")

    from PIL import Image

    from scedit_cli.inference.sampler import sample
    from scedit_cli.models.base import load_base

    base = load_base()
    drawn = sample(base, ["a red cube"], seeds=[0], steps=1)[0]
    assert Image.open(tmp_path / "new.png").tobytes() == drawn.tobytes()
