"""Joining and renewing: HTTP on the scheduler's port, beside the WebSocket.

    GET  /v1/ca      the CA's certificate, as PEM: the host compares it with the fingerprint in its join token
    POST /v1/join    {"token": …, "host": …, "request": PEM}: a certificate, as PEM, for the bearer of a token
    POST /v1/renew   {"request": PEM}: a certificate for the holder of one, which TLS has verified

All of it is over TLS 1.3 and nothing over plain HTTP. A member of a cluster is its certificate (`scheduler.trust`): its
one URI is spiffe://CLUSTER/host/ID or spiffe://CLUSTER/scheduler. The id in Hello, on links and in requests for pieces
must be the one in the certificate of the connection, on both sides. What is refused has the status 403 and
{"reason": …, "error": …}, where the reason is one word that a program can go by, and the error is for an operator.
"""

from __future__ import annotations

from typing import Final

CA_PATH: Final = "/v1/ca"
JOIN_PATH: Final = "/v1/join"
RENEW_PATH: Final = "/v1/renew"

MAX_BODY_BYTES: Final = 16 * 1024
"""The length of a request or of an answer. Requests have 800 bytes."""
