//! The Rust code and descriptor sets that are made from the proto files and committed beside the code that uses them,
//! so that no package has a build script. `cargo run --bin generate-protos` writes them, a test compares.

use std::{fs, path::Path};

use anyhow::Context;

/// One proto file, and what is generated from it where.
struct Contract {
    /// Include directory and file, from the repository's root.
    proto: (&'static str, &'static str),
    outputs: &'static [Output],
}

struct Output {
    directory: &'static str,
    /// The name tonic gives the file: the proto package, `_` where there is none.
    generated: &'static str,
    /// The name it is committed under.
    name: &'static str,
    client: bool,
    server: bool,
    descriptors: bool,
    codec: &'static str,
}

const PROST: &str = "tonic_prost::ProstCodec";
const EXACT: &str = "crate::exact_codec::ExactCodec";

const CONTRACTS: &[Contract] = &[
    Contract {
        proto: ("verifier/proto", "workload.proto"),
        outputs: &[
            Output {
                directory: "verifier/src/generated",
                generated: "_.rs",
                name: "workload",
                client: true,
                server: false,
                descriptors: false,
                codec: PROST,
            },
            Output {
                directory: "agent/src/generated",
                generated: "_.rs",
                name: "workload",
                client: true,
                server: true,
                descriptors: true,
                codec: EXACT,
            },
        ],
    },
    Contract {
        proto: ("verifier/proto", "local.proto"),
        outputs: &[Output {
            directory: "agent/src/generated",
            generated: "bonafide.local.v1.rs",
            name: "local",
            client: true,
            server: true,
            descriptors: true,
            codec: PROST,
        }],
    },
    Contract {
        proto: ("verifier/proto", "tokens.proto"),
        outputs: &[
            Output {
                directory: "verifier/src/generated",
                generated: "bonafide.tokens.v1.rs",
                name: "tokens",
                client: true,
                server: false,
                descriptors: false,
                codec: PROST,
            },
            Output {
                directory: "agent/src/generated",
                generated: "bonafide.tokens.v1.rs",
                name: "tokens",
                client: true,
                server: true,
                descriptors: true,
                codec: PROST,
            },
        ],
    },
    Contract {
        proto: ("ca/api/proto", "node.proto"),
        outputs: &[Output {
            directory: "ca/api/src/generated",
            generated: "bonafide.node.v1.rs",
            name: "node",
            client: true,
            server: true,
            descriptors: true,
            codec: PROST,
        }],
    },
    Contract {
        proto: ("ca/api/proto", "admin.proto"),
        outputs: &[Output {
            directory: "ca/api/src/generated",
            generated: "bonafide.admin.v1.rs",
            name: "admin",
            client: true,
            server: true,
            descriptors: true,
            codec: PROST,
        }],
    },
    Contract {
        proto: ("examples/proto", "settings.proto"),
        outputs: &[Output {
            directory: "examples/src/generated",
            generated: "bonafide.examples.settings.v1.rs",
            name: "settings",
            client: true,
            server: true,
            descriptors: true,
            codec: PROST,
        }],
    },
];

/// Generates everything; returns the files that differed from what was there. With `check`, writes none.
///
/// # Errors
/// A proto file that does not compile, a file that cannot be written.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<Vec<String>> {
    let mut stale = Vec::new();
    for contract in CONTRACTS {
        let (include, file) = contract.proto;
        let include = root.join(include);
        let descriptors =
            protox::compile([include.join(file)], [&include]).with_context(|| format!("compiling {file}"))?;
        for output in contract.outputs {
            let scratch = tempfile::tempdir()?;
            let mut files = Vec::new();
            tonic_prost_build::configure()
                .build_client(output.client)
                .build_server(output.server)
                .build_transport(false)
                .codec_path(output.codec)
                .out_dir(scratch.path())
                .compile_fds(descriptors.clone())?;
            files.push((format!("{}.rs", output.name), fs::read(scratch.path().join(output.generated))?));
            if output.descriptors {
                files.push((format!("{}.bin", output.name), prost::Message::encode_to_vec(&descriptors)));
            }
            for (name, bytes) in files {
                let path = root.join(output.directory).join(&name);
                if fs::read(&path).ok().as_deref() != Some(&bytes) {
                    stale.push(format!("{}/{name}", output.directory));
                    if !check {
                        fs::create_dir_all(root.join(output.directory))?;
                        fs::write(&path, bytes)?;
                    }
                }
            }
        }
    }
    Ok(stale)
}
