"""The commands as a user types them: what they print, and how they fail."""

import argparse
import contextlib
import dataclasses
import inspect
import io
import json
import re
import shutil
import sys
import time
import typing

import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCES, build_corpus, fails, run_process

import tagger
from tagger import audio, cli, models
from tagger.cli import process, training
from tagger.cli.arguments import check_types
from tagger.inference import embeddings
from tagger.training import recipes, tasks, trainer

SCRIPTS = (
    "build_mtt.py", "build_msd.py", "train.py", "eval.py", "extract_excitations.py"
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_the_help_of_its_command(script):
    """Starts a process for each; test_architecture.py checks what they import."""
    done = run_process(script, "--help")
    assert done.returncode == 0 and "--data-dir" in done.stdout
    assert done.stdout.startswith(f"usage: {script}")


def test_every_command_has_help_and_a_version(capsys):
    for arguments in (
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in cli.COMMANDS),
    ):
        with contextlib.suppress(SystemExit):  # as argparse ends with code 0
            cli.main(arguments)
    out = " ".join(capsys.readouterr().out.split())
    assert f"tagger {tagger.__version__}" in out
    assert all(command.help in out for command in cli.COMMANDS.values())


def test_train_has_every_option_of_the_original(run_script):
    text = run_script("train.py", "--help").stdout
    listed = re.split(r"\n  (?=-)", text.partition("original train.py")[2])[1:]
    # Of resemul's train.py; None: it has no default there.
    defaults = {
        "--data-dir": "./dataset", "--train-dir": "./log", "--block": "se",
        "--no-multi": None, "--alpha": "16", "--batch-size": "23", "--momentum": "0.9",
        "--lr": "0.01", "--lr-decay": "0.2", "--dropout": "0.5",
        "--weight-decay": "0.0", "--initial-stage": "0", "--patience": "2",
        "--num-lr-decays": "5", "--num-audios-per-shard": None,
        "--num-segments-per-audio": None, "--num-read-threads": None,
    }  # fmt: skip
    assert len(listed) > len(defaults)
    for (option, default), line in zip(defaults.items(), listed, strict=False):
        line = " ".join(line.split())
        assert line.startswith(f"{option} "), (option, line)
        assert f"(default: {default or ''}" in line


@pytest.mark.parametrize(
    ("architecture", "model", "front_end", "back_end"),
    [
        ("pons_won", "self_attention", "pons", "attention"),
        ("pons_pons", "self_attention", "pons", "cnn"),
        ("lee_won", "self_attention", "lee", "attention"),
        ("lee_lee", "sample_cnn_lee", None, None),
    ],
)
def test_train_knows_the_architectures_of_won_2019(
    architecture, model, front_end, back_end, monkeypatch, corpus, run_script
):
    run_script("build_mtt.py", "--data-dir", corpus, "--sample-rate", "16000")
    asked = []
    monkeypatch.setattr(
        trainer, "train", lambda task, model, recipe, *_: asked.append(
            (model.build(None, 10), model.options, recipe)
        )
    )  # fmt: skip
    run_script("train.py", "--data-dir", corpus, "--architecture", architecture)
    ((built, options, recipe),) = asked
    assert built.name == model and recipe == recipes.RECIPES["won2019"]
    assert options.get("front_end", "pons") == (front_end or "pons")
    assert options.get("back_end", "attention") == (back_end or "attention")
    if model == "sample_cnn_lee":  # solver.py of the original: 64 … 512 channels
        assert built.get_layer("block10_conv").filters == 512


@pytest.mark.parametrize("name", models.MODELS)
def test_help_states_the_defaults_of_the_model_at_hand(name, run_script):
    text = " ".join(run_script("train.py", "--model", name, "-h").stdout.split())
    entry = models.entry(name)
    batch_size = recipes.RECIPES[entry.recipe].batch_size
    assert f"segments per batch (default: {batch_size})" in text
    rate = inspect.signature(entry.factory).parameters["dropout_rate"].default
    assert f"dropout rate (default: {rate})" in text
    assert ("--block " in text.partition("options: -h")[2]) == (name == "sample_cnn")


