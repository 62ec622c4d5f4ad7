//! The binary: everything is in [`relaypacs::cli`].

/// Small objects of many threads, for weeks: glibc's arenas grow by that (docs/decisions/0008-the-allocator.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    relaypacs::cli::main()
}
