"""Real programs against p2pd: dockerd, containerd, podman and skopeo pull a real image from docker-registry through it.

How the pieces stand to each other:

    client (dockerd.py, containerd.py, cri.py, podman.py, skopeo.py) -> p2pd (node.py)
        -> nginx that keeps a record of every request (origin.py), and may ask for a password (guards.py, slapd.py)
        -> docker-registry (registry.py), which may ask for a token (tokens.py)

Rules:
1. All traffic stays on loopback. A client that gives up on p2pd and turns to docker.io finds a closed port.
2. Every program is started by `programs.Program`, ended by its process id, and ends with the test run at the latest.
3. Everything is below one directory (`paths.py`), which is removed; only the image is kept, in the user's cache.
4. Tests wait for conditions with a bound, never for a length of time.
"""
