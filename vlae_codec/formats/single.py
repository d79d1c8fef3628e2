"""One image, compressed and decompressed: by the model, or by the fallback that is smaller."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from vlae_codec.entropy.ans import Message, Messages
from vlae_codec.errors import CorruptFile, EmptyMessage, UnknownModel, UnsupportedImage, VerificationFailed
from vlae_codec.images import io as imaging
from vlae_codec.images import rasters
from vlae_codec.images.fallback import (
    Look,
    is_drawn,
    jxl_worth_trying,
    look_at,
    read_fallback,
    smallest_fallback,
    worth_trying,
)
from vlae_codec.images.metadata import metadata_of, restore_metadata
from vlae_codec.images.orientation import TRANSPOSED, shortest, turned, turned_back
from vlae_codec.images.pixels import digest_of, from_planes, pixel_digest, to_planes, values_of
from vlae_codec.registry import Model, find_model, load_model
from vlae_codec.stages import Passes, Progress, StageKind, expect, no_progress

from . import header as container
from .header import CONSTANT, FallbackKind, FileKind, Header, PixelKind, SourceFile

#: Subpixels below which every kind of coding z is tried, and every fallback, and the smallest kept.
SMALL = 3 * 192 * 192
#: Subpixels above which a picture is coded as it stands: turning takes another copy of it.
MOST_TURNED = 3 << 25
#: About the share of the time that the VLAE takes of its own and of verification, that fallbacks take of theirs and of
#: verification, and what is left for anything after a pass that was the only one planned. For the progress alone.
VLAE_SHARE, FALLBACKS_SHARE, REST = 0.35, 0.8, 0.1
#: Pillow's modes that the VLAE codes.
CODED_MODES = tuple(kind.image_mode for kind in PixelKind)


def compress(
    image: Image.Image | np.ndarray,
    model: Model | None = None,
    *,
    verify: bool = True,
    progress: Progress = no_progress,
    max_pixels: int = container.MAX_PIXELS,
) -> bytes:
    """Compress an image without loss.

    Parameters
    ----------
    image : PIL.Image.Image, or array of uint8, shape (H, W), (H, W, 3) or (H, W, 4)
        RGB and grey images take the VLAE, other modes a lossless fallback, as do pictures for which that is smaller.
    model : Model, optional
        From `load_model`; by default the shipped one for photographs.
    verify : bool
        Decode the result and compare before returning it.
    progress : function
        Called with the pixels done since its last call: in all, with fallbacks and verification, each pixel once.
    max_pixels : int
        Refuse an image that has more.

    Returns
    -------
    The bytes of a .vlae file.

    Raises
    ------
    UnsupportedImage
        If the image has no pixels or too many, or an array has another shape or dtype.
    VerificationFailed
        If the decoded pixels differ; nothing that this function returned ever had.

    Examples
    --------
    >>> from PIL import Image
    >>> image = Image.linear_gradient("L").resize((32, 32))
    >>> decompress(compress(image)).tobytes() == image.tobytes()
    True
    """
    image = _as_image(image)
    container.check_size(image.size, "the image", max_pixels)
    return compress_subject(subject_of(image), metadata_of(image), model, verify, progress)


#: An image as its values (H, W[, C]), if its mode is one that the VLAE codes.
Subject = np.ndarray | Image.Image


def subject_of(image: Image.Image) -> Subject:
    """An image as `compress_subject` takes it."""
    return values_of(image) if image.mode in CODED_MODES else image


def compress_subject(
    subject: Subject, metadata: dict[str, Any], model: Model | None, verify: bool, progress: Progress,
    source: tuple[SourceFile, bytes] | None = None, quick: bool = False,
) -> bytes:  # fmt: skip
    """The file of an image that was given as a `Subject`.

    Of a large image only one copy lives at a time, if the caller keeps none.

    With ``source``, what makes a file again of the pixels, and the digest of that file, which then is the one checked.
    """
    data = b""
    recipe = source[0] if source else None
    width, height = subject.size if isinstance(subject, Image.Image) else subject.shape[1::-1]
    passes = Passes(progress, width * height)
    if isinstance(subject, Image.Image):
        digest = source[1] if source else digest_of(subject)
        header = Header(FileKind.FALLBACK, width, height, digest, metadata, recipe, pillow_mode=subject.mode)
    else:
        look = look_at(subject)
        planes, kind = to_planes(subject)
        digest = source[1] if source else pixel_digest(kind.image_mode, (width, height), [subject.data.cast("B")])
        header = Header(FileKind.VLAE, width, height, digest, metadata, recipe, pillow_mode=kind.image_mode)
        if quick or _model_may_win(look):
            model = model or load_model()
            header.alpha = _encode_alpha(subject, quick) if kind.has_alpha else b""
            data = _vlae(planes, kind, header, model, passes.take(VLAE_SHARE if verify else 1 - REST))
            # What takes next to no bits is left to the fallbacks, which take next to no time.
            data = data if header.is_bounded((header.costs[0] - header.costs[1] + header.costs[2]) // 8) else b""
        del planes
    webp = isinstance(subject, Image.Image) or not data or look.subpixels <= SMALL or worth_trying(look, len(data))
    if isinstance(subject, Image.Image) or not data or (not quick and _fallback_may_win(look, len(data))):
        image = subject if isinstance(subject, Image.Image) else Image.fromarray(subject)
        del subject
        header.file_kind = FileKind.FALLBACK
        share = FALLBACKS_SHARE if data and verify else 1 - REST
        header.fallback_kind, payload = smallest_fallback(image, passes.take(share), quick, webp)
        other = container.write(header, payload)
        if not data or len(other) < len(data):
            data = other
        del image
    else:
        del subject
    if verify:
        try:
            written = container.read(data, container.MAX_SIDE**2)
            check = rebuilt if written[0].source else _pixels
            check(*written, model, passes.take(1))
        except CorruptFile as error:
            raise VerificationFailed(
                f"the file does not decode to the image given: {error}; please report this with the image"
            ) from None
    passes.finish()
    return data


def _as_image(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UnsupportedImage(
            f"array of {array.dtype}, shape {array.shape}; expected uint8 (H, W), (H, W, 3) or (H, W, 4)"
        )
    if array.size == 0:
        raise UnsupportedImage(f"array of shape {array.shape} has no pixels")
    return Image.fromarray(array)


def _vlae(planes: np.ndarray, pixel_kind: PixelKind, header: Header, model: Model, progress: Progress) -> bytes:
    """The smallest .vlae file that the model makes of the planes."""
    from vlae_codec.coding.wavefront import Alphabet

    header.pixel_kind = pixel_kind
    if planes.size <= MOST_TURNED:
        alphabet = Alphabet.of(planes, header.channels)
        header.orientation = shortest(planes, lambda part: model.photographs.code_length(part, alphabet))
    kinds = [StageKind.BITS_BACK]
    if not model.config.z_channels:
        kinds = [StageKind.WITHOUT_Z]
    elif planes.size <= SMALL:
        kinds = list(StageKind)
    best: bytes | None = None
    for kind in kinds:
        try:
            data = encode_as(kind, planes, pixel_kind, header, model, progress if best is None else no_progress)
        except EmptyMessage:
            # z wanted more bits than its stage was planned for; the plan leaves room, so this is rare.
            data = encode_as(StageKind.WITHOUT_Z, planes, pixel_kind, header, model)
        if best is None or len(data) < len(best):
            best = data
    assert best is not None
    return best


def encode_as(
    kind: StageKind, planes: np.ndarray, pixel_kind: PixelKind, header: Header, model: Model,
    progress: Progress = no_progress,
) -> bytes:  # fmt: skip
    """A .vlae file of planes (H, W, 3), turned as the header says, whose stages are of a given kind; fills it in."""
    header.file_kind, header.model_id, header.pixel_kind = FileKind.VLAE, model.id, pixel_kind
    # Here, as compiled loops are slow to load and not every picture needs them.
    from vlae_codec.coding.adapt import FEWEST
    from vlae_codec.coding.wavefront import Alphabet

    planes = turned(planes, header.orientation)
    alphabet = Alphabet.of(planes, header.channels)
    header.adapts = model.adapt and header.width * header.height >= FEWEST
    message, stages, costs = model.photographs.encode(planes, alphabet, kind, progress, header.adapts)
    header.lanes, header.stages, header.occurring = message.lanes, stages, alphabet.occurring
    header.lengths = message.lengths[:-1]
    header.costs = (round(costs.z_prior), round(costs.z_posterior), round(costs.pixels))
    return container.write(header, message.flatten().astype("<u4").tobytes())


def _model_may_win(look: Look) -> bool:
    return look.subpixels <= SMALL or not is_drawn(look)


def _fallback_may_win(look: Look, size: int) -> bool:
    return look.subpixels <= SMALL or worth_trying(look, size) or jxl_worth_trying(look, size)


def _encode_alpha(values: np.ndarray, quick: bool = False) -> bytes:
    """The last channel of values (H, W, C) as a header holds it."""
    alpha = np.ascontiguousarray(values[..., -1])
    if alpha.min() == alpha.max():
        return bytes([CONSTANT, alpha[0, 0]])
    kind, data = smallest_fallback(Image.fromarray(alpha), quick=quick)
    return bytes([kind]) + data


def _decode_alpha(header: Header) -> np.ndarray | None:
    """The inverse of `_encode_alpha`: uint8 (H, W)."""
    if not header.pixel_kind.has_alpha:
        return None
    kind, data = header.alpha[0], header.alpha[1:]
    if kind == CONSTANT and len(data) == 1:
        return np.full((header.height, header.width), data[0], np.uint8)
    if kind >= len(FallbackKind):
        raise CorruptFile(f"the alpha channel is coded as kind {kind}, expected below {len(FallbackKind)}")
    return np.asarray(read_fallback(FallbackKind(kind), data, "L", (header.width, header.height)))


def decompress(
    data: bytes,
    model: Model | None = None,
    *,
    progress: Progress = no_progress,
    max_pixels: int = container.MAX_PIXELS,
) -> Image.Image:
    """The image in a .vlae file.

    Parameters
    ----------
    data : bytes
    model : Model, optional
        The one that made the file; by default it is found by the id in the file.
    max_pixels : int
        Refuse a file whose image has more, before memory is taken.

    Raises
    ------
    UnsupportedImage
        If the image has more than ``max_pixels``.
    NotAVlaeFile, UnsupportedVersion, CorruptFile
        If the data are no .vlae file, or one that is damaged. Pixels are returned only if their checksum is right.
    UnknownModel
        If the model is not here, or ``model`` is another one.
    UnsupportedImage
        If the file holds a source file as it is, which Pillow reads only in part.
    """
    if container.kind_of(data) is FileKind.STORED:
        _, name, content = container.read_stored(data)
        return imaging.open_image(content, f"the stored file {name}".strip(), max_pixels)
    header, payload = container.read(data, max_pixels)
    if header.source:
        content = rebuilt(header, payload, model, progress)
        return imaging.open_image(content, f"the file {header.source.name}".strip(), max_pixels)
    pixels = _pixels(header, payload, model, progress)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    restore_metadata(image, header.metadata)
    return image


def _pixels(
    header: Header, payload: bytes | memoryview, model: Model | None, progress: Progress
) -> Image.Image | np.ndarray:
    """An image, or what `PIL.Image.fromarray` makes into one; `CorruptFile` unless its checksum is right."""
    pixels = _unchecked(header, payload, model, progress)
    if isinstance(pixels, Image.Image):
        digest = digest_of(pixels)
    else:
        size = (header.width, header.height)
        digest = pixel_digest(header.pixel_kind.image_mode, size, [pixels.data.cast("B")])
    if digest != header.digest:
        raise CorruptFile(f"checksum of the pixels is {digest.hex()}, {header.digest.hex()} is stored")
    return pixels


def rebuilt(header: Header, payload: bytes | memoryview, model: Model | None, progress: Progress) -> bytes:
    """The source file that a header's recipe makes of the pixels; `CorruptFile` unless its checksum is right."""
    assert header.source is not None
    pixels = _unchecked(header, payload, model, progress)
    return rasters.rebuild(header.source.form, header.source.recipe, pixels, header.digest)


