"""Messages of Envoy's whole API, as the generated code of its own definitions writes them.

    golden.py write FOLDER            writes one file for each message
    golden.py compare < DESCRIPTORS   compares a trimmed FileDescriptorSet with Envoy's own
    golden.py ask ADDRESS < TOKEN     asks a server and prints its answers as lines of JSON

Every field that Envoy 1.40 can send is set in some request, so that a reader that was written
from a trimmed definition meets all of them.
"""

import json
import pathlib
import sys

import grpc
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.service.auth.v3 import (
    attribute_context_pb2,
    external_auth_pb2,
    external_auth_pb2_grpc,
)
from envoy.type.v3 import http_status_pb2
from google.protobuf import any_pb2, descriptor_pb2, json_format, struct_pb2, wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import status_pb2

HEADERS = {
    ":authority": "api.example.com",
    ":method": "POST",
    ":path": "/v1/projects/web/secrets/db?version=2",
    "authorization": "Bearer lkr_1",
    "x-api-key": "lkr_2,lkr_3",
    "x-environment": "prod",
    "x-forwarded-for": "203.0.113.9, 10.0.0.1",
}
# As they come where Envoy sends them raw: doubled, empty, and not text at all.
RAW_HEADERS = [
    ("authorization", b"Bearer lkr_1"),
    ("authorization", b"Bearer lkr_2"),
    ("x-empty", b""),
    ("x-environment", b"prod"),
    ("x-latin", "größe".encode("latin-1")),
    ("x-utf8", "größe".encode()),
]


def struct(**fields):
    made = struct_pb2.Struct()
    made.update(fields)
    return made


def peer(address, port, **more):
    socket = address_pb2.SocketAddress(address=address, port_value=port)
    return attribute_context_pb2.AttributeContext.Peer(
        address=address_pb2.Address(socket_address=socket), **more
    )


def raw(*pairs):
    headers = [base_pb2.HeaderValue(key=key, raw_value=value) for key, value in pairs]
    return base_pb2.HeaderMap(headers=headers)


def request(**http):
    """Everything that Envoy can send about a request, beside its headers."""
    made = external_auth_pb2.CheckRequest()
    attributes = made.attributes
    attributes.source.CopyFrom(
        peer(
            "192.0.2.7",
            50123,
            service="front",
            labels={"app": "front", "zone": "a"},
            principal="spiffe://example.com/ns/front/sa/web",
            certificate="-----BEGIN%20CERTIFICATE-----%0AMIIB%0A-----END%20CERTIFICATE-----%0A",
        )
    )
    attributes.destination.CopyFrom(
        peer("2001:db8::1", 8443, service="back", principal="spiffe://example.com/ns/back/sa/api")
    )
    attributes.request.time.FromMilliseconds(1_700_000_000_123)
    attributes.request.http.CopyFrom(
        attribute_context_pb2.AttributeContext.HttpRequest(
            id="15270914123163486206",
            method="POST",
            path="/v1/projects/web/secrets/db?version=2",
            host="api.example.com",
            scheme="https",
            query="version=2",
            fragment="top",
            size=11,
            protocol="HTTP/1.1",
            body="hello world",
            raw_body=b"\x00\xff raw",
            **http,
        )
    )
    attributes.context_extensions.update(
        {
            "latchkey.action": "secrets:read",
            "latchkey.path": "/v1/projects/{project}/secrets/{name}",
            "latchkey.resource": "acme/{project}/{header:x-environment}/{name}",
            "other": "value",
        }
    )
    payload = any_pb2.Any()
    payload.Pack(wrappers_pb2.StringValue(value="typed"))
    for metadata in (attributes.metadata_context, attributes.route_metadata_context):
        metadata.filter_metadata["envoy.filters.http.jwt_authn"].CopyFrom(struct(sub="alice", n=1))
        metadata.typed_filter_metadata["typed"].CopyFrom(payload)
    attributes.tls_session.sni = "api.example.com"
    return made