@pytest.mark.parametrize(
    ("arguments", "batch_size"),
    [
        ("-h --model musicnn", 16),
        ("--teacher student -h", 64),
        ("--from student -h", 16),
        ("--architecture lee_lee -h", 16),
        ("--recipe resemul --model musicnn -h", 23),
    ],
)
def test_help_knows_the_recipe_that_the_command_would_run(
    arguments, batch_size, run_script
):
    done = run_script("train.py", *arguments.split())
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert f"segments per batch (default: {batch_size})" in text
    is_described = "dropout rate (default:" in text
    assert is_described == ("--from" not in arguments)  # the base has its own


@pytest.mark.parametrize("name", models.MODELS)
def test_default_options_are_those_of_the_factory(name):
    parameters = inspect.signature(models.entry(name).factory).parameters.values()
    assert models.default_options(name) == {
        p.name: p.default for p in parameters if p.name not in ("num_tags", "tags")
    }


def parsed(*arguments):
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    training.add_train(parser)
    return parser.parse_args(arguments)


def test_options_of_train_belong_to_a_model_or_a_recipe():
    """The parser lists them again, because --help must not import Keras."""

    args = parsed()
    of_models = {
        name
        for entry in models.MODELS.values()
        for name in inspect.signature(entry.factory).parameters
    }
    assert set(args.model_options.flags) <= of_models
    known = {n for one in recipes.RECIPES.values() for n in recipes.settings(one)}
    for group in (args.recipe_options, args.common_options):
        assert set(group.flags) <= known
    kinds = tasks.NoisyStudent, tasks.Distillation
    fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    assert set(args.student_options.flags) <= fields | {"student", "rounds"}


def test_an_option_that_the_model_lacks_is_named_with_those_it_has():
    args = parsed("--block", "res", "--no-multi")
    options = list(models.default_options("sample_cnn"))
    values = args.model_options.values(options, args, "it")
    assert values == {"block": "res", "multi": False}
    options = list(models.default_options("fcn"))
    with pytest.raises(ValueError, match="--block is not an option of model fcn. Avai"):
        args.model_options.values(options, args, "model fcn")


@pytest.mark.parametrize("name", models.MODELS)
def test_every_option_that_models_lists_can_be_set(name):
    for option, default in models.default_options(name).items():
        args = parsed("--set", f"{option.replace('_', '-')}={default!r}")
        known = list(models.default_options(name))
        values = args.model_options.values(known, args, name, dict(args.settings))
        assert values == {option: default}
    with pytest.raises(ValueError, match="--set widht is not an option of"):
        args.model_options.values(known, args, name, {"widht": 3})


@pytest.mark.parametrize(
    ("name", "value"), [("width", "abc"), ("width", 2.5), ("width", True), ("kind", 3)]
)
def test_settings_have_the_types_of_their_defaults(name, value):
    defaults = {"width": 8, "rate": 0.5, "kind": "a", "filters": (1, 2), "any": None}
    good = {"width": 9, "rate": 1, "kind": "b", "filters": [3], "any": "x", "new": 1}
    check_types(good, defaults)
    with pytest.raises(ValueError, match=f"--set {name}={value} must be of type"):
        check_types({name: value}, defaults)


def test_settings_are_python_values_or_text(capsys):
    settings = [("block", "rese"), ("filters", (1, 2)), ("multi", False)]
    written = ["block=rese", "filters=(1, 2)", "multi=False"]
    args = parsed(*(word for one in written for word in ("--set", one)))
    assert args.settings == settings
    with pytest.raises(SystemExit):
        parsed("--set", "width")
    assert "'width' is not NAME=VALUE" in capsys.readouterr().err


def test_choices_typed_in_the_commands_are_those_of_the_work():
    flags = {a.dest: a.choices for a in parser_of("train")._actions if a.choices}
    kind = typing.get_type_hints(tasks.NoisyStudent)["labelled_loss"]
    assert tuple(flags["labelled_loss"]) == typing.get_args(kind)
    assert parser_of("embed").get_default("layer") == embeddings.PENULTIMATE


def parser_of(name):
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    cli.COMMANDS[name].add_arguments(parser)
    return parser


