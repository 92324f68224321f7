# One image with every binary of paxos. `docker build .` needs nothing but the two images named below, and crates.io.

FROM rust:1.95-bookworm AS context
COPY . /sources
# Manifests name these files, and the image needs none of them: empty, they can change without a build.
RUN find /sources -type f -regex '.*/\(tests\|testing/src\|benches\|examples\)/.*' -exec truncate --size=0 {} +
# The workspace with empty crates: this layer changes only when dependencies change.
RUN cp -r /sources /skeleton && cd /skeleton \
    && find . -type f ! -name '*.rs' ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' -delete \
    && find . -type f -path '*/src/*' ! -path '*/src/lib.rs' ! -path '*/src/main.rs' -delete \
    && echo 'fn main() {}' > /empty.rs && find . -type f -name '*.rs' -exec cp /empty.rs {} \;
# Marks the layers that builds leave behind: see .ci/run.
LABEL paxos.left-behind=true

FROM rust:1.95-bookworm AS build
# A profile of Cargo.toml. Tests take an image of the profile `quick`.
ARG PROFILE=release
WORKDIR /paxos
COPY --from=context /skeleton .
RUN cargo build --profile "$PROFILE" --locked --bins
COPY --from=context /sources .
# Cargo compares times, and the sources are older than the build of the empty crates.
RUN find . -type f -name '*.rs' -exec touch {} + && cargo build --profile "$PROFILE" --locked --bins
RUN mkdir built && for name in acceptor proposer learner paxos; do cp "target/$PROFILE/$name" built/ || exit 1; done
RUN cd built && ./paxos man share/man/man1 \
    && for script in bash:bash-completion/completions/paxos zsh:zsh/vendor-completions/_paxos \
        fish:fish/vendor_completions.d/paxos.fish; do \
        file=share/${script#*:} && mkdir -p "${file%/*}" && ./paxos completions "${script%%:*}" > "$file" || exit 1; done
LABEL paxos.left-behind=true

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="paxos" \
      org.opencontainers.image.description="Paxos with separate roles: acceptor, proposer, learner, and the client paxos" \
      org.opencontainers.image.licenses="Apache-2.0"
# A volume that is mounted at /data, or below /tls, for the first time takes over its owner.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin paxos \
    && install --directory --owner=paxos --group=paxos --mode=0700 /data /tls /tls/acceptor /tls/proposer \
        /tls/learner /tls/client /tls/operator
COPY --from=build /paxos/built/acceptor /paxos/built/proposer \
     /paxos/built/learner /paxos/built/paxos /usr/local/bin/
# The certificates that clients of TLS trust: for a collector at https://.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# Manual pages, and scripts with which bash, zsh and fish complete.
COPY --from=build /paxos/built/share /usr/share
USER 10001:10001
WORKDIR /data
EXPOSE 7001 7101 7201 8001 8101 8201
STOPSIGNAL SIGTERM
CMD ["paxos", "help"]
