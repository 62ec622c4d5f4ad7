//! The binary: everything is in [`relaypacs::cli`].

fn main() -> std::process::ExitCode {
    relaypacs::cli::main()
}
