"""Compress, decompress and explain: the Python interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from . import container, imaging
from .ans import Message
from .coder import SMALL, Alphabet, Costs, Progress, no_progress
from .container import Header, Mode, PixelKind
from .errors import CorruptFile, EmptyMessage, UnknownModel, UnsupportedImage, VerificationFailed
from .registry import Model, find_model, load_model
from .schedule import StageKind

#: A quick WebP below this share of the VLAE's size makes the slow fallbacks worth trying. On photographs the best WebP
#: was 0.5 to 12 % smaller than the quick one, and took over a hundred times as long.
FALLBACK_SHARE = 1.2


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
        Called with the pixels done since its last call; with ``verify``, each pixel counts twice.
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
    header = Header(Mode.FALLBACK, *image.size, imaging.digest_of(image), imaging.metadata_of(image))
    header.pillow_mode = image.mode
    data: bytes | None = None
    planes = imaging.to_planes(image)
    if planes is not None:
        model = model or load_model()
        data = _vlae(*planes, header, model, progress)
    if data is None or _fallback_may_win(image, len(data)):
        header.mode = Mode.FALLBACK
        header.fallback_kind, payload = imaging.smallest_fallback(image)
        other = container.write(header, payload)
        if data is None or len(other) < len(data):
            data = other
    if verify:
        again = decompress(data, model, progress=progress, max_pixels=max_pixels)
        if again.mode != image.mode or imaging.digest_of(again) != header.digest:
            raise VerificationFailed("the decoded image differs from the one given; please report this with the image")
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


def _vlae(planes: np.ndarray, kind: PixelKind, header: Header, model: Model, progress: Progress) -> bytes:
    """The smallest .vlae file that the model makes of the planes."""
    ways = [StageKind.BITS_BACK]
    if not model.photographs.config.z_channels:
        ways = [StageKind.WITHOUT_Z]
    elif planes.size <= SMALL:
        ways = list(StageKind)
    best: bytes | None = None
    for way in ways:
        try:
            data = encode_as(way, planes, kind, header, model, progress if best is None else no_progress)
        except EmptyMessage:
            # z wanted more bits than its stage was planned for; the plan leaves room, so this is rare.
            data = encode_as(StageKind.WITHOUT_Z, planes, kind, header, model)
        if best is None or len(data) < len(best):
            best = data
    assert best is not None
    return best


def encode_as(
    way: StageKind, planes: np.ndarray, kind: PixelKind, header: Header, model: Model, progress: Progress = no_progress
) -> bytes:
    """A .vlae file of planes (H, W, 3) whose z is coded in a given way; fills in the header."""
    alphabet = Alphabet.of(planes, 3 if kind is PixelKind.RGB else 1)
    message, stages, costs = model.photographs.encode(planes, alphabet, way, progress)
    header.mode, header.model_id, header.pixel_kind = Mode.VLAE, model.id, kind
    header.lanes, header.stages, header.occurring = message.lanes, stages, alphabet.occurring
    header.costs = (round(costs.z_prior), round(costs.z_posterior), round(costs.pixels))
    return container.write(header, message.flatten().astype("<u4").tobytes())


def _fallback_may_win(image: Image.Image, size: int) -> bool:
    if image.width * image.height * 3 <= SMALL:
        return True
    quick = imaging.webp_size(image if image.mode == "RGB" else image.convert("RGB"))
    return quick is not None and quick < FALLBACK_SHARE * size


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
    """
    header, payload = container.read(data, max_pixels)
    size = (header.width, header.height)
    if header.mode is Mode.FALLBACK:
        image = imaging.read_fallback(header.fallback_kind, payload, header.pillow_mode, size)
        progress(header.width * header.height)
    else:
        image, _ = _decode(header, payload, model, progress)
    if imaging.digest_of(image) != header.digest:
        raise CorruptFile(f"checksum of the pixels is not the stored {header.digest.hex()}")
    imaging.restore_metadata(image, header.metadata)
    return image