def _unchecked(
    header: Header, payload: bytes | memoryview, model: Model | None, progress: Progress
) -> Image.Image | np.ndarray:
    """What is decoded, whatever its checksum is."""
    expect(progress, header.width * header.height)
    if header.file_kind is FileKind.VLAE:
        return _decode(header, payload, model, progress)
    pixels = read_fallback(header.fallback_kind, payload, header.pillow_mode, (header.width, header.height))
    progress(header.width * header.height)
    return pixels


def _decode(header: Header, payload: bytes | memoryview, model: Model | None, progress: Progress) -> np.ndarray:
    from vlae_codec.coding.wavefront import Alphabet

    assert header.occurring is not None
    if model is not None and model.id != header.model_id:
        raise UnknownModel(
            f"the file was made with model {header.model_id.hex()}, not with {model.name} ({model.id.hex()})"
        )
    model = model or find_model(header.model_id)
    if any(stage.kind is not StageKind.WITHOUT_Z for stage in header.stages) and not model.config.z_channels:
        raise CorruptFile(f"the file codes z, which model {model.name} does not have")
    if len(payload) % 4:
        raise CorruptFile(f"the payload has {len(payload)} bytes, expected a multiple of 4")
    words = np.frombuffer(payload, "<u4").astype(np.uint32, copy=False)
    message: Message | Messages = Message(1)
    if header.lengths:
        message = Messages.unflatten(words, header.lanes, header.lengths)
    else:
        message = Message.unflatten(words, header.lanes)
    alphabet = Alphabet.having(header.occurring)
    size = header.height, header.width
    if header.orientation & TRANSPOSED:
        size = size[::-1]
    planes, _ = model.photographs.decode(message, size, alphabet, header.stages, progress, header.adapts)
    planes = turned_back(planes, header.orientation)
    return from_planes(planes, header.pixel_kind, _decode_alpha(header))
