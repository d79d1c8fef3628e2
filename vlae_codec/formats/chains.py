"""Many binary images in one message: its fields in an archive's section, written and read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy.ans import HEAD_MIN, Message
from vlae_codec.errors import CorruptFile, UnsupportedImage
from vlae_codec.fields import Reader, write_varint
from vlae_codec.images.pixels import pixel_digest
from vlae_codec.stages import MAX_BATCH, MAX_EXPONENT, MAX_GROWTH, MAX_PARTICLES, Plan, Stage, StageKind

from .header import MAX_LANES

if TYPE_CHECKING:
    from vlae_codec.coding.binary import Chained

#: Bits of the digest that are left on a message once all is decoded, where a head begins: they take no room of their
#: own.
SEED_BITS = 31
#: What they add to a head of 2^31, in bits, on average.
_SEED_ON_AVERAGE = 2 - 1 / math.log(2)
#: Code lengths beside a plan are in units of so many bits: they are for information.
COST_UNIT = 16
#: Fewest bytes of the head of a message's flat form; eight at most.
_HEAD_BYTES = 5


@dataclass
class Chain:
    """What a section says of its images but their pixels."""

    model: bytes
    #: The fields that say how the images fall into stages.
    layout: Plan | list[Stage]
    #: Code lengths of z under the prior, of z under the posterior, and of the pixels, in whole bits.
    costs: tuple[int, int, int]
    payload: bytes = field(repr=False)
    lanes: int = 1
    #: Of a chain without a plan, whose message ends with nothing left.
    digest: bytes = b""

    @property
    def particles(self) -> int:
        """Draws of each z, of which one is coded."""
        return self.layout.particles if isinstance(self.layout, Plan) else 1

    def stages(self, count: int) -> list[Stage]:
        """Those of so many images, in the order in which they decode."""
        return self.layout.stages(count) if isinstance(self.layout, Plan) else self.layout

    def message(self) -> Message:
        """The message; `CorruptFile` if it is none."""
        if isinstance(self.layout, Plan):
            return _seeded(self.payload)
        if len(self.payload) % 4:
            raise CorruptFile(f"the payload has {len(self.payload)} bytes, expected a multiple of 4")
        return Message.unflatten(np.frombuffer(self.payload, "<u4"), self.lanes)

    def check(self, images: NDArray[np.uint8], message: Message) -> None:
        """`CorruptFile` unless the images that are decoded, and what is left of the message, are those that were."""
        digest = binary_digest(images)
        if isinstance(self.layout, Plan):
            left = int(message.heads[0]) - HEAD_MIN
            if left != seed_of(digest):
                raise CorruptFile(f"checksum of the pixels is {seed_of(digest):08x}, {left:08x} is stored")
            return
        if not message.empty:
            raise CorruptFile("bits are left over after the last image")
        if digest != self.digest:
            raise CorruptFile(f"checksum of the pixels is not the stored {self.digest.hex()}")


def binary_digest(images: NDArray[np.uint8]) -> bytes:
    """`pixel_digest` of binary images (N, S, S) of zeros and ones, as packed bits."""
    return pixel_digest("binary", (images.shape[2], images.shape[0] * images.shape[1]), [np.packbits(images).tobytes()])


def seed_of(digest: bytes) -> int:
    """The first 31 bits of a digest."""
    return int.from_bytes(digest[:4], "little") & ((1 << SEED_BITS) - 1)


# -- with a plan -------------------------------------------------------------------------------------------------------


def write_planned(model: bytes, chained: Chained, count: int) -> bytes:
    """The fields of so many images, from the model's id on.

    Raises
    ------
    UnsupportedImage
        If a reader would not believe that so few bytes hold so many images.
    """
    message, plan, costs = chained
    out = bytearray(model + write_varint(plan.coarse) + bytes([plan.exponent, plan.growth, plan.particles]))
    for cost in (costs.z_prior, costs.z_posterior):
        out += write_varint(max(round(cost / COST_UNIT), 0))
    head = int(message.heads[0])
    out += message.words[: message.size].astype("<u4").tobytes()
    out += head.to_bytes(max(-(-head.bit_length() // 8), _HEAD_BYTES), "little")
    if count > MAX_BATCH * len(out):
        raise UnsupportedImage(f"{count} images in a segment of {len(out)} bytes; use a smaller --segment")
    return bytes(out)


def read_planned(reader: Reader, count: int) -> Chain:
    """The inverse of `write_planned`, of a reader whose data end with the fields; `CorruptFile` if they cannot be."""
    model = reader.take(8, "the model id")
    coarse = reader.varint("the images with a plain z", 0, count)
    exponent = reader.byte("the exponent", MAX_EXPONENT + 1)
    growth, particles = reader.byte("the growth", MAX_GROWTH + 1), reader.byte("the particles", MAX_PARTICLES + 1)
    if not particles:
        raise CorruptFile(f"no particles, expected 1..{MAX_PARTICLES}")
    prior, posterior = (COST_UNIT * reader.varint("a code length", 0, (1 << 52) - 1) for _ in range(2))
    payload = bytes(reader.data[reader.at :])
    if count > MAX_BATCH * len(reader.data):
        raise CorruptFile(f"{count} images in {len(reader.data)} bytes, which hold too few")
    message = _seeded(payload)
    bits = 32 * message.size + math.log2(int(message.heads[0])) - SEED_BITS - _SEED_ON_AVERAGE
    costs = (prior, posterior, max(round(bits) - prior + posterior, 0))
    return Chain(model, Plan(coarse, exponent, growth, particles), costs, payload)


def _seeded(payload: bytes) -> Message:
    """The message of one lane whose words and head these are."""
    head_bytes = _HEAD_BYTES + (len(payload) - _HEAD_BYTES) % 4
    words, head = payload[:-head_bytes], int.from_bytes(payload[-head_bytes:], "little")
    if len(payload) < _HEAD_BYTES or not HEAD_MIN <= head < 1 << 63:
        raise CorruptFile("ANS message with a head outside [2^31, 2^63)")
    message = Message(1)
    message.heads[0] = head
    message.words = np.frombuffer(words, "<u4").astype(np.uint32)
    message.size = len(message.words)
    return message


# -- without -----------------------------------------------------------------------------------------------------------


def read_listed(reader: Reader, count: int) -> Chain:
    """The fields of a chain that lists its batches, which is not written any more; `CorruptFile` if they cannot be."""
    digest, model = reader.take(8, "the checksum of the pixels"), reader.take(8, "the model id")
    lanes = reader.varint("the number of lanes", 1, MAX_LANES)
    batches: list[Stage] = []
    for _ in range(reader.varint("the number of batches", 1, count)):
        value = reader.varint("a batch", 4, MAX_BATCH << 2 | 3)
        if value & 3 >= len(StageKind):
            raise CorruptFile(f"a batch of kind {value & 3}, expected below {len(StageKind)}")
        first = batches[-1].last if batches else 0
        batches.append(Stage(first, first + (value >> 2), StageKind(value & 3)))
    if sum(batch.count for batch in batches) != count:
        raise CorruptFile(f"the batches of {count} images do not add up")
    prior, posterior, pixels = (reader.varint("a code length", 0, (1 << 56) - 1) for _ in range(3))
    return Chain(model, batches, (prior, posterior, pixels), bytes(reader.data[reader.at :]), lanes, digest)
