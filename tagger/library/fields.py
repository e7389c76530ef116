"""The metadata inside audio files: fields with several values, read and set by mutagen.

Each format has its own names: the field "genre" is TCON in ID3 (mp3, wav, aiff), GENRE
in Vorbis comments (flac, ogg, opus), ©gen in MP4, Genre in APE, and WM/Genre in ASF
(wma). Fields without a standard name keep the name they are given here.
"""

import abc
import contextlib
import os
from collections.abc import Iterable, Sequence

import mutagen
from mutagen.apev2 import APENoHeaderError, APEv2
from mutagen.asf import ASFTags, ASFUnicodeAttribute
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TCON, TMOO, TXXX, Encoding
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4FreeForm, MP4Tags
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggspeex import OggSpeex
from mutagen.oggvorbis import OggVorbis
from mutagen.trueaudio import TrueAudio

from tagger.text import TaggerError

GENRE, MOOD = "genre", "mood"


class FieldsError(TaggerError):
    """The metadata of a file cannot be read or written. The message names the file."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"Cannot write metadata to {str(path)!r}: {reason}.")


class Fields(abc.ABC):
    """The metadata of an open file; see `open_fields`.

    Args:
        file: File as mutagen opened it, with tags.
    """

    def __init__(self, file: mutagen.FileType):
        self._file, self._tags = file, file.tags

    @abc.abstractmethod
    def _key(self, field: str) -> str:
        """Returns the format's name of a field."""

    @abc.abstractmethod
    def get(self, field: str) -> list[str]:
        """Returns the values of a field."""

    def others(self, fields: Iterable[str]) -> list:
        """Returns everything that the file says beside some fields."""
        left_out = {self._key(field).casefold() for field in fields}
        said = [
            (key, value)
            for key, value in self._tags.items()
            if key.casefold() not in left_out
        ]
        said.sort(key=lambda pair: pair[0])  # formats store them in any order
        return [*said, *getattr(self._file, "pictures", ())]

    @abc.abstractmethod
    def set(self, field: str, values: Sequence[str]) -> None:
        """Replaces the values of a field; none removes it."""

    def save(self) -> None:
        """Writes the metadata to the file."""
        self._file.save()


class _Id3(Fields):
    """ID3: the version of an existing tag is kept, because players differ."""

    def __init__(self, file: mutagen.FileType):
        super().__init__(file)
        if self._tags.version[:2] < (2, 3):
            self._tags.update_to_v24()
        self._is_v23 = self._tags.version[:2] == (2, 3)

    def _key(self, field: str) -> str:
        if field == GENRE:
            return "TCON"
        # TMOO came with version 2.4.
        if field == MOOD and not self._is_v23:
            return "TMOO"
        return f"TXXX:{field.upper()}"

    def get(self, field: str) -> list[str]:
        frame = self._tags.get(self._key(field))
        if frame is None:
            return []
        texts = frame.genres if field == GENRE else frame.text
        return [str(text) for text in texts if str(text)]

    def set(self, field: str, values: Sequence[str]) -> None:
        key = self._key(field)
        self._tags.delall(key)
        if not values:
            return
        # UTF-8 came with version 2.4.
        about = {"encoding": Encoding.UTF16 if self._is_v23 else Encoding.UTF8}
        about["text"] = list(values)
        if key.startswith("TXXX"):
            self._tags.add(TXXX(desc=field.upper(), **about))
        else:
            self._tags.add((TCON if field == GENRE else TMOO)(**about))

    def save(self) -> None:
        # Without a separator each value stays its own in 2.3, too.
        self._file.save(v2_version=3 if self._is_v23 else 4, v23_sep=None)


class _Vorbis(Fields):
    def _key(self, field: str) -> str:
        return field.upper()

    def get(self, field: str) -> list[str]:
        return [str(value) for value in self._tags.get(self._key(field), [])]

    def set(self, field: str, values: Sequence[str]) -> None:
        key = self._key(field)
        if values:
            self._tags[key] = self._values(values)
        elif key in self._tags:
            del self._tags[key]

    def _values(self, values: Sequence[str]) -> list:
        return list(values)


class _Mp4(Fields):
    def _key(self, field: str) -> str:
        named = f"----:com.apple.iTunes:{field.upper()}"
        return "\xa9gen" if field == GENRE else named

    def get(self, field: str) -> list[str]:
        values = self._tags.get(self._key(field), [])
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for value in values
        ]

    def set(self, field: str, values: Sequence[str]) -> None:
        key = self._key(field)
        self._tags.pop(key, None)
        if values and key.startswith("----"):
            self._tags[key] = [MP4FreeForm(value.encode("utf-8")) for value in values]
        elif values:
            self._tags[key] = list(values)


class _Ape(_Vorbis):
    def _key(self, field: str) -> str:
        return field.capitalize() if field in (GENRE, MOOD) else field.upper()


class _Asf(_Vorbis):
    def _key(self, field: str) -> str:
        return f"WM/{field.capitalize()}" if field in (GENRE, MOOD) else field.upper()

    def _values(self, values: Sequence[str]) -> list:
        return [ASFUnicodeAttribute(value) for value in values]


_VORBIS_FILES = (FLAC, OggFLAC, OggOpus, OggSpeex, OggVorbis)
# Their metadata may be ID3 or APE, and programs disagree on which one counts.
_AMBIGUOUS = (TrueAudio,)
_KINDS = ((ID3, _Id3), (MP4Tags, _Mp4), (APEv2, _Ape), (ASFTags, _Asf))


def _has_ape(path: str | os.PathLike) -> bool:
    with contextlib.suppress(APENoHeaderError):
        return bool(APEv2(path))
    return False


def open_fields(path: str | os.PathLike) -> Fields:
    """Opens the metadata of an audio file.

    Raises:
        FieldsError: the file's format has no such metadata, or it is damaged.
    """
    try:
        file = mutagen.File(path)
        if file is not None and isinstance(file.tags, ID3):
            # mutagen translates older tags, and drops what it cannot translate.
            file = type(file)(path, translate=False)
        if file is not None and file.tags is None:
            if isinstance(file, MP3) and _has_ape(path):
                file = None  # players that prefer ID3 would see nothing else
            else:
                file.add_tags()
    except Exception as error:  # damaged files raise errors of every kind
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FieldsError(path, f"mutagen says {reason[0]!r}") from error
    if isinstance(file, _AMBIGUOUS):
        file = None
    if isinstance(file, _VORBIS_FILES):
        return _Vorbis(file)
    for kind, fields in _KINDS:
        if file is not None and isinstance(file.tags, kind):
            return fields(file)
    extension = os.path.splitext(path)[1] or "such"
    raise FieldsError(path, f"tagger cannot write metadata to {extension} files")
