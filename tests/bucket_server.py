"""A Google Cloud Storage of one's own: `python -m tests.bucket_server PORT` serves an empty bucket named `bucket`."""

import http.server
import re
import sys
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server


def _move(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
    """What gcsfs renames with, and the emulator lacks."""
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    request.params["dest_bucket_name"] = bucket
    objects.copy(request, response, storage)
    if response.status == HTTPStatus.OK:
        try:
            storage.delete_file(bucket, name)
        except NotFound:
            response.status = HTTPStatus.NOT_FOUND


_MOVE = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)/moveTo/o/(?P<dest_object_id>.*[^/]+)$"
# several connections stay open at once
http.server.HTTPServer = http.server.ThreadingHTTPServer
server.HANDLERS = ((_MOVE, {server.POST: _move}), *server.HANDLERS)


def main(port: int) -> None:
    """Serve until it is killed."""
    assert re.fullmatch(_MOVE, "/storage/v1/b/bucket/o/a/moveTo/o/b")
    serving = create_server("localhost", port, in_memory=True, default_bucket="bucket")
    print("ready", flush=True)
    serving.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