def proxyless():
    """What gRPC sends without a proxy: no id, scheme, headers or context extensions."""
    made = external_auth_pb2.CheckRequest()
    attributes = made.attributes
    attributes.source.CopyFrom(peer("198.51.100.4", 41000))
    attributes.destination.CopyFrom(peer("198.51.100.5", 443))
    http = attributes.request.http
    http.method, http.path, http.size, http.protocol = "POST", "/acme.v1.Secrets/Get", -1, "HTTP/2"
    http.header_map.headers.add(key="authorization", raw_value=b"Bearer lkr_1")
    return made


def over_a_pipe():
    """A peer on a Unix socket, which has no address that a trimmed definition knows."""
    made = external_auth_pb2.CheckRequest()
    made.attributes.source.address.pipe.path = "/run/front.sock"
    made.attributes.destination.address.envoy_internal_address.server_listener_name = "inside"
    return made


def option(key, value, append):
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=key, value=value),
        append=wrappers_pb2.BoolValue(value=append),
    )


def allowed():
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0),
        ok_response=external_auth_pb2.OkHttpResponse(
            headers=[
                option("x-latchkey-subject", "user:alice", False),
                option("x-seen-by", "latchkey", True),
            ],
            headers_to_remove=["x-latchkey-scopes", "authorization"],
            response_headers_to_add=[option("x-latchkey-token-expires-at", "2030-01-01T00:00:00Z", False)],
        ),
        dynamic_metadata=struct(reason="allowed", subject="user:alice", valid_for_ms=5000),
    )


def denied():
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=16, message="unknown"),
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=http_status_pb2.Unauthorized),
            headers=[option("www-authenticate", 'Bearer realm="latchkey"', False)],
            body='{"reason":"unknown"}',
        ),
        dynamic_metadata=struct(reason="unknown"),
    )


def more_than_we_send():
    """An answer of another server, with all that the trimmed definition leaves out."""
    made = external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0),
        ok_response=external_auth_pb2.OkHttpResponse(
            dynamic_metadata=struct(old=True),
            query_parameters_to_set=[base_pb2.QueryParameter(key="a", value="b")],
            query_parameters_to_remove=["access_token"],
            headers=[
                base_pb2.HeaderValueOption(
                    header=base_pb2.HeaderValue(key="x-raw", raw_value=b"\xff"),
                    append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS,
                    keep_empty_value=True,
                )
            ],
        ),
    )
    return made


def failed():
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=14),
        error_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable)
        ),
    )


def messages():
    return {
        "request_headers": request(headers=HEADERS),
        "request_header_map": request(header_map=raw(*RAW_HEADERS)),
        "request_proxyless": proxyless(),
        "request_over_a_pipe": over_a_pipe(),
        "response_allowed": allowed(),
        "response_denied": denied(),
        "response_more_than_we_send": more_than_we_send(),
        "response_failed": failed(),
    }


# What may differ, because the bytes do not: an enumeration may be read as the number that it is.
READ_AS = {(FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_INT32)}

WHOLE = {
    file.name: file
    for module in (address_pb2, base_pb2, attribute_context_pb2, external_auth_pb2, http_status_pb2)
    for file in [module.DESCRIPTOR]
}


def differences(trimmed, whole, name):
    """How a message of the trimmed definition differs from Envoy's, beside what it leaves out."""
    by_name = whole.fields_by_name
    for field in trimmed.field:
        theirs = by_name.get(field.name)
        path = f"{name}.{field.name}"
        if theirs is None:
            yield f"{path} is not Envoy's"
            continue
        if field.number != theirs.number:
            yield f"{path} is number {theirs.number}, not {field.number}"
        if field.type != theirs.type and (theirs.type, field.type) not in READ_AS:
            yield f"{path} is of type {theirs.type}, not {field.type}"
        if (field.label == field.LABEL_REPEATED) != theirs.is_repeated:
            yield f"{path} is repeated in one of the two"
        named = theirs.message_type.full_name if theirs.message_type else ""
        if field.type == field.TYPE_MESSAGE and field.type_name != f".{named}":
            yield f"{path} is a .{named}, not a {field.type_name}"
        ours_of = trimmed.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        theirs_of = theirs.containing_oneof.name if theirs.containing_oneof else None
        if ours_of != theirs_of:
            yield f"{path} is in the oneof {theirs_of}, not {ours_of}"
    for nested in trimmed.nested_type:
        theirs = whole.nested_types_by_name.get(nested.name)
        if theirs is None:
            yield f"{name}.{nested.name} is not Envoy's"
        else:
            yield from differences(nested, theirs, f"{name}.{nested.name}")


