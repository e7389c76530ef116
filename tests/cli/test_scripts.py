"""The commands as a user types them: what they print, and how they fail."""

import contextlib
import inspect
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import REFERENCES, build_corpus, fails, run_process

import tagger
from tagger import cli, models, options
from tagger.cli import planning, process
from tagger.training import recipes, trainer

SCRIPTS = (
    "build_mtt.py", "build_msd.py", "train.py", "eval.py", "extract_excitations.py"
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_the_help_of_its_command(script):
    """Starts a process for each; test_architecture.py checks what they import."""
    done = run_process(script, "--help")
    assert done.returncode == 0 and "--data-dir" in done.stdout
    assert done.stdout.startswith(f"usage: python {script}")


def test_every_command_has_help_of_80_columns_and_a_version(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [name for group in cli.COMMANDS.values() for name in group]
    for arguments in (["--help"], ["--version"], *([*c.split(), "-h"] for c in names)):
        with contextlib.suppress(SystemExit):  # as argparse ends with code 0
            cli.main(arguments)
    out = capsys.readouterr().out
    assert f"tagger {tagger.__version__}" in out
    assert all(f"\n  {name} " in out for name in names)
    assert max(map(len, out.splitlines())) <= 80
    assert "None" not in out.replace("None of", "")


def test_help_loads_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); from tagger import cli\n"
        "for one in (['-h'], ['find', '-h'], ['fit', '-h'], ['build', 'mtt', '-h']):"
        "\n    try: cli.main(one)\n    except SystemExit: pass\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(roots - {*sys.stdlib_module_names, 'tagger', 'lazy_loader'}),"
        " file=sys.stderr)"
    )
    assert run_process("-c", code).stderr.strip() == "[]"


def test_train_has_every_option_of_the_original(run_script):
    text = " ".join(run_script("train.py", "--help").stdout.split())
    # Of resemul's train.py; None: it has no default there.
    defaults = {
        "--data-dir": "./dataset", "--train-dir": "./log", "--block": "se",
        "--no-multi": None, "--alpha": "16", "--batch-size": "23", "--momentum": "0.9",
        "--lr": "0.01", "--lr-decay": "0.2", "--dropout": "0.5", "--weight-decay": "0",
        "--initial-stage": "0", "--patience": "2", "--num-lr-decays": "5",
        "--num-audios-per-shard": None, "--num-segments-per-audio": None,
        "--num-read-threads": None,
    }  # fmt: skip
    options = text.partition("options: -h")[2]
    for option, default in defaults.items():
        about = re.split(r" --[a-z]", options.partition(f" {option} ")[2])[0]
        assert about and f"(default: {default or ''}" in f"{about} (default: ", option


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
    done = run_script("train.py", "--architecture", name, "-h")
    text = " ".join(done.stdout.split())
    entry = models.entry(name)
    batch_size = recipes.RECIPES[entry.recipe].batch_size
    assert f"Number of segments per batch (default: {batch_size})" in text
    for option in models.registry.options_of(name).parameters.values():
        assert option.kind and option.help, option.name
        flag = planning.FLAGS.get(option.name, f"--{option.name.replace('_', '-')}")
        flag = "--no-multi" if option.name == "multi" else flag
        assert f" {flag} " in text
    assert ("--block " in text.partition("options: -h")[2]) == (name == "sample_cnn")


@pytest.mark.parametrize(
    ("arguments", "batch_size"),
    [
        ("-h --architecture musicnn", 16),
        ("--teacher student -h", 64),
        ("--from student -h", 16),
        ("--architecture lee_lee -h", 16),
        ("--recipe resemul --architecture musicnn -h", 23),
    ],
)
def test_help_knows_the_recipe_that_the_command_would_run(
    arguments, batch_size, run_script
):
    done = run_script("train.py", *arguments.split())
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert f"Number of segments per batch (default: {batch_size})" in text
    is_described = " --dropout " in text
    assert is_described == ("--from" not in arguments)  # the base has its own


