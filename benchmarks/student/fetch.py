"""Fetches the music of the student: 39 hours from packages of the Debian archive.

    pip install pooch python-debian
    python benchmarks/student/fetch.py --mirror URL --output-dir music

URL is the root of any mirror of the Debian archive (the folder with `dists` and
`pool`). `packages.csv` lists the packages with the checksums that they must have,
`music.csv` the files in them with author, licence and split; it is also written to the
output folder, where `tagger build csv` reads it. Downloads are deleted after unpacking.
Run again, it fetches what is missing.
"""

import argparse
import shutil
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pooch
import requests
from debian.debfile import DebFile
from groups import HERE, read
from tqdm import tqdm

ARCHIVE_MARK = "!/"  # in a path: what follows is a file in a zip archive


def main() -> None:
    """Fetches all packages that are not unpacked yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--mirror", required=True, help="URL of a mirror of the Debian archive")
    add("--output-dir", default="music", help="default: music")
    args = parser.parse_args()
    output = Path(args.output_dir)
    members = defaultdict(list)
    for row in read("music.csv"):
        package, member = row["path"].split("/", 1)
        members[package].append(member)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "music.csv", output)
    failed = []
    pooch.get_logger().setLevel("WARNING")
    for row in tqdm(read("packages.csv"), "Fetching", unit="package", disable=None):
        folder = output / row["package"]
        missing = [
            name for name in members[row["package"]] if not (folder / name).exists()
        ]
        if missing:
            try:
                fetch(
                    f"{args.mirror.rstrip('/')}/{row['path']}",
                    row["sha256"],
                    folder,
                    missing,
                )
            except (OSError, ValueError, requests.RequestException) as error:
                failed.append(f"{row['package']} {row['version']}: {error}")
    if failed:
        parser.exit(2, "\n".join(["These packages could not be fetched:", *failed, ""]))


def fetch(url: str, sha256: str, folder: Path, names: list[str]) -> None:
    """Downloads a package and unpacks the named files into a folder.

    Raises:
        OSError: the download failed.
        ValueError: the package has another checksum, or lacks one of the files.
    """
    with tempfile.TemporaryDirectory() as download:
        path = pooch.retrieve(url, f"sha256:{sha256}", path=download)
        unpack(path, folder, names)


def unpack(package: str, folder: Path, names: list[str]) -> None:
    """Unpacks files of a package, also those in zip archives, into a folder."""
    inside = defaultdict(list)
    for name in names:
        member, mark, inner = name.partition(ARCHIVE_MARK)
        inside[member].append(inner if mark else None)
    with DebFile(package) as deb, tempfile.TemporaryFile() as archive:
        for entry in deb.data.tgz():
            member = str(PurePosixPath(entry.name))
            if member not in inside:
                continue
            source = deb.data.tgz().extractfile(entry)
            if inside[member] == [None]:
                write(source, folder / member)
            else:
                archive.seek(0)
                archive.truncate()
                shutil.copyfileobj(source, archive)
                with zipfile.ZipFile(archive) as zipped:
                    for inner in inside[member]:
                        with zipped.open(inner) as file:
                            write(file, folder / f"{member}{ARCHIVE_MARK}{inner}")
            del inside[member]
    if inside:
        raise ValueError(f"the package lacks {', '.join(inside)}")


def write(source, path: Path) -> None:
    """Writes a file under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    with open(unfinished, "wb") as file:
        shutil.copyfileobj(source, file)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
