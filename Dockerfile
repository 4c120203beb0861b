# The image of the server: docs/operations.md, "The image".

FROM docker.io/library/rust:1.95-slim-trixie AS build
WORKDIR /source
# Writes the list of what is inside. Before the sources, so that it is built once.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked --version 0.5.9 cargo-cyclonedx
COPY . .
# The registry and what was compiled stay in caches: a change compiles its own crate and what is on top of it. There is no
# debugger in the image that would look for lines.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    CARGO_PROFILE_DIST_DEBUG=0 cargo build --profile dist --locked --bin taskflow \
    && deploy/image-root target/dist/taskflow /image \
    && cargo cyclonedx --format json --override-filename bom \
    && install -D -m 644 bom.json /image/usr/share/doc/taskflow/sbom.cdx.json \
    && mkdir /data

# Nothing but what is in /image: no shell, no package manager, no base to keep up with.
FROM scratch
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /data /data
ENV TASKFLOW_DATA_DIR=/data \
    TASKFLOW_LISTEN=0.0.0.0:8080 \
    TASKFLOW_OPERATOR_LISTEN=0.0.0.0:9464
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["/usr/local/bin/taskflow", "health"]
ENTRYPOINT ["/usr/local/bin/taskflow"]
CMD ["serve"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TaskFlow" \
      org.opencontainers.image.description="A real-time collaboration server for tasks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/taskflow/taskflow" \
      org.opencontainers.image.documentation="https://github.com/taskflow/taskflow/blob/main/docs/operations.md#the-image" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
