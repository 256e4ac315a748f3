"""How tests run commands and take what they say."""

import pytest

from fastgen.cli import main

VAE = ["train", "vae", "--hidden", "8", "--latent", "2", "--limit", "60", "--samples", "0"]
"""A run of a moment; epochs and folder are for the test to say."""


def said(capsys: pytest.CaptureFixture, *arguments: object, code: int = 0) -> str:
    """What a command says, of one that ends with ``code``."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Run a command that must fail with one line on stderr; return that line."""
    err = said(capsys, *arguments, code=2)
    assert err.startswith("fastgen: ")
    assert err.count("\n") == 1
    return err
