"""Compact JSON text, from an encoder that is made once.

`json.JSONEncoder.encode` makes a new C encoder for every value, and looks for cycles in it: for a report that costs
about as much as to write it. What is written here comes from decoders, which bound its depth and make no cycles.
"""

import json
import json.encoder
from collections.abc import Callable
from typing import Any, Final

_MAKE: Final[Any] = getattr(json.encoder, "c_make_encoder", None)


def compact_encoder(default: Callable[[Any], Any], *, ensure_ascii: bool = True) -> Callable[[Any], str]:
    """Writes a value as JSON without spaces; `default` gives what stands for a value that JSON does not have."""
    slow = json.JSONEncoder(ensure_ascii=ensure_ascii, separators=(",", ":"), default=default)
    if _MAKE is None:  # an interpreter without the encoder in C
        return slow.encode
    text = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    chunks: Callable[[Any, int], tuple[str, ...]] = _MAKE(None, default, text, None, ":", ",", False, False, True)
    join = "".join

    def encode(value: Any) -> str:
        return join(chunks(value, 0))

    return encode