@pytest.mark.parametrize("name", models.MODELS)
def test_the_source_of_a_factory_is_read_as_python_reads_it(name):
    stated = inspect.signature(models.entry(name).factory).parameters
    stated = {n: p.default for n, p in stated.items() if n not in options.TAGS}
    assert models.default_options(name) == stated


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--architecture fcn --block se", "It is an option of sample_cnn"),
        ("--num-heads 4", "an option of self_attention, music_tagging_transformer"),
        ("--temperature 2", "It goes with --teacher."),
        ("--learning-rate 1", "Did you mean --lr?"),
        ("--multi", "Did you mean --no-multi?"),
        ("--config nowhere.json", "There is no file 'nowhere.json'"),
        ("--freeze none", "It goes with --from."),
        ("--set width=3", "Give the option itself"),
        ("--model fcn", "It is called --architecture now"),
        ("--architecture fcnn", "no model 'fcnn'. Did you mean fcn"),
        ("--recipe resmul", "no recipe 'resmul'. Did you mean resemul"),
        ("--block see", "cannot be 'see'. Did you mean se"),
        ("--widths a,2 --architecture short_chunk_cnn", "whole number, not 'a'"),
    ],
)
def test_an_option_that_does_not_go_with_the_model_is_a_sentence(
    arguments, says, run_script
):
    done = run_script("train.py", *arguments.split())
    fails(done, says)
    assert ("See python train.py --help." in done.stderr) == ("config" not in arguments)


def test_unlabelled_music_and_a_student_need_a_teacher(run_script):
    alone = run_script("train.py", "--unlabelled", "dataset")
    fails(alone, "--unlabelled needs --teacher with the model that scores it")
    fails(run_script("train.py", "--student", "expansion"), "--student needs --teacher")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("models export musicnn_mtt --to onnx --output {}.onnx", "out.onnx"),
        ("models export musicnn_mtt --to saved-model --output {}", "out"),
        ("eval musicnn_mtt --output {}.csv", "out.csv"),
        ("eval musicnn_mtt --plot {}.png", "out.png"),
        ("eval musicnn_mtt --output {}.json", "out.json"),
        ("eval musicnn_mtt --tune-thresholds {}.keras", "out.keras"),
        ("eval musicnn_mtt --robustness {}.png", "out.png"),
        ("excitations musicnn_mtt --out {}.pkl", "out.pkl"),
        ("excitations musicnn_mtt --plots {}", "out"),
        ("models convert x.npz --architecture fcn --output {}.keras", "out.keras"),
        ("explain a.mp3 --output {}", "out"),
        ("tag a.mp3 --plot {}.png", "out.png"),
        ("find rock --playlist {}.m3u8", "out.m3u8"),
        ("fit music --output {}.onnx", "out.onnx"),
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


