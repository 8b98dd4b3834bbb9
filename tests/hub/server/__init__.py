"""A local Hub for tests: it answers the unmodified `huggingface_hub` client over HTTP, through `HF_ENDPOINT`.

    with LocalHub(users=[User("ann", token="hf_ann")]) as hub:
        os.environ["HF_ENDPOINT"] = hub.url  # before huggingface_hub is imported, which reads the variable once
        hub.faults.add("commit", status=500)

Its state is in memory and in a temporary folder, and ends with the process. Without `xet`, clients fall back to LFS.
"""

from tests.hub.server.faults import Fault, Faults
from tests.hub.server.local import LocalHub
from tests.hub.server.state import Repo, User

__all__ = ["Fault", "Faults", "LocalHub", "Repo", "User"]
