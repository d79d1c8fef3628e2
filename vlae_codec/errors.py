"""The exceptions of vlae-codec: one family, so that ``except VlaeError`` catches them all."""


class VlaeError(Exception):
    """Base of every error that vlae-codec raises on purpose."""


class NotAVlaeFile(VlaeError):
    """The data do not begin with the magic of a .vlae file."""


class CorruptFile(VlaeError):
    """The data are a .vlae file that is damaged, truncated or inconsistent."""


class UnsupportedVersion(VlaeError):
    """The file's format version is not one that this release reads."""


class UnknownModel(VlaeError):
    """The model is not known, cannot be read, or is not what the file was made with."""


class UnsafeModel(UnknownModel):
    """The model's integers could exceed what the arithmetic holds exactly."""


class UnsupportedImage(VlaeError):
    """The image cannot be read or held by this format."""


class EmptyMessage(VlaeError):
    """More was popped from an ANS message than had been pushed."""


class VerificationFailed(VlaeError):
    """What was decoded after compressing is not the image that was given."""


def describe(error: BaseException, path: str = "") -> str:
    """An error as one line; ``path`` is what the line will begin with, so that it is not named twice."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename and str(error.filename) != path
        text = f"{error.filename}: {error.strerror}" if named else error.strerror
    elif isinstance(error, MemoryError):
        text = "not enough memory for this"
    elif isinstance(error, (VlaeError, OSError)):
        text = str(error)
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())
