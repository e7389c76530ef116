"""Sharing models on the hub, and using them from there, against a local stand-in."""

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import REPOSITORY, run_process
from hub_server import HubServer
from narrow import narrow_options

from tagger import models
from tagger.audio import write_audio
from tagger.weights import hub

pytest.importorskip("huggingface_hub", reason="needs the extra hub")
TAGS = ("rock", "calm")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    options = narrow_options("sample_cnn") | {"num_tags": 2, "tags": TAGS}
    path = tmp_path_factory.mktemp("model") / "mine.keras"
    models.save_model(models.build_model("sample_cnn", **options), path)
    return path


@pytest.fixture
def server():
    with HubServer.running() as server:
        yield server


@pytest.fixture
def run(server, tmp_path):
    """Returns a function that runs a command with the stand-in as the hub."""
    environment = server.environment(tmp_path)
    environment |= {"TAGGER_CACHE": str(tmp_path / "cache")}

    def run(*arguments, **others):
        return subprocess.run(
            [sys.executable, "-m", "tagger", *map(str, arguments)],
            cwd=REPOSITORY,
            env=environment | others,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def run_all(server, tmp_path):
    """Returns a function that runs commands, one after the other, in one process."""
    environment = server.environment(tmp_path)
    environment["TAGGER_CACHE"] = str(tmp_path / "cache")
    environment["PYTHONPATH"] = str(REPOSITORY / "tests")
    code = (
        "import json, sys; from conftest import call;"
        "done = [call(['-m', 'tagger', *c], '.') for c in json.loads(sys.argv[1])];"
        "print('\\n' + json.dumps([(one.returncode, one.stderr) for one in done]))"
    )

    def run_all(commands, **others):
        commands = json.dumps([list(map(str, command)) for command in commands])
        done = run_process("-c", code, commands, env=environment | others)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run_all


@pytest.mark.slow
def test_a_shared_model_is_used_by_its_name(run, server, model_path, tmp_path):
    done = run("models", "share", model_path, "hf://ann/mine")
    assert done.returncode == 0, done.stderr
    held = server.files["ann/mine"]
    assert set(held) == {
        *("README.md", "model.keras", "model.onnx", "labels.txt"),
        *({".gitattributes"} & set(held)),
    }
    with zipfile.ZipFile(io.BytesIO(held["model.keras"])) as shared:
        assert shared.read("graph.onnx") == held["model.onnx"]
        with zipfile.ZipFile(model_path) as own:  # which holds no graph
            assert all(shared.read(one) == own.read(one) for one in own.namelist())
    assert held["labels.txt"].decode() == "rock\ncalm\n"
    assert b'library_name: "keras"' in held["README.md"]
    assert b"--model hf://ann/mine" in held["README.md"]
    # A card that somebody has edited stays.
    held["README.md"] = b"written by hand"
    assert run("models", "share", model_path, "hf://ann/mine").returncode == 0
    assert held["README.md"] == b"written by hand"
    assert (
        run("models", "share", model_path, "hf://ann/mine", "--replace-card").returncode
        == 0
    )
    assert held["README.md"] != b"written by hand"

    noise = np.random.default_rng(0).uniform(-1, 1, 59049).astype(np.float32)
    write_audio(tmp_path / "song.wav", noise, 22050)
    tag = ("tag", tmp_path / "song.wav", "--json", "--model")
    shared, local = run(*tag, "hf://ann/mine"), run(*tag, model_path)
    assert shared.returncode == 0, shared.stderr
    expected = json.loads(local.stdout)["tags"]  # by Keras: the file holds no graph
    assert json.loads(shared.stdout)["tags"] == pytest.approx(expected, abs=1e-6)
    card = run("models", "share", "hf://ann/mine", "hf://ann/mine", "--dry-run")
    assert card.returncode == 0 and "--model hf://ann/mine" in card.stdout
    assert "| 1 | calm |" in card.stdout
    offline = run(*tag, "hf://ann/mine", HF_HUB_OFFLINE="1")
    assert offline.stdout == shared.stdout, offline.stderr


@pytest.mark.slow
def test_what_the_hub_refuses_is_said_in_a_sentence(run_all, server, tmp_path):
    write_audio(tmp_path / "song.wav", np.zeros(59049, np.float32), 22050)
    tag, share = (
        ("tag", tmp_path / "song.wav", "--model"),
        ("models", "share", "student"),
    )
    server.files["ann/other"] = {"README.md": b"", "weights.bin": b""}
    gated = 403, "GatedRepo", "Access to this model is restricted."
    server.refusals = {"ann/gated": gated, "ann/banned": (403, "", "Not for you.")}
    server.refusals["ann/unfit"] = (400, "", "Invalid metadata in README.md.")
    server.files["ann/unfit"] = {}
    cases = [
        (
            (*tag, "hf://ann/none"),
            "Repository Not Found",
        ),
        ((*tag, "hf://ann/other"), "was not published with tagger models share"),
        ((*tag, "hf://ann/gated"), "Access to this model is restricted."),
        ((*tag, "hf://ann/banned"), "hf://ann/banned: "),
        ((*tag, "hf://ann"), "'hf://ann' is not of the form hf://user/name"),
        ((*tag, "hf://ann/../x"), "is not of the form hf://user/name"),
        ((*share, "hf://ann/unfit"), "Invalid metadata in README.md"),
        (
            (*share, "hf://ann/a", "--evaluation", tmp_path / "no"),
            "no'. Give a file that eval",
        ),
    ]
    check_refusals(run_all, cases)
    refused = "hf://ann/mine: Client error '401"
    check_refusals(run_all, [((*share, "hf://ann/mine"), refused)], HF_TOKEN="wrong")
    silent = "hf://ann/mine: "
    cases = [((*share, "hf://ann/mine"), silent), ((*tag, "hf://ann/mine"), silent)]
    check_refusals(run_all, cases, HF_ENDPOINT="http://127.0.0.1:9")


def check_refusals(run_all, cases, **others):
    """Runs commands in one process; each must end in the sentence beside it."""
    commands = [command for command, _ in cases]
    for (_, says), (code, errors) in zip(
        cases, run_all(commands, **others), strict=True
    ):
        assert code == 2 and says in errors, errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    "name", ["hf://a/b/c", "hf:///b", "hf://a/", "hf://a/b@", "hf://a b/c", "a/b"]
)
def test_names_of_repositories(name):
    with pytest.raises(ValueError, match="is not of the form hf://user/name"):
        hub.Repository.of(name)


def test_offline_mode_is_named():
    from huggingface_hub import errors

    with pytest.raises(ConnectionError, match="hf://a/b: offline"):
        with hub.explained(hub.Repository("a/b")):
            raise errors.LocalEntryNotFoundError("not cached") from (
                errors.OfflineModeIsEnabled("offline")
            )


def test_a_repository_may_name_a_revision():
    assert hub.Repository.of("hf://a/b") == hub.Repository("a/b")
    assert hub.Repository.of("hf://a-1/b.c_d@v1.0") == hub.Repository(
        "a-1/b.c_d", "v1.0"
    )
    assert not hub.is_hub_name("musicnn_mtt")
