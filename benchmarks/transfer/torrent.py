"""libtorrent beside p2pd: `python -m benchmarks.transfer.torrent seed FILE TORRENT`, `… fetch TORRENT PORT DIRECTORY`.

Each process has one session, over TCP, without peer discovery. The torrent is of version 1, the faster version here: it
hashes each byte once, by SHA-1. `seed` writes the torrent, prints its port, and serves until its standard input ends.
`fetch` prints JSON: the seconds from before it has the torrent until the last piece is verified.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent  # type: ignore[import-not-found,unused-ignore]  # an extra; it ships no types

PIECE_BYTES = 4 * 2**20
BOUND_S = 300.0


def session() -> Any:
    """A session without a limit on uploads: p2pd has none on this machine either."""
    return libtorrent.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "unchoke_slots_limit": -1,
            "rate_limit_ip_overhead": False,
            "max_out_request_queue": 2000,
            "send_buffer_watermark": 4 * 2**20,
            "aio_threads": 4,
            "hashing_threads": 2,
        }
    )


def seed(file: Path, torrent: Path) -> None:
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, str(file))
    created = libtorrent.create_torrent(storage, PIECE_BYTES, libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(created, str(file.parent))
    torrent.write_bytes(libtorrent.bencode(created.generate()))
    serving = session()
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(file.parent)
    parameters.flags = libtorrent.torrent_flags.seed_mode
    serving.add_torrent(parameters)
    print(serving.listen_port(), flush=True)
    sys.stdin.read()


def fetch(torrent: Path, port: int, directory: Path) -> None:
    fetching = session()
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(directory)
    parameters.flags = libtorrent.torrent_flags.update_subscribe
    started = time.perf_counter()
    handle = fetching.add_torrent(parameters)
    handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        if time.perf_counter() - started > BOUND_S:
            raise SystemExit(f"libtorrent did not finish within {BOUND_S:g} s")
        time.sleep(0.01)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["seed", file, torrent]:
            seed(Path(file), Path(torrent))
        case ["fetch", torrent, port, directory]:
            fetch(Path(torrent), int(port), Path(directory))
        case _:
            raise SystemExit(__doc__)
