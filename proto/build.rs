//! Compiles `paxos/v1/*.proto` without a system `protoc`.

use std::{env, path::PathBuf};

use prost::Message as _;
use protox::{
    Compiler,
    file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver},
};

const FILES: [&str; 6] = [
    "paxos/v1/types.proto",
    "paxos/v1/acceptor.proto",
    "paxos/v1/proposer.proto",
    "paxos/v1/learner.proto",
    "paxos/v1/election.proto",
    "paxos/v1/snapshot.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=paxos");
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(PathBuf::from(".")));
    // The crate of the Rust types also holds google/rpc/status.proto, but names the file without a folder.
    let mut google_rpc = prost_types::FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    for file in google_rpc
        .file
        .iter_mut()
        .filter(|file| file.package() == "google.rpc")
    {
        file.name = Some(format!("google/rpc/{}", file.name()));
    }
    resolver.add(DescriptorSetFileResolver::new(google_rpc));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;

    // The same set feeds server reflection.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("paxos.v1.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .bytes(".paxos.v1")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .codec_path("crate::codec::ExactCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
