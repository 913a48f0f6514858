# The images of ImCluster's programs: docker build --target connect (or logic, operator, imctl) --tag imcluster/connect:0.1.0 .
# BUILDER compiles; it needs Rust's toolchain on the Debian that the libraries are to come from. BASE is what the final
# images begin with: nothing, as they hold all that the programs need; give one with a shell to look around in a pod.
ARG BUILDER=rust:1.95-bookworm
ARG BASE=scratch

FROM ${BUILDER} AS build
WORKDIR /build
COPY . .
# What the programs say about themselves; the release is that of Cargo.toml unless given here.
ARG IM_BUILD_VERSION
ARG IM_BUILD_COMMIT
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    export ${IM_BUILD_VERSION:+IM_BUILD_VERSION="$IM_BUILD_VERSION"} ${IM_BUILD_COMMIT:+IM_BUILD_COMMIT="$IM_BUILD_COMMIT"} && \
    cargo build --locked --profile dist -p im-connect -p im-logic -p im-operator -p imctl -p im-bench && \
    for program in im-connect im-logic im-operator imctl; do tools/image-tree "target/dist/$program" "/images/$program"; done && \
    tools/image-tree target/dist/im-bench /images/imctl

FROM ${BASE} AS connect
COPY --from=build /images/im-connect /
USER 65532:65532
# clients over TCP, clients over WebSocket, logic over gRPC, health and metrics
EXPOSE 3101 3102 3109 9100
ENTRYPOINT ["/usr/local/bin/im-connect"]

FROM ${BASE} AS logic
COPY --from=build /images/im-logic /
USER 65532:65532
# the HTTP API, connect over gRPC, health and metrics
EXPOSE 3111 3119 9100
ENTRYPOINT ["/usr/local/bin/im-logic"]

FROM ${BASE} AS operator
COPY --from=build /images/im-operator /
USER 65532:65532
EXPOSE 9100
ENTRYPOINT ["/usr/local/bin/im-operator"]
CMD ["run"]

FROM ${BASE} AS imctl
COPY --from=build /images/imctl /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/imctl"]
