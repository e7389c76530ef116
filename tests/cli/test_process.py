"""How commands report what went wrong."""

import sys
import warnings

import numpy as np
import pytest

from tagger.cli import process
from tagger.text import TaggerError


def ended(main, monkeypatch, capsys):
    """Returns the exit code of a command, and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tagger"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        monkeypatch.setattr(stream, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit) as error:
        process.run(main)
    return error.value.code, capsys.readouterr().err


def test_a_sentence_for_users_names_options_as_a_command_line_does(monkeypatch, capsys):
    def main():
        raise TaggerError("Too large. Choose `batch_size=` or `precision=bfloat16`.")

    said = "tagger: Too large. Choose --batch-size or --precision bfloat16.\n"
    assert ended(main, monkeypatch, capsys) == (2, said)


def test_what_is_no_fault_of_the_user_shows_where_it_happened(monkeypatch, capsys):
    with pytest.raises(ValueError, match="could not be broadcast"):
        ended(lambda: np.zeros(3) + np.zeros(4), monkeypatch, capsys)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    def main():
        raise ModuleNotFoundError(
            "No module named 'sklearn'", name="sklearn.linear_model"
        )

    code, said = ended(main, monkeypatch, capsys)
    assert code == 2 and "needs sklearn" in said and "'.[fit]'" in said