def methods(service):
    return {(m.name, m.input_type.full_name, m.output_type.full_name) for m in service.methods}


def compare(trimmed):
    seen = 0
    for file in trimmed.file:
        if not file.package.startswith("envoy."):
            continue
        whole = WHOLE.get(file.name)
        if whole is None:
            yield f"{file.name} is compared with nothing: add it to WHOLE"
            continue
        if file.package != whole.package:
            yield f"{file.name} has the package {whole.package}, not {file.package}"
        for message in file.message_type:
            seen += 1
            theirs = whole.message_types_by_name.get(message.name)
            if theirs is None:
                yield f"{file.package}.{message.name} is not Envoy's"
            else:
                yield from differences(message, theirs, theirs.full_name)
        for service in file.service:
            theirs = methods(whole.services_by_name[service.name])
            for method in service.method:
                if (method.name, method.input_type[1:], method.output_type[1:]) not in theirs:
                    yield f"{service.name}.{method.name} is not Envoy's"
    if seen == 0:
        yield "there is no message of Envoy's"
    print(f"{seen} messages compared")


def unknown(message):
    """How many fields of an answer are none of Envoy's, at any depth."""
    inner = (value for _, value in message.ListFields())
    count = len(UnknownFieldSet(message))
    for value in inner:
        if hasattr(value, "values") and not hasattr(value, "ListFields"):
            value = list(value.values())
        values = value if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
        count += sum(unknown(it) for it in values if hasattr(it, "ListFields"))
    return count


def questions(token):
    """The same token in every form in which it can come, and none."""
    bearer = f"Bearer {token}".encode()
    environment = ("x-environment", b"prod")
    less = proxyless()
    less.attributes.request.http.header_map.CopyFrom(raw(("authorization", bearer)))
    return {
        "headers": request(headers={"authorization": bearer.decode(), "x-environment": "prod"}),
        "header_map": request(header_map=raw(("authorization", bearer), environment)),
        "proxyless": less,
        "none": request(header_map=raw(environment, ("x-request-id", b"4f2c-1"))),
        "doubled": request(
            header_map=raw(("authorization", bearer), ("x-api-key", b"lku_1"), environment)
        ),
        "elsewhere": request(header_map=raw(("authorization", bearer), ("x-environment", b"test"))),
        "empty": external_auth_pb2.CheckRequest(),
    }


def ask(address, token):
    with grpc.insecure_channel(address) as channel:
        stub = external_auth_pb2_grpc.AuthorizationStub(channel)
        for name, question in questions(token).items():
            answer = stub.Check(question, timeout=30)
            told = json_format.MessageToDict(answer, preserving_proto_field_name=True)
            print(json.dumps({"asked": name, "unknown": unknown(answer), "answer": told}))


def main(arguments):
    match arguments:
        case ["write", folder]:
            for name, message in messages().items():
                bytes_ = message.SerializeToString(deterministic=True)
                pathlib.Path(folder, f"{name}.bin").write_bytes(bytes_)
        case ["compare"]:
            trimmed = descriptor_pb2.FileDescriptorSet.FromString(sys.stdin.buffer.read())
            found = list(compare(trimmed))
            sys.exit("\n".join(found) or None)
        case ["ask", address]:
            ask(address, sys.stdin.read())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
