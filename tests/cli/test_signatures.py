"""A command is a function: what its signature and docstring say is its command line."""

import sys

import pytest

from tagger.cli import signatures
from tagger.text import TaggerError

SOURCE = '''
import dataclasses
from typing import Annotated, Literal

from tagger.options import Option, OptionsOf


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        rate: Rate in Hz; None: that of the file.
        fast: Skip silence.
    """

    rate: Annotated[int | None, Option(ge=1)] = None
    fast: bool = True


def cook(
    files: Annotated[list[str], Option(metavar="FILE")],
    *,
    level: Annotated[float, Option(gt=0, lt=1)] = 0.5,
    kind: Literal["mean", "max"] = "mean",
    names: tuple[str, ...] = (),
    counts: tuple[int, ...] = (1, 2),
    output: Annotated[
        str | None,
        Option(endings=(".csv", ".json"), writes=True, flag="--output --out"),
    ] = None,
    reading: Reading,
    further: Annotated[
        dict, OptionsOf("commands:further", chosen=True, owner="commands:owner")
    ],
    loud: bool = False,
    force: bool = False,
) -> dict:
    """Cooks files.

    Slowly.

    Args:
        files: Files to cook.
        level: Level, 100 % at most.
        kind: Kind of mean.
        names: Names.
        counts: Counts.
        output: Table.
        loud: Make noise.
        force: Overwrite.
    """
    given = {name: value for name, value in locals().items()}
    return given


def spice(*, grams: Annotated[int, Option(ge=1)] = 3, level: int = 1):
    """Spices.

    Args:
        grams: Weight.
    """


def further(given):
    from tagger import options

    if given.get("kind") == "max":
        return [options.read("commands:spice").only(["grams"])]
    return [options.read("commands:spice")] if given.get("loud") else []


def owner(flag):
    return "It goes with --kind max." if flag == "--grams" else ""
'''


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs cook with a line of arguments."""
    (tmp_path / "commands.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    signatures.options._module.cache_clear()
    signatures.options.read.cache_clear()
    yield lambda line: signatures.Command("x cook", "commands:cook").call(line.split())
    sys.modules.pop("commands", None)


def test_arguments_are_converted_and_defaults_are_those_of_the_function(run):
    found = run("a --level .25 b - --names c,d --counts 3,4 --rate 8 --no-fast")
    assert found["files"] == ["a", "b", "-"] and found["level"] == 0.25
    assert found["names"] == ["c", "d"] and found["counts"] == [3, 4]
    assert found["reading"].rate == 8 and found["reading"].fast is False
    assert found["kind"] == "mean" and found["output"] is None
    assert found["further"] == {} and found["force"] is False
    found = run('a --names "c' if False else "a --out x.csv --kind max --grams 5")
    assert found["output"] == "x.csv" and found["further"] == {"grams": 5}
    assert found["reading"].rate is None and found["counts"] == (1, 2)
    assert run("--level .5 -- -a --b")["files"] == ["-a", "--b"]
    assert run("a --level .5 -- -h")["files"] == ["a", "-h"]


def test_a_name_may_hold_a_comma(run):
    command = signatures.Command("x cook", "commands:cook")
    assert command.call(["a", "--names", '"c, d",e'])["names"] == ["c, d", "e"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "Give FILE."),
        ("a --level 1", "--level must be above 0 and below 1, not 1.0."),
        ("a --level nan", "--level must be above 0 and below 1, not nan."),
        ("a --level x", "--level must be a number, not 'x'."),
        ("a --level", "--level needs a value: X."),
        ("a --loud=1", "--loud takes no value."),
        ("a --kind mx", "--kind cannot be 'mx'. Did you mean max?"),
        ("a --kind zz", "--kind cannot be 'zz'. Available: mean, max."),
        ("a --lvel 1", "There is no option --lvel of x cook. Did you mean --level?"),
        ("a --grams 1", "no option --grams of x cook. It goes with --kind max."),
        ("a --kind max --grams 0", "--grams must be at least 1, not 0."),
        ("a --names=", "--names needs a value: A,B."),
        (
            "-b.csv",
            "no option -b.csv of x cook. Files whose names start with a dash go",
        ),
        ("a --ouput x.csv", "no option --ouput of x cook. Did you mean --output?"),
        ("--output -", "--output: '-' must end in .csv or .json."),
        ("a --num_counts 2", "There is no option --num_counts of x cook."),
        ("a --counts 1,b", "--counts must be a whole number, not 'b'."),
        ("a --output x.txt", "--output: 'x.txt' must end in .csv or .json."),
        ("a --output no/x.csv", "--output: cannot write 'no/x.csv': no such folder."),
        ("a --loud", "commands:spice has an option --level, which x cook has, too."),
    ],
)
def test_what_is_wrong_is_a_sentence(run, line, says):
    with pytest.raises(TaggerError) as error:
        run(line)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_no_output_replaces_an_input_or_by_accident(run, tmp_path):
    (tmp_path / "a.csv").write_text("labels")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    for output in ("a.csv", "./a.csv", "link.csv"):
        with pytest.raises(TaggerError, match="--output would replace .* also FILE"):
            run(f"a.csv --output {output} --force")
    with pytest.raises(FileExistsError, match="a.csv exists. Add --force to overwr"):
        run("b --output a.csv")
    assert run("b --output a.csv --force")["output"] == "a.csv"
    assert (tmp_path / "a.csv").read_text() == "labels"


def test_help_shows_what_the_source_says(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for line in ("-h", "a --kind max --help"):
        with pytest.raises(SystemExit) as ended:
            run(line)
        assert not ended.value.code
    first, second = capsys.readouterr().out.split("usage:")[1:]
    text = " ".join(first.split())
    for words in (
        "Cooks files. Slowly.",
        "--level X Level, 100 % at most (default: 0.5)",
        "--kind {mean,max} Kind of mean (default: mean)",
        "--counts A,B Counts (default: 1,2)",
        "--output FILE, --out FILE Table",
        "How files are read: --rate N Rate in Hz (default: that of the file)",
        "--no-fast Do not skip silence",
    ):
        assert words in text
    assert "--grams" not in text
    assert "Spices: --grams N Weight (default: 3)" in " ".join(second.split())


def test_an_option_is_one_parameter_and_one_line(run, tmp_path):
    source = SOURCE.replace("    loud: bool = False,\n", "    loud: bool = False,\n"
        "    salt: Annotated[int, Option(ge=0)] = 2,\n")  # fmt: skip
    source = source.replace(
        "        loud: Make", "        salt: Grams.\n        loud: Make"
    )
    (tmp_path / "commands.py").write_text(source)
    assert run("a")["salt"] == 2 and run("a --salt 4")["salt"] == 4
    with pytest.raises(TaggerError, match="--salt must be at least 0, not -1"):
        run("a --salt -1")
