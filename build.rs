//! Compiles every interface definition under `proto/` without an installed protoc.
//!
//! Two passes. The first generates Rust code for all packages, public and internal.
//! The second writes the descriptors that reflection serves: those of the public
//! packages alone, so that the format of the log stays out of it.
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

/// Where the internal packages are, seen from the root.
const INTERNAL: &str = "latchkey/log";

/// The messages, or whole packages, that get no derived `Debug`.
const SECRET: [&str; 6] = [
    ".latchkey.v1.CheckRequest",
    ".latchkey.v1.IssueTokenResponse",
    ".latchkey.v1.RotateTokenResponse",
    ".latchkey.v1.RevokeTokenRequest",
    ".latchkey.v1.ExplainRequest",
    ".latchkey.log.v1",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    // The order of a directory differs between machines; the output must not.
    files.sort();

    let mut all = Compiler::new([ROOT])?;
    all.include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .skip_debug(SECRET)
        // Bodies and repeated requests are hashed: a map is written in the order of its keys.
        .btree_map(".latchkey.log.v1")
        .btree_map(".latchkey.v1")
        .compile_fds(all.file_descriptor_set())?;

    let internal = Path::new(ROOT).join(INTERNAL);
    let public = files.iter().filter(|file| !file.starts_with(&internal));
    let mut served = Compiler::new([ROOT])?;
    served
        .include_imports(true)
        .include_source_info(true)
        .open_files(public)?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("latchkey_descriptor.bin"),
        served.encode_file_descriptor_set(),
    )?;
    Ok(())
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
