//! Compiles every interface definition under `proto/` without an installed protoc.
//!
//! Three passes. The first generates Rust code for Latchkey's packages, public and
//! internal, and the second for the part of Envoy's API that is served, whose server is
//! written by hand. The third writes the descriptors that reflection serves: those of the
//! public packages alone, so that the format of the log stays out of it.
//!
//! Absent on purpose: a derived `Debug` for what carries a secret or a digest;
//! `src/proto.rs` writes those of the public API by hand.

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use protox::Compiler;

/// The root that imports are resolved against.
const ROOT: &str = "proto";

/// Where our own packages are, seen from the root.
const OURS: &str = "latchkey";
/// And the internal ones among them.
const INTERNAL: &str = "latchkey/log";

/// The messages, or whole packages, that get no derived `Debug`.
const SECRET: [&str; 9] = [
    ".latchkey.v1.CheckRequest",
    ".latchkey.v1.IssueTokenResponse",
    ".latchkey.v1.RotateTokenResponse",
    ".latchkey.v1.RevokeTokenRequest",
    ".latchkey.v1.ExplainRequest",
    ".latchkey.v1.LoginRequest",
    ".latchkey.v1.AccessToken",
    ".latchkey.v1.CreateClientSecretResponse",
    ".latchkey.log.v1",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    // The order of a directory differs between machines; the output must not.
    files.sort();

    let ours = Path::new(ROOT).join(OURS);
    let (ours, foreign): (Vec<&PathBuf>, _) =
        files.iter().partition(|file| file.starts_with(&ours));
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .skip_debug(SECRET)
        // Bodies and repeated requests are hashed: a map is written in the order of its keys.
        .btree_map(".latchkey.log.v1")
        .btree_map(".latchkey.v1")
        .compile_fds(described(ours)?.file_descriptor_set())?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(described(foreign)?.file_descriptor_set())?;

    let internal = Path::new(ROOT).join(INTERNAL);
    let public = files.iter().filter(|file| !file.starts_with(&internal));
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("latchkey_descriptor.bin"),
        described(public)?.encode_file_descriptor_set(),
    )?;
    Ok(())
}

/// These files and what they import, with their comments.
fn described<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<Compiler, protox::Error> {
    let mut compiler = Compiler::new([ROOT])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?;
    Ok(compiler)
}

/// Adds every `.proto` file at or below `directory` to `files`.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}