def test_unlabelled_music_and_a_student_need_a_teacher(run_script):
    alone = run_script("train.py", "--unlabelled", "dataset")
    fails(alone, "--unlabelled needs --teacher with the model that scores it")
    fails(
        run_script("train.py", "--student", "expansion"),
        "--student is not an option of training without --teacher",
    )


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("export musicnn_mtt --to onnx --output {}.onnx", "out.onnx"),
        ("export musicnn_mtt --to saved-model --output {}", "out"),
        ("eval musicnn_mtt --csv {}.csv", "out.csv"),
        ("eval musicnn_mtt --plot {}.png", "out.png"),
        ("eval musicnn_mtt --json {}.json", "out.json"),
        ("eval musicnn_mtt --tune-thresholds {}.keras", "out.keras"),
        ("eval musicnn_mtt --robustness {}.png", "out.png"),
        ("excitations musicnn_mtt --out {}.pkl", "out.pkl"),
        ("excitations musicnn_mtt --plot-dir {}", "out"),
        ("convert x.npz --model fcn --output {}.keras", "out.keras"),
        ("explain a.mp3 --output {}", "out"),
        ("augment a.mp3 --output {}", "out"),
        ("tag a.mp3 --taggram {}.png", "out.png"),
        ("tag a.mp3 --output {}.csv", "out.csv"),
    ],
)
def test_what_exists_is_not_overwritten_without_force(
    command, output, tmp_path, run_script
):
    path = tmp_path / output
    path.with_name("out").mkdir() if path.suffix == "" else path.write_text("mine")
    if path.suffix == "":
        (path / "mine.txt").write_text("mine")
    words = command.format(tmp_path / "out").split()
    fails(run_script("-m", "tagger", *words), "exists. Add --", "--force", path)
    assert path.is_dir() or path.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("eval.py musicnn_mt", ("pretrained model 'musicnn_mt'", "musicnn_mtt")),
        ("-m tagger tag a.mp3 --model m.keras", ("no model file or pretrained model",)),
        ("-m tagger export musicnn_mtt --to onnx --output x.tflite", ("end in .onnx",)),
        ("-m tagger tag a.mp3 --resume", ("--resume needs --output",)),
        ("-m tagger pretrained x", ("no pretrained model 'x'",)),
        ("-m tagger tag a.mp3 --hop x", ("must be a number, not 'x'",)),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(
    command, words, run_script, monkeypatch
):
    monkeypatch.setattr("tagger.storage.tensorflow", lambda: 1 / 0)
    fails(run_script(*command.split()), *words)


def test_after_an_interruption_the_command_that_works_is_named(monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tagger.cli.tagging._open_tagger", interrupt)
    monkeypatch.setattr("tagger.cli.explaining.load_tagger", interrupt)
    song = str(REFERENCES / "mono.mp3")
    for options, said in (
        ([], "Run the same command again."),
        (
            ["--output", "x.csv"],
            "Run the same command with --resume to continue x.csv.",
        ),
        (["--output", "x.csv", "--resume"], "Run the same command to continue x.csv."),
    ):
        with pytest.raises(process.Interrupted) as caught:
            cli.main(["tag", song, *options])
        assert str(caught.value) == said
    monkeypatch.setattr("sys.argv", ["tagger", "serve"])
    for name in ("stdin", "stdout", "stderr"):  # pytest's cannot be reconfigured
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
    pytest.importorskip("gradio")
    with pytest.raises(SystemExit) as ended:
        process.run(cli.main)
    assert ended.value.code == 0


def test_augment_writes_the_eight_transforms_and_their_chain(corpus, tmp_path):
    clip = next(corpus.glob("mp3/*/*.mp3"))
    command = ["augment", clip, "--output", tmp_path / "out", "--seconds", 2]
    cli.main(list(map(str, command)))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    transforms = ["crop", "polarity", "noise", "gain", "filter", "delay", "pitch"]
    transforms += ["reverb", "chain"]
    wavs = [f"{n}_{name}.wav" for n, name in enumerate(transforms, 1)]
    assert names == sorted([*wavs, "spectrograms.png"])
    waveforms = [audio.load_audio(tmp_path / "out" / name, 22050) for name in wavs]
    assert {len(waveform) for waveform in waveforms} == {44100}
    np.testing.assert_allclose(waveforms[1], -waveforms[0], atol=1e-4)


def test_build_prints_what_it_made(corpus, run_script):
    done = run_script("build_mtt.py", "--data-dir", corpus, "--num-audios-per-shard", 8)
    assert done.returncode == 0, done.stderr
    assert "train        24 clips; 24 written in 3 shards, 120 whole seg" in done.stdout
    assert "0 clips skipped" in done.stdout
    assert done.stderr == ""  # without a terminal, no progress bar


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data-dir", "nowhere"), ("no folder 'nowhere'", "--data-dir")),
        (("--num-workers", "0"), ("--num-workers: must be at least 1, not 0",)),
        (("--data-dir", "."), ("no annotations_final.csv in '.'",)),
        (("--num-tags", "0"), ("--num-tags: must be at least 1, not 0",)),
        (("--sample-rate", "-1"), ("--sample-rate: must be at least 1, not -1",)),
        (
            ("--output-dir", "/dev/null/x"),
            ("Cannot write to /dev/null/x", "--output-dir"),
        ),
    ],
)
def test_build_ends_in_one_sentence(corpus, run_script, options, words):
    fails(run_script("build_mtt.py", "--data-dir", corpus, *options), *words)


