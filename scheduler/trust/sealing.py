"""Encrypts what is kept for a while and must not be read where it lies: AES-GCM, under a key of 32 bytes.

Several schedulers seal with a key that is derived from the CA's, which all of them have and Redis has not.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any, Final

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_PURPOSE: Final = b"p2pd preheat credentials 1"


class Sealer:
    """Seals texts. `key` gives the key at the first use, and may raise TrustError. Any thread may use it."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key: Final = key
        self._lock: Final = threading.Lock()
        self._cipher: Any = None

    def sealed(self, text: str) -> bytes:
        """Raises TrustError if there is no key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = self._made().encrypt(nonce, text.encode(), None)
        return nonce + sealed

    def opened(self, sealed: bytes) -> str:
        """ "" if it was sealed with another key, or was changed. Raises TrustError if there is no key."""
        from cryptography.exceptions import InvalidTag

        try:
            text: bytes = self._made().decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            return ""
        return text.decode()

    def _made(self) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 10 MiB, for jobs with credentials alone

        with self._lock:
            if self._cipher is None:
                self._cipher = AESGCM(self._key())
            return self._cipher


def key_of_ca(key_pem: bytes) -> bytes:
    """The key that all schedulers with a CA's private key have (HKDF-SHA256, RFC 5869). Raises ValueError, TypeError.

    The bytes are of the key itself, so that two files that write it differently give the same.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = serialization.load_pem_private_key(key_pem, None)
    encoded = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return HKDF(hashes.SHA256(), KEY_BYTES, None, _PURPOSE).derive(encoded)