def _decode(header: Header, payload: bytes, model: Model | None, progress: Progress) -> tuple[Image.Image, Costs]:
    assert header.occurring is not None
    if model is not None and model.id != header.model_id:
        raise UnknownModel(
            f"the file was made with model {header.model_id.hex()}, not with {model.name} ({model.id.hex()})"
        )
    model = model or find_model(header.model_id)
    if (
        any(stage.kind is not StageKind.WITHOUT_Z for stage in header.stages)
        and not model.photographs.config.z_channels
    ):
        raise CorruptFile(f"the file codes z, which model {model.name} does not have")
    if len(payload) % 4:
        raise CorruptFile(f"the payload has {len(payload)} bytes, expected a multiple of 4")
    words = np.frombuffer(payload, "<u4").astype(np.uint32)
    message = Message.unflatten(words, header.lanes)
    alphabet = Alphabet(header.occurring)
    planes, costs = model.photographs.decode(message, (header.height, header.width), alphabet, header.stages, progress)
    return imaging.from_planes(planes, header.pixel_kind), costs


def info(data: bytes) -> dict[str, Any]:
    """What a .vlae file holds and where its bits went, without decoding it.

    Returns
    -------
    dict with at least ``file_bytes``, ``width``, ``height``, ``pixels`` (the number of subpixels),
    ``bits_per_subpixel``, ``mode`` (``vlae``, ``vlae-no-z`` or ``fallback``), ``model``, ``window``, ``elbo_bits`` and
    ``bits``: ``z_prior`` (pushed under p(z)), ``z_posterior`` (popped under q(z|x)), ``pixels``, ``lanes_and_flush``,
    ``header``. For a fallback, ``model``, ``window`` and ``elbo_bits`` are None and ``pixels`` is its payload.
    """
    header, payload = container.read(data, container.MAX_SIDE**2)
    image_mode = (
        header.pillow_mode if header.mode is Mode.FALLBACK else ("L" if header.pixel_kind is PixelKind.GREY else "RGB")
    )
    try:
        bands = len(Image.new(image_mode, (1, 1)).getbands())
    except ValueError:
        raise CorruptFile(f"the file holds an image of mode {image_mode!r}, which Pillow does not know") from None
    subpixels = header.width * header.height * bands
    result: dict[str, Any] = {
        "file_bytes": len(data),
        "format_version": container.VERSION,
        "width": header.width,
        "height": header.height,
        "image_mode": image_mode,
        "pixels": subpixels,
        "bits_per_subpixel": 8 * len(data) / subpixels,
        "metadata": sorted(header.metadata),
    }
    overhead = 8 * (len(data) - len(payload))
    if header.mode is Mode.FALLBACK:
        bits = {"z_prior": 0, "z_posterior": 0, "pixels": 8 * len(payload), "lanes_and_flush": 0, "header": overhead}
        return result | {
            "mode": "fallback", "fallback": header.fallback_kind.name.lower(), "model": None, "window": None,
            "bits": bits, "elbo_bits": None,
        }  # fmt: skip
    prior, posterior, pixels = header.costs
    elbo = prior - posterior + pixels
    bits = {
        "z_prior": prior, "z_posterior": posterior, "pixels": pixels,
        "lanes_and_flush": 8 * len(payload) - elbo, "header": overhead,
    }  # fmt: skip
    with_z = any(stage.kind is not StageKind.WITHOUT_Z for stage in header.stages)
    try:
        model: Model | None = find_model(header.model_id, "cpu")
    except UnknownModel:
        model = None
    return result | {
        "mode": "vlae" if with_z else "vlae-no-z",
        "model": model.name if model else None,
        "model_id": header.model_id.hex(),
        "window": model.window if model else None,
        "coded_channels": header.channels,
        "values": [int(row.sum()) for row in header.occurring] if header.occurring is not None else [],
        "lanes": header.lanes,
        "stages": [{"rows": s.bottom - s.top, "z": s.kind.name.lower().replace("_", "-")} for s in header.stages],
        "bits": bits,
        "elbo_bits": elbo,
    }
