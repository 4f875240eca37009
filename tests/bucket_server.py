"""A Google Cloud Storage of one's own: `python -m tests.bucket_server PORT` serves an empty bucket named `bucket`."""

import http.server
import re
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_MOVE = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)/moveTo/o/(?P<dest_object_id>.*[^/]+)$"
_PATH = ("bucket_name", "object_id")


def _move(request: Any, response: Any, storage: Any) -> None:
    """What gcsfs renames with, and the emulator lacks."""
    bucket, name = (request.params[part] for part in _PATH)
    request.params["dest_bucket_name"] = bucket
    objects.copy(request, response, storage)
    if response.status == HTTPStatus.OK:
        try:
            storage.delete_file(bucket, name)
        except NotFound:
            response.status = HTTPStatus.NOT_FOUND


def _generation(request: Any, storage: Any) -> str:
    """Of the object that is read or written; "0" where there is none."""
    bucket, name = (request.params.get(part) or request.query.get("name", [""])[0] for part in _PATH)
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def _conditional(handler: Callable[..., None]) -> Callable[..., None]:
    """The handler with the conditions and the header that tensorstore relies on, and the emulator lacks."""

    def wrapped(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        generation = _generation(request, storage)
        if request.query.get("ifGenerationMatch", [generation])[0] != generation:
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif request.query.get("ifGenerationNotMatch", [""])[0] == generation:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage, *args, **kwargs)
            if request.query.get("alt") == ["media"] and generation != "0":
                response["x-goog-generation"] = generation

    return wrapped


def _mend() -> None:
    """Complete the emulator's table of handlers; several connections at once, but one request after the other."""
    table: list[Any] = [(_MOVE, {server.POST: _move})]
    for pattern, handlers in server.HANDLERS:
        about_objects = any(handler.__module__ == objects.__name__ for handler in handlers.values())
        table.append(
            (pattern, {name: _conditional(each) if about_objects else each for name, each in handlers.items()})
        )
    server.HANDLERS = tuple(table)

    class InTurn(server.Router):
        turn = threading.Lock()

        def handle(self, method: str) -> None:
            with self.turn:
                super().handle(method)

    server.Router = InTurn
    http.server.HTTPServer = http.server.ThreadingHTTPServer


def main(port: int) -> None:
    """Serve until it is killed."""
    assert re.fullmatch(_MOVE, "/storage/v1/b/bucket/o/a/moveTo/o/b")
    _mend()
    serving = server.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    print("ready", flush=True)
    serving.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
