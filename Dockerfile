# One binary, no shell needed, a user without a name or rights, and one folder that is written to.
#
#   docker build -t sidekey .
#   docker run --read-only --cap-drop ALL -v sidekey:/var/lib/sidekey --network container:my-workflows sidekey

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# What the release build is laid out by.
COPY .cargo .cargo
COPY scripts/rustc scripts/rustc
COPY benches/profile benches/profile
COPY config config
COPY src src
RUN cargo build --release --locked --bin sidekey
# A volume takes its owner from the folder it is mounted over, and a folder cannot be made in the second stage.
RUN install -d -m 0700 -o 65532 -g 65532 /state

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /state /var/lib/sidekey
COPY --from=build /build/target/release/sidekey /usr/local/bin/sidekey
# The vault, the master key and admin.key are made here; everything else can be read-only.
WORKDIR /var/lib/sidekey
VOLUME /var/lib/sidekey
USER 65532:65532
# The proxy port and the admin port. Both stay on loopback unless the configuration says otherwise.
EXPOSE 7878 7879
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["sidekey", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sidekey"]
CMD ["serve"]
