//! The `landfast` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    landfast::main()
}