def test_eval_prints_the_table_and_writes_what_is_asked(
    trained, built, run_script, tmp_path
):
    done = run_script(
        *("eval.py", trained / "model.keras", "--data-dir", built),
        *("--csv", tmp_path / "s.csv", "--plot", tmp_path / "s.png"),
        *("--json", tmp_path / "s.json"),
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    content = json.loads((tmp_path / "s.json").read_text())
    assert last == (
        f"test macro: ROC-AUC {content['roc_auc']:.4f}, PR-AUC {content['pr_auc']:.4f}"
    )
    assert "directories 0-b, c, d-f" in done.stdout  # scores come with their split
    table = pd.read_csv(tmp_path / "s.csv", index_col="tag")
    assert table["roc_auc"].mean() == pytest.approx(content["roc_auc"])
    assert (tmp_path / "s.png").stat().st_size > 10000
    for name in ("s.csv", "s.png", "s.json"):
        assert str(tmp_path / name) in done.stdout


@pytest.mark.slow
def test_eval_json_is_alone_on_standard_output(trained, built, run_script):
    done = run_script(
        "eval.py",
        trained / "model.keras",
        "--data-dir",
        built,
        "--split",
        "val",
        "--json",
    )
    content = json.loads(done.stdout)
    assert content["split"] == "val" and content["num_clips"] == 2
    assert len(content["tags"]) == 10


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "eval.py musicnn_mtt --csv /nowhere/s.csv",
            ("cannot write '/nowhere/s.csv'",),
        ),
        ("eval.py musicnn_mtt --plot s.xyz", ("must end in .png, .svg or .pdf",)),
        ("eval.py musicnn_mtt --batch-size 0", ("--batch-size: must be at least 1",)),
        ("extract_excitations.py musicnn_mtt --out /nowhere/e.pkl", ("cannot write",)),
        ("train.py --batch-size 0", ("--batch-size: must be at least 1, not 0",)),
        ("train.py --patience x", ("--patience", "whole number", "'x'")),
        ("-m tagger tag a.mp3 --top 0", ("--top: must be at least 1",)),
    ],
)
def test_what_cannot_work_is_said_before_the_work(run_script, command, words):
    fails(run_script(*command.split()), *words)


def test_extract_writes_the_table_and_the_figures(trained, built, run_script, tmp_path):
    done = run_script(
        *("extract_excitations.py", trained / "model.keras", "--data-dir", built),
        *("--out", tmp_path / "ex.pkl", "--plot-dir", tmp_path / "plots"),
    )
    assert done.returncode == 0, done.stderr
    assert "Excitations of 6 clips at 9 blocks" in done.stdout
    assert len(pd.read_pickle(tmp_path / "ex.pkl")) == 54
    assert len(list((tmp_path / "plots").glob("*.png"))) == 6


