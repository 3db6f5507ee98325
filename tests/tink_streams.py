"""Google Tink's own streaming encryption, the independent implementation of the format of sealed files."""

from __future__ import annotations

import io
from typing import Any

import pytest


class _Kept(io.BytesIO):
    """Tink closes what it wrote into."""

    def close(self) -> None:
        pass


def primitive(key: bytes) -> Any:
    """Tink's AES256_GCM_HKDF_1MB under a key of the test's choice."""
    streaming_aead = pytest.importorskip("tink.streaming_aead")
    import tink
    from tink import secret_key_access
    from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

    streaming_aead.register()
    material = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        key_value=key,
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=1024 * 1024, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
        ),
    )
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_data=tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=material.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
        status=tink_pb2.ENABLED,
        key_id=1,
        output_prefix_type=tink_pb2.RAW,
    )
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def tink_encrypt(data: bytes, key: bytes, associated_data: bytes) -> bytes:
    sealed = _Kept()
    with primitive(key).new_encrypting_stream(sealed, associated_data) as out:
        out.write(data)
    return sealed.getvalue()


def tink_refuses() -> Any:
    return pytest.raises(pytest.importorskip("tink").TinkError)


def tink_decrypt(data: bytes, key: bytes, associated_data: bytes) -> bytes:
    """Raises tink.TinkError for what is not authentic."""
    with primitive(key).new_decrypting_stream(io.BytesIO(data), associated_data) as stream:
        return stream.read()
