"""What a model file says of itself, read without its weights."""

from __future__ import annotations

import json
from typing import Any

from vlae_codec.models.config import VLAEConfig

from vlae_codec.errors import UnknownModel

#: Key of the safetensors file's metadata.
KEY = "vlae_codec_model"


def read_header(data: bytes) -> tuple[Any, VLAEConfig]:
    """The version of a model file's layout, and the configuration of its networks; `UnknownModel` if it is none."""
    try:
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
        version, config = meta["version"], json.dumps(meta["config"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnknownModel(f"not a model of vlae-codec ({type(error).__name__})") from None
    return version, VLAEConfig.from_json(config)