@pytest.mark.slow
def test_wrong_models_and_shards_end_in_one_sentence(
    trained, corpus, run_script, tmp_path
):
    model = trained / "model.keras"
    fails(run_script("eval.py", model, "--data-dir", corpus), "no shards in")
    fails(
        run_script("eval.py", model, "--data-dir", tmp_path), "There are no shards in"
    )
    build_corpus(corpus, corpus / "at16000", sample_rate=16000)
    slow = run_script("eval.py", model, "--data-dir", corpus / "at16000")
    fails(slow, "expects 22050 Hz but", "16000 Hz records", "--sample-rate 22050")
    build_corpus(corpus)
    fails(run_script("eval.py", "nothing.keras"), "no model file")
    (tmp_path / "text.keras").write_text("no model")
    text = run_script("eval.py", tmp_path / "text.keras", "--data-dir", corpus)
    fails(text, "is not a .keras model file")
    legacy = run_script("eval.py", REFERENCES / "rese_multi.hdf5", "--data-dir", corpus)
    fails(legacy, "scores 5 tags but", "--num-tags 5")
    path = corpus / "tfrecord/test-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    fails(run_script("eval.py", model, "--data-dir", corpus), "Record 5 of", path.name)


@pytest.mark.slow
def test_legacy_models_are_evaluated_extracted_and_tag(corpus, run_script, tmp_path):
    build = run_script(
        "build_mtt.py", "--data-dir", corpus, "--num-tags", 5, "--max-skipped", 1
    )
    assert build.returncode == 0, build.stderr
    legacy = REFERENCES / "rese_multi.hdf5"
    done = run_script("eval.py", legacy, "--data-dir", corpus)
    assert done.returncode == 0, done.stderr
    assert "holds no tag names; using the names and order of" in done.stderr
    done = run_script(
        "extract_excitations.py",
        legacy,
        "--data-dir",
        corpus,
        "--out",
        tmp_path / "e.pkl",
    )
    assert done.returncode == 0, done.stderr
    done = run_script(
        *("-m", "tagger", "tag", REFERENCES / "mono.mp3", "--model", legacy),
        *("--data-dir", corpus),
    )
    assert done.returncode == 0 and "holds no tag names" in done.stderr
    assert len(done.stdout.splitlines()) == 6


def test_train_ends_in_one_sentence(built, run_script, tmp_path):
    log = ("--train-dir", tmp_path / "log")
    fails(
        run_script("train.py", "--data-dir", tmp_path, *log), "There are no shards in"
    )
    counts = run_script(
        "train.py", "--data-dir", built, "--num-segments-per-audio", 10, *log
    )
    fails(counts, "--num-segments-per-audio 10 does not agree", "built with 5")
    assert not (tmp_path / "log").exists()


def test_tagger_is_found_without_its_module_and_import_is_light(run_script):
    code = (
        "import sys, tagger; assert 'keras' not in sys.modules; tagger.Tagger; tagger.x"
    )
    done = run_script("-c", code)
    assert "No tagger attribute x" in done.stderr


@pytest.mark.slow
def test_demo_music_is_the_same_from_one_seed(corpus, run_script, tmp_path):
    done = run_script(
        "-m", "tagger", "demo", "--data-dir", tmp_path / "d", "--num-clips", 32
    )
    assert done.returncode == 0, done.stderr
    ours = {p.name: p.read_bytes() for p in (tmp_path / "d/mp3").rglob("*.mp3")}
    assert ours == {p.name: p.read_bytes() for p in (corpus / "mp3").rglob("*.mp3")}
    again = run_script(
        "-m", "tagger", "demo", "--data-dir", tmp_path / "d", "--num-clips", 48
    )
    fails(again, "does not belong to", "--data-dir")
    shutil.rmtree(tmp_path / "d/mp3/0")
    started = time.time()
    run_script("-m", "tagger", "demo", "--data-dir", tmp_path / "d", "--num-clips", 32)
    kept = [
        p for p in (tmp_path / "d/mp3").rglob("*.mp3") if p.stat().st_mtime < started
    ]
    assert len(kept) == 30
