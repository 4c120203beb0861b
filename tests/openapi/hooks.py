"""What the tester has to be told about this server: MessagePack, ETags, cursors, and whole numbers that are
written as such."""

import msgpack
import schemathesis
from hypothesis import strategies

schemathesis.openapi.format("etag", strategies.integers(0, 2**53).map(lambda version: f'"{version}"'))


@schemathesis.hook
def before_load_schema(ctx, raw_schema):
    """A cursor is what the server gave, and nothing that is made up is good: stranger.py has one."""
    wait_for = {"$ref": "#/components/parameters/wait_for"}
    for path in raw_schema["paths"].values():
        parameters = path.get("get", {}).get("parameters", [])
        if wait_for in parameters:
            parameters.remove(wait_for)


@schemathesis.serializer("application/msgpack")
def to_msgpack(ctx, value):
    return msgpack.packb(packable(value))


@schemathesis.deserializer("application/msgpack")
def from_msgpack(ctx, response):
    return msgpack.unpackb(response.content)


@schemathesis.hook
def map_body(ctx, body):
    return whole(body)


def whole(value):
    """To JSON Schema 1.0 is an integer; to this server, as to most, it is none."""
    return each(value, lambda item: int(item) if isinstance(item, float) and item.is_integer() else item)


def packable(value):
    """MessagePack has no integers beyond 64 bits."""
    return each(value, lambda item: float(item) if isinstance(item, int) and not -(2**63) <= item < 2**64 else item)


def each(value, change):
    if isinstance(value, list):
        return [each(item, change) for item in value]
    if isinstance(value, dict):
        return {name: each(item, change) for name, item in value.items()}
    return change(value)
