//! The `latchkey` program: parses the command line, runs one command, and exits with its code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// The index allocates and frees small nodes by the million; the system's allocator fragments.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    latchkey::cli::main()
}
