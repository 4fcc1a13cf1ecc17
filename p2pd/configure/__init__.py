"""`p2pd configure`: point a container runtime at the mirror, and undo that exactly.

    runtime.py     what a runtime's module gives: a pure function from the files there are to the files there should be
    docker.py, containerd.py, registries_conf.py (podman and CRI-O), buildkit.py, k3s.py: one each
    hosts_toml.py, toml_text.py: what several of them write, and how it is written into an operator's file
    tree.py        the seam to the disk: atomic writes below a root
    journal.py     what was there before us, kept so that it can be put back
    plan.py        all changes or none, and the way back
    dockerd.py     the running dockerd, which reads its file again on a signal

No runtime is ever restarted: that is the operator's to time. What has to be restarted is said.
"""
