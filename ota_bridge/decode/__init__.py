"""Strict, bounded readers of JSON, msgpack and CBOR, and typed pickers over what they return.

1. Only `Malformed` leaves, whatever the bytes are. Its sentence names the field and what is allowed there,
   and shows at most 40 characters of what came.
2. Bytes, depth and number of items are bounded. Depth counts nested maps and arrays.
3. Text is UTF-8 without lone surrogates; a map names each key once; NaN and infinity do not exist; floats
   are refused unless asked for; integers lie in -2^63 .. 2^64-1. No msgpack extension types.
4. CBOR is the deterministic subset of RFC 8949 §4.2 that manifests use: unsigned integers, byte and text
   strings, arrays, maps, null; shortest heads, definite lengths, ascending keys; no tags, floats, booleans
   or trailing bytes.
5. There is one number parser, `number`: an integer (never a boolean or float), or its canonical decimal
   text: ASCII, no spaces, no leading zeros, no plus; a minus only where negative numbers are allowed.

    fields = Fields(read_json(payload, max_bytes=4096), binary_as_text=True)
    seq = fields.uint("seq", maximum=U32)
    next_s = fields.optional(fields.uint, "next_s", maximum=U32)
"""

from ota_bridge.decode.bounds import U32, U64, MapKeys, shown
from ota_bridge.decode.cbor import read_cbor
from ota_bridge.decode.fields import Fields, number
from ota_bridge.decode.readers import read_json, read_msgpack

__all__ = ["U32", "U64", "Fields", "MapKeys", "number", "read_cbor", "read_json", "read_msgpack", "shown"]
