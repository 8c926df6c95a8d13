"""Uses the API as a stranger would: by reflection alone, with Python's grpcio."""

import pathlib
import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


class Service:
    """A service whose methods are found by reflection."""

    def __init__(self, channel, pool, name):
        self.channel = channel
        self.descriptor = pool.FindServiceByName(name)

    def _method(self, name):
        method = self.descriptor.FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        path = f"/{self.descriptor.full_name}/{name}"
        return path, request, response

    def call(self, method, metadata=(), **fields):
        path, request, response = self._method(method)
        call = self.channel.unary_unary(
            path, request.SerializeToString, response.FromString
        )
        return call(request(**fields), metadata=metadata, timeout=5)

    def stream(self, method, requests):
        path, request, response = self._method(method)
        call = self.channel.stream_stream(
            path, request.SerializeToString, response.FromString
        )
        return list(call((request(**fields) for fields in requests), timeout=5))


def main():
    address, token = sys.argv[1], sys.stdin.read().strip()
    bearer = (("authorization", f"Bearer {token}"),)
    if sys.argv[2:]:
        # The authorities to believe, and the key and the certificate to show.
        files = [pathlib.Path(name).read_bytes() for name in sys.argv[2:]]
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))
    else:
        channel = grpc.insecure_channel(address)
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    tokens = Service(channel, pool, "latchkey.v1.TokenService")
    checks = Service(channel, pool, "latchkey.v1.CheckService")
    said = []

    issued = tokens.call(
        "IssueToken",
        bearer,
        kind=3,
        resource="acme/web",
        scopes={"only": {"scopes": ["secrets:read@acme/web/**"]}},
        name="python",
        reason="try it",
    )

    def need(resource):
        return {
            "token": issued.secret,
            "needs": [{"action": "secrets:read", "resource": resource}],
        }

    said.append("allowed" if checks.call("Check", **need("acme/web/db")).allowed else "?")
    said.append("?" if checks.call("Check", **need("acme/api")).allowed else "denied")
    answers = checks.stream(
        "StreamCheck",
        ({"id": n, "check": need("acme/web" if n % 2 else "acme/api")} for n in range(100)),
    )
    in_order = [answer.id for answer in answers] == list(range(100))
    right = all(answer.check.allowed == (answer.id % 2 == 1) for answer in answers)
    said.append("streamed" if in_order and right else "?")
    tokens.call("RevokeToken", bearer, token_id=issued.token.token_id, reason="tried it")
    said.append("?" if checks.call("Check", **need("acme/web/db")).allowed else "revoked")
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    said.append("healthy" if health.status == health_pb2.HealthCheckResponse.SERVING else "?")
    print(", ".join(said))


if __name__ == "__main__":
    main()
