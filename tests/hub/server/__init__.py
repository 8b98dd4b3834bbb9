"""A Hub on this machine for tests: real HTTP for the unmodified `huggingface_hub` client, by `HF_ENDPOINT`.

    with LocalHub(users=[User("ann", token="hf_ann")]) as hub:
        os.environ["HF_ENDPOINT"] = hub.url  # before huggingface_hub is imported, which reads it once
        hub.faults.add("commit", status=500)

State lies in memory and a temporary folder; nothing outlives the process. Without `xet` clients fall back to LFS.
"""

from tests.hub.server.faults import Fault, Faults
from tests.hub.server.local import LocalHub
from tests.hub.server.state import Repo, User

__all__ = ["Fault", "Faults", "LocalHub", "Repo", "User"]
