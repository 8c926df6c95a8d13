# The program in an image without a shell, run by a user that is nobody:
#
#   docker build -t latchkey:0.1.0 .
#
# The builder is Debian 12, and so is what it runs on: the program needs the C library that it was
# linked with, and nothing else. examples/compose and helm/ run it.
FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
# The settings of `dist` are those that the README's figures were measured with.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --bin latchkey \
    && install -D target/dist/latchkey /out/usr/local/bin/latchkey \
    && install -d -m 0700 /out/var/lib/latchkey
# A container has its own loopback: what it serves has to be on all its addresses. As a file, which
# gives way to whoever brings one (--config) or sets a variable.
RUN install -d /out/etc/latchkey \
    && printf '%s\n' \
        'listen.addr = "0.0.0.0:7421"' \
        'admin.addr = "0.0.0.0:7422"' \
        'store.data_dir = "/var/lib/latchkey/data"' \
        >/out/etc/latchkey/latchkey.toml

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="latchkey" \
      org.opencontainers.image.description="A token authority: issues, checks and revokes bearer tokens over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=builder /out/usr/local/bin/latchkey /usr/local/bin/latchkey
# The data directory of the embedded store, for who mounts no volume there.
COPY --from=builder --chown=65532:65532 /out/var/lib/latchkey /var/lib/latchkey
COPY --from=builder /out/etc/latchkey /etc/latchkey
# It starts with a certificate (tls.cert_file), or when told that something else encrypts
# (listen.plain_text), and Check asks its callers for a token.
ENV LATCHKEY_CONFIG=/etc/latchkey/latchkey.toml
# A number, by which Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 7421 7422
# In plain text at 127.0.0.1:7421; with a certificate say so: LATCHKEY_ADDR=https://127.0.0.1:7421,
# LATCHKEY_CA_FILE, LATCHKEY_SERVER_NAME (a name of the certificate), and where clients have to show
# one LATCHKEY_CERT_FILE and LATCHKEY_CERT_KEY_FILE.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/latchkey", "health"]
# It drains on SIGTERM; give it more than limits.drain_time_max (10 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/latchkey"]
CMD ["serve"]
