from __future__ import annotations

import subprocess
import sys

import pytest

import scedit_cli


def test_importing_the_package_is_light():
    code = (
        "import sys, scedit_cli; dir(scedit_cli); scedit_cli.SceditError; scedit_cli.__version__;"
        "print({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stdout + answer.stderr


def test_public_names_are_all_there():
    for name in scedit_cli.__all__:
        assert getattr(scedit_cli, name) is not None
        assert name in dir(scedit_cli)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scedit_cli.nothing
