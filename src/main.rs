//! The binary: everything is in [`relaypacs::cli`].

/// A quarter of the processor time of small objects went into the C library's allocator
/// (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    relaypacs::cli::main()
}
