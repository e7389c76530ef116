"""The commands as a user types them: what they print, and how they fail."""

import inspect
import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCES, REPOSITORY, build_corpus

from tagger import audio, cli

SCRIPTS = (
    "build_mtt.py", "build_msd.py", "train.py", "eval.py", "extract_excitations.py"
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option_and_needs_no_tensorflow(run_script, script):
    done = run_script("-X", "importtime", script, "--help")
    assert done.returncode == 0
    assert "--data-dir" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"tensorflow", "keras", "sklearn", "matplotlib"}


def test_train_has_every_option_of_the_original(run_script):
    text = run_script("train.py", "--help").stdout
    options = """--data-dir --train-dir --block --no-multi --alpha --batch-size
        --momentum --lr --lr-decay --dropout --weight-decay --initial-stage --patience
        --num-lr-decays --num-audios-per-shard --num-segments-per-audio
        --num-read-threads"""
    for option in options.split():
        assert re.search(rf"{option}\b(?!-)", text), option


def test_options_of_train_belong_to_a_model_or_a_recipe():
    """They are typed once more there, because --help must not import Keras."""
    import train
    from tagger import models
    from tagger.training import recipes, trainer

    def parameters(functions):
        return {p for f in functions for p in inspect.signature(f).parameters}

    every = [
        *("--block", "se", "--no-multi", "--alpha", "1", "--num-filters", "1"),
        *("--dropout", "0", "--weight-decay", "0", "--front-end", "lee", "--back-end"),
        *("cnn", "--size", "student", "--channels", "1", "--num-layers", "1"),
        *("--num-heads", "1", "--dense-units", "1", "--batch-size", "1", "--lr", "1"),
        *("--max-epochs", "1", "--patience", "1", "--momentum", "0", "--lr-decay", "1"),
        *("--num-lr-decays", "1", "--crops-per-clip", "1"),
    ]
    args = train.parse(every)
    factories = [entry.factory for entry in models.MODELS.values()]
    for group, functions in (
        (args.model_options, factories),
        (args.recipe_options, trainer.RECIPES.values()),
    ):
        assert set(group.flags) <= parameters(functions)
    flags = {*args.model_options.flags.values(), *args.recipe_options.flags.values()}
    assert flags == {word for word in every if word.startswith("--")}

    args = train.parse(["--block", "res", "--no-multi"])
    of = args.model_options.for_function
    assert of(models.sample_cnn, args, "it") == {"block": "res", "multi": False}
    assert args.recipe_options.for_function(recipes.resemul, args, "it") == {}
    with pytest.raises(ValueError, match="--block is no option of model fcn, which has:"
                       " --dropout."):  # fmt: skip
        of(models.fcn, args, "model fcn")


def test_other_options_of_train_belong_to_every_recipe_or_to_the_student():
    import train
    from tagger.inference import embeddings, export
    from tagger.inference import tagger as tagging
    from tagger.training import noisy_student, trainer

    given = ["--monitor", "val_pr_auc", "--augment", "--precision", "mixed_float16"]
    given += ["--xla", "--clip-norm", "1", "--accumulation-steps", "2"]
    given += ["--student", "expansion", "--labelled-loss", "bce", "--rounds", "2"]
    given += ["--labelled-share", "0.5", "--teacher", "t", "--unlabelled", "u"]
    given += ["--cache-scores"]
    args = train.parse([*given, "--strategy", "mirrored"])
    common = args.common_options.for_function(trainer.TrainingRecipe, args, "it")
    assert common == {
        "monitor": "val_pr_auc", "augment": True, "precision": "mixed_float16",
        "xla": True, "clip_norm": 1.0, "accumulation_steps": 2,
    }  # fmt: skip
    student = args.student_options.for_function(noisy_student.train, args, "it")
    assert student == {
        "student": "expansion", "labelled_loss": "bce", "rounds": 2,
        "labelled_share": 0.5, "cache_scores": True,
    }  # fmt: skip
    text = train.__doc__ + (REPOSITORY / "train.py").read_text()
    for choice in (*noisy_student.STUDENTS, *noisy_student.LABELLED_LOSSES):
        assert f'"{choice}"' in text
    text = (REPOSITORY / "tagger/cli/models.py").read_text()
    assert f"choices={tuple(export.FORMATS)!r}".replace("'", '"') in text
    text = (REPOSITORY / "tagger/cli/tagging.py").read_text()
    assert f"choices={tagging.AGGREGATES!r}".replace("'", '"') in text
    assert f'default="{embeddings.PENULTIMATE}"' in text