def test_a_default_output_is_not_overwritten_either(tmp_path, run_script):
    (tmp_path / "explained").mkdir()
    for name in ("explained/mine.txt", "excitations.pkl", "student.onnx"):
        (tmp_path / name).write_text("mine")
    for command, says in (
        ("-m tagger explain a.mp3", "explained exists. Add --force"),
        ("extract_excitations.py musicnn_mtt", "excitations.pkl exists. Add --force"),
        ("-m tagger models export student --to onnx", "student.onnx exists. Add"),
        (
            "-m tagger models export student.onnx --to onnx --force",
            "--output would replace student.onnx, which is also MODEL",
        ),
    ):
        fails(run_script(*command.split(), cwd=tmp_path), says)
    assert (tmp_path / "student.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("eval.py musicnn_mt", ("pretrained model 'musicnn_mt'", "musicnn_mtt")),
        ("-m tagger tag a.mp3 --model m.keras", ("no model file or pretrained model",)),
        (
            "-m tagger models export musicnn_mtt --to onnx --output x.tflite",
            ("end in .onnx",),
        ),
        ("-m tagger tag a.mp3 --resume", ("The same command continues",)),
        ("-m tagger models fetch x", ("no pretrained model 'x'",)),
        ("-m tagger pretrained x", ("tagger models fetch NAME downloads",)),
        ("-m tagger models lst", ("no command 'lst' of tagger models", "mean list?")),
        ("-m tagger models crnn", ("describe a model: tagger models show NAME.",)),
        (
            "-m tagger models average student student --output x.onnx",
            ("student, student names a model twice",),
        ),
        ("-m tagger tga x", ("no command 'tga' of tagger. Did you mean tag",)),
        ("-m tagger tag a.mp3 --hop x", ("must be a number, not 'x'",)),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(
    command, words, run_script, monkeypatch
):
    monkeypatch.setattr("tagger.storage.tensorflow", lambda: 1 / 0)
    fails(run_script(*command.split()), *words)


@pytest.mark.parametrize(
    ("command", "code"),
    [("tag song.mp3 --force", 130), ("find rock", 130), ("serve", 0)],
)
def test_an_interruption_names_the_command_that_continues(
    command, code, monkeypatch, capsys
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    pytest.importorskip("fastapi_offline")
    monkeypatch.setattr("tagger.cli.songs.list_files", interrupt)
    monkeypatch.setattr("tagger.library.database.reader", interrupt)
    monkeypatch.setattr("tagger.cli.serving.Tagger", interrupt)
    monkeypatch.setattr("tagger.library.database.default_path", lambda: Path("gone"))
    monkeypatch.setattr("sys.argv", ["tagger", *command.split()])
    for name in ("stdin", "stdout", "stderr"):  # pytest's cannot be reconfigured
        stream = getattr(sys, name)
        monkeypatch.setattr(stream, "reconfigure", lambda **_: None, raising=False)
    if code:
        with pytest.raises(SystemExit) as ended:
            process.run(cli.main)
        assert ended.value.code == code
        again = command.removesuffix(" --force")  # tag continues without it
        assert f"interrupted. To continue: tagger {again}\n" in capsys.readouterr().err
    else:
        process.run(cli.main)


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
        (("--num-workers", "0"), ("--num-workers must be at least 1, not 0",)),
        (("--data-dir", "."), ("no annotations_final.csv in '.'",)),
        (("--num-tags", "0"), ("--num-tags must be at least 1, not 0",)),
        (("--sample-rate", "-1"), ("--sample-rate must be at least 1, not -1",)),
        (
            ("--output", "/dev/null/x"),
            ("Cannot write to /dev/null/x", "--output"),
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
        *("--output", tmp_path / "s.csv", "--plot", tmp_path / "s.png"),
        *("--output", tmp_path / "s.json"),
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
            "eval.py musicnn_mtt --output /nowhere/s.csv",
            ("cannot write '/nowhere/s.csv'",),
        ),
        ("eval.py musicnn_mtt --plot s.xyz", ("must end in .png, .svg or .pdf",)),
        ("eval.py musicnn_mtt --batch-size 0", ("--batch-size must be at least 1",)),
        ("extract_excitations.py musicnn_mtt --out /nowhere/e.pkl", ("cannot write",)),
        ("train.py --batch-size 0", ("--batch-size must be at least 1, not 0",)),
        ("train.py --patience x", ("--patience", "whole number", "'x'")),
        ("-m tagger tag a.mp3 --top 0", ("--top must be at least 1",)),
    ],
)
def test_what_cannot_work_is_said_before_the_work(run_script, command, words):
    fails(run_script(*command.split()), *words)


def test_extract_writes_the_table_and_the_figures(trained, built, run_script, tmp_path):
    done = run_script(
        *("extract_excitations.py", trained / "model.keras", "--data-dir", built),
        *("--out", tmp_path / "ex.pkl", "--plots", tmp_path / "plots"),
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
    tag = ("-m", "tagger", "tag", REFERENCES / "mono.mp3", "--model")
    fails(run_script(*tag, legacy), "holds no tag names", "models convert --tag-file")
    (tmp_path / "tags.txt").write_text("a\nb\nc\nd\ne\n")
    named = tmp_path / "named.keras"
    done = run_script(
        *("-m", "tagger", "models", "convert", legacy, "--output", named),
        *("--architecture", "sample_cnn", "--tag-file", tmp_path / "tags.txt"),
    )
    assert done.returncode == 0, done.stderr
    assert len(run_script(*tag, named).stdout.splitlines()) == 6


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
        "-m", "tagger", "build", "demo", "--data-dir", tmp_path / "d", "--num-clips", 32
    )
    assert done.returncode == 0, done.stderr
    ours = {p.name: p.read_bytes() for p in (tmp_path / "d/mp3").rglob("*.mp3")}
    assert ours == {p.name: p.read_bytes() for p in (corpus / "mp3").rglob("*.mp3")}
    again = run_script(
        "-m", "tagger", "build", "demo", "--data-dir", tmp_path / "d", "--num-clips", 48
    )
    fails(again, "does not belong to", "--data-dir")
    shutil.rmtree(tmp_path / "d/mp3/0")
    started = time.time()
    run_script(
        "-m", "tagger", "build", "demo", "--data-dir", tmp_path / "d", "--num-clips", 32
    )
    kept = [
        p for p in (tmp_path / "d/mp3").rglob("*.mp3") if p.stat().st_mtime < started
    ]
    assert len(kept) == 30
