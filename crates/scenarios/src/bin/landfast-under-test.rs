//! The product itself, built beside the scenarios so that they always run what is in the tree.

fn main() -> std::process::ExitCode {
    landfast::main()
}