def test_a_teacher_needs_unlabelled_music_and_a_student_a_teacher(capsys):
    import train
    from tagger.training import trainer

    with pytest.raises(SystemExit):
        train.parse(["--teacher", "model.keras"])
    assert "--teacher and --unlabelled come together" in capsys.readouterr().err
    args = train.parse(["--student", "expansion"])
    with pytest.raises(ValueError, match="--student is no option of training without"):
        args.student_options.for_function(
            trainer.train, args, "training without a --teacher"
        )


def test_augment_writes_the_eight_transforms_and_their_chain(
    corpus, tmp_path, monkeypatch
):
    clip = next(corpus.glob("mp3/*/*.mp3"))
    command = ["augment", clip, "--output", tmp_path / "out", "--seconds", 2]
    monkeypatch.setattr("sys.argv", ["tagger", *map(str, command)])
    assert cli.main() == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    transforms = ["crop", "polarity", "noise", "gain", "filter", "delay", "pitch"]
    transforms += ["reverb", "chain"]
    wavs = [f"{n}_{name}.wav" for n, name in enumerate(transforms, 1)]
    assert names == sorted([*wavs, "spectrograms.png"])
    waveforms = [audio.load_audio(tmp_path / "out" / name, 22050) for name in wavs]
    assert {len(waveform) for waveform in waveforms} == {44100}
    np.testing.assert_allclose(waveforms[1], -waveforms[0], atol=1e-4)


def fails(done, *words):
    """The command ended with exit code 2 and one sentence that holds these words."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert str(word) in last


def test_build_prints_what_it_made(corpus, run_script):
    done = run_script("build_mtt.py", "--data-dir", corpus, "--num-audios-per-shard", 8)
    assert done.returncode == 0, done.stderr
    assert "train        24 clips; 24 written in 3 shards, 120 whole seg" in done.stdout
    assert "0 clips skipped" in done.stdout
    assert done.stderr == ""  # no terminal, no progress bar


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
    assert "directories 0-b, c, d-f" in done.stdout  # no score without its split
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
        ("eval.py m.keras --csv /nowhere/s.csv", ("cannot write '/nowhere/s.csv'",)),
        ("eval.py m.keras --plot s.xyz", ("must end in .png, .svg or .pdf",)),
        ("eval.py m.keras --batch-size 0", ("--batch-size: must be at least 1",)),
        ("extract_excitations.py m.keras --out /nowhere/e.pkl", ("cannot write",)),
        ("train.py --batch-size 0", ("--batch-size: must be at least 1, not 0",)),
        ("train.py --patience x", ("--patience", "invalid", "'x'")),
        ("-m tagger tag a.mp3 --model m.keras --top 0", ("--top: must be at least 1",)),
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
    fails(run_script("eval.py", "nothing.keras", "--data-dir", corpus), "no shards in")
    fails(
        run_script("eval.py", model, "--data-dir", tmp_path), "There are no shards in"
    )
    build_corpus(corpus, corpus / "at16000", sample_rate=16000)
    slow = run_script("eval.py", model, "--data-dir", corpus / "at16000")
    fails(slow, "expects 22050 Hz but", "16000 Hz records", "--sample-rate 22050")
    build_corpus(corpus)
    fails(run_script("eval.py", "nothing.keras", "--data-dir", corpus), "no model file")
    (tmp_path / "text.keras").write_text("no model")
    text = run_script("eval.py", tmp_path / "text.keras", "--data-dir", corpus)
    fails(text, "is no .keras model file")
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
    assert "holds no tag names; names and order are those of" in done.stderr
    done = run_script(
        "extract_excitations.py",
        legacy,
        "--data-dir",
        corpus,
        "--out",
        tmp_path / "e.pkl",
    )
    assert done.returncode == 0 and "holds no tag names" in done.stderr
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
    fails(counts, "--num-segments-per-audio 10 does not agree", "120 segments")
    assert not (tmp_path / "log").exists()


def test_tagger_is_found_without_its_module_and_import_is_light(run_script):
    code = (
        "import sys, tagger; assert 'keras' not in sys.modules; tagger.Tagger; tagger.x"
    )
    done = run_script("-c", code)
    assert "has no attribute 'x'" in done.stderr


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
    fails(again, "belongs to other data", "--data-dir")
    shutil.rmtree(tmp_path / "d/mp3/0")
    started = time.time()
    run_script("-m", "tagger", "demo", "--data-dir", tmp_path / "d", "--num-clips", 32)
    kept = [
        p for p in (tmp_path / "d/mp3").rglob("*.mp3") if p.stat().st_mtime < started
    ]
    assert len(kept) == 30
